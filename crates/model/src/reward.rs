use evalign_core::{Message, Prompt, Role};
use evalign_lm::LanguageModel;

use crate::error::ModelError;

/// What a reward model says about answers.
#[derive(Clone, Debug, PartialEq)]
pub struct Rewards {
    /// Of each answer; `None` where it and its prompt are longer than the context.
    pub values: Vec<Option<f64>>,
    /// Tokens that were read.
    pub tokens: u64,
}

/// A model that says how good answers are.
pub trait RewardModel: Send + Sync {
    /// The reward of each answer behind its prompt.
    ///
    /// # Errors
    /// A conversation that the model has no template for, or computing fails.
    fn rewards(&self, answers: &[(Prompt, String)]) -> Result<Rewards, ModelError>;
}

/// Texts are what training a reward model makes of them: a conversation in the chat template, or plain text that ends in
/// the end-of-text token; the reward is read where it was in training.
pub(crate) fn rewards(model: &LanguageModel, answers: &[(Prompt, String)]) -> Result<Rewards, ModelError> {
    let mut texts = Vec::new();
    let mut fits = Vec::with_capacity(answers.len());
    for (prompt, answer) in answers {
        let ids = encode(model, prompt, answer)?;
        fits.push(!ids.is_empty() && ids.len() <= model.identity().context_length);
        if fits.last() == Some(&true) {
            let place = evalign_lm::pooled_index(&ids, model.reward_pad());
            texts.push((ids, place));
        }
    }
    let mut rewards = model.rewards(&texts)?.into_iter();
    let value = |fits| if fits { rewards.next().map(f64::from) } else { None };
    Ok(Rewards {
        values: fits.into_iter().map(value).collect(),
        tokens: texts.iter().map(|(ids, _)| ids.len() as u64).sum(),
    })
}

fn encode(model: &LanguageModel, prompt: &Prompt, answer: &str) -> Result<Vec<u32>, ModelError> {
    let tokenizer = model.tokenizer();
    Ok(match prompt {
        Prompt::Text(prompt) => {
            let end = tokenizer.eos_text().filter(|end| !answer.ends_with(end)).unwrap_or_default();
            tokenizer.encode(&format!("{prompt}{answer}{end}"), true)?
        }
        Prompt::Chat(messages) => {
            let template = model.chat_template().ok_or_else(|| ModelError::Unsupported {
                model: "the reward model".to_owned(),
                what: "has no chat template".to_owned(),
                hint: Some("ask without one: `--no-chat-template`".to_owned()),
            })?;
            let answer = Message { role: Role::Assistant, content: answer.to_owned() };
            let whole: Vec<Message> = messages.iter().cloned().chain([answer]).collect();
            tokenizer.encode(&template.render(&whole, false)?, false)?
        }
    })
}
