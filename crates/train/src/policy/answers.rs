use std::ops::ControlFlow;

use evalign_core::GenerateParams;
use evalign_lm::{Event, GenerateItem};

use super::Policy;
use crate::{Answer, TrainError};

/// Tokens of an answer, at most.
const ANSWER_TOKENS: u32 = 96;

impl Policy {
    /// What the model, as it is now, answers to these prompts: greedily, so that only training makes answers differ.
    ///
    /// # Errors
    /// Computing fails.
    pub fn answers_to(&self, prompts: &[Vec<u32>]) -> Result<Vec<Answer>, TrainError> {
        let params =
            GenerateParams { max_tokens: ANSWER_TOKENS, temperature: 0.0, ..GenerateParams::default() };
        let stop_ids = self.model.tokenizer().eos_ids().to_vec();
        let item = |prompt: &Vec<u32>| GenerateItem {
            prompt: prompt.clone(),
            params: params.clone(),
            stop_ids: stop_ids.clone(),
        };
        let items: Vec<GenerateItem> = prompts.iter().map(item).collect();
        let mut answers = vec![Answer::default(); items.len()];
        self.model.generate(&items, &mut |event| {
            // An answer that cannot be given is shown as none.
            if let Event::Done(index, Ok(answered)) = event {
                answers[index] = Answer { tokens: answered.ids.len(), text: answered.text };
            }
            ControlFlow::Continue(())
        })?;
        Ok(answers)
    }
}
