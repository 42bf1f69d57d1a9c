//! Texts to ids, and which of them are trained: TRL 1.16's rules (`_prepare_dataset` of each trainer).
//!
//! A prompt and the prompt with its completion are tokenised apart, and the completion starts where the two
//! lists of ids first differ: what the tokeniser merged over the boundary belongs to the completion.

use std::ops::Range;

use evalign_core::{Message, Prompt, Role};
use evalign_lm::{ChatTemplate, LmError, Tokenizer};

use super::example::Misfit;
use crate::Sequence;

/// How texts become ids.
#[derive(Debug)]
pub(super) struct Tokeniser<'a> {
    pub(super) tokenizer: &'a Tokenizer,
    pub(super) template: Option<&'a ChatTemplate>,
    /// Only what the assistant says is trained.
    pub(super) assistant_only: bool,
    /// The assistant's words are those that the template marks, where it marks any (TRL's rule); otherwise, and
    /// always without this, they are found by rendering turn after turn.
    pub(super) by_marks: bool,
}

/// Ids of prompts and completions, cut where they part.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Cut {
    /// Tokens of the prompt that all texts start with.
    pub(super) prompt_tokens: usize,
    pub(super) end: PromptEnd,
}

/// Whether the tokenised prompt ends where the completion begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum PromptEnd {
    Kept,
    /// Its last tokens merge with the completion's first.
    Merged,
    /// The chat template does not render it as the beginning of the whole conversation.
    RenderedApart,
}

/// Why a text could not be tokenised.
#[derive(Debug)]
pub(super) enum Failed {
    Row(Misfit),
    Model(LmError),
}

impl From<LmError> for Failed {
    fn from(error: LmError) -> Self {
        match error {
            // The template refuses this conversation, or this text cannot be encoded: that is the row's matter.
            LmError::ChatTemplate(problem) => Self::Row(Misfit::new(
                "messages",
                format!("the chat template cannot render it: {problem}"),
                "correct the conversation, or give another model's template with `--chat-template-path`",
            )),
            other => Self::Model(other),
        }
    }
}

impl From<Misfit> for Failed {
    fn from(misfit: Misfit) -> Self {
        Self::Row(misfit)
    }
}

impl Tokeniser<'_> {
    fn template(&self) -> Result<&ChatTemplate, Failed> {
        self.template.ok_or_else(|| {
            Failed::Row(Misfit::new(
                "messages",
                "is a conversation, and the model has no chat template",
                "train an instruct model, give a template with `--chat-template-path`, or write plain strings",
            ))
        })
    }

    /// The text with the end-of-text token that TRL adds to strings that do not end in it.
    fn with_eos(&self, text: &str) -> Result<String, Failed> {
        let eos = self.tokenizer.eos_text().ok_or_else(|| {
            Failed::Row(Misfit::new(
                "completion",
                "has to end in the end-of-text token, and the tokeniser names none",
                "set `eos_token` in the model's tokenizer_config.json",
            ))
        })?;
        Ok(if text.ends_with(eos) { text.to_owned() } else { format!("{text}{eos}") })
    }

    /// Ids of a prompt alone, as the model sees it before it answers.
    pub(super) fn prompt(&self, prompt: &Prompt) -> Result<Vec<u32>, Failed> {
        Ok(match prompt {
            Prompt::Text(text) => self.tokenizer.encode(text, true)?,
            Prompt::Chat(messages) => {
                let text = self.template()?.render(messages, true)?;
                self.tokenizer.encode(&text, false)?
            }
        })
    }

    /// Ids of a whole text, a completion behind its prompt. An end-of-text token is added to strings.
    pub(super) fn whole(&self, prompt: Option<&Prompt>, completion: &Prompt) -> Result<Vec<u32>, Failed> {
        let ended = match completion {
            Prompt::Text(text) => &Prompt::Text(self.with_eos(text)?),
            Prompt::Chat(_) => completion,
        };
        Ok(match joined(prompt, ended) {
            Prompt::Text(text) => self.tokenizer.encode(&text, true)?,
            Prompt::Chat(messages) => {
                let text = self.template()?.render(&messages, false)?;
                self.tokenizer.encode(&text, false)?
            }
        })
    }

    /// Where the ids of whole texts part from those of their prompt; each with its completion.
    pub(super) fn cut(&self, prompt: &Prompt, wholes: &[(&Prompt, &[u32])]) -> Result<Cut, Failed> {
        let ids = self.prompt(prompt)?;
        let prompt_tokens = common_tokens(&ids, &wholes.iter().map(|(_, whole)| *whole).collect::<Vec<_>>());
        if prompt_tokens == ids.len() {
            return Ok(Cut { prompt_tokens, end: PromptEnd::Kept });
        }
        for (completion, _) in wholes {
            if !self.renders_beginning(prompt, completion)? {
                return Ok(Cut { prompt_tokens, end: PromptEnd::RenderedApart });
            }
        }
        Ok(Cut { prompt_tokens, end: PromptEnd::Merged })
    }

    /// Strings begin with what they begin with; of conversations the template decides.
    fn renders_beginning(&self, prompt: &Prompt, completion: &Prompt) -> Result<bool, Failed> {
        match (prompt, joined(Some(prompt), completion)) {
            (Prompt::Chat(beginning), Prompt::Chat(whole)) => {
                let template = self.template()?;
                Ok(template.render(&whole, false)?.starts_with(&template.render(beginning, true)?))
            }
            _ => Ok(true),
        }
    }

    /// Ids of a whole conversation, and of each whether the assistant says it.
    fn conversation(&self, messages: &[Message]) -> Result<(Vec<u32>, Vec<bool>), Failed> {
        let template = self.template()?;
        let (text, spans) = if self.by_marks && template.marks_generation() {
            template.render_marked(messages)?
        } else {
            self.assistant_spans(template, messages)?
        };
        let (ids, offsets) = self.tokenizer.encode_with_offsets(&text)?;
        let said =
            |token: &Range<usize>| spans.iter().any(|span| token.start < span.end && token.end > span.start);
        Ok((ids, offsets.iter().map(said).collect()))
    }

    /// The assistant's words, found by rendering the conversation up to each of its turns: independent of how
    /// the template is written, but it has to render a beginning of the conversation as the beginning of its
    /// text.
    fn assistant_spans(
        &self,
        template: &ChatTemplate,
        messages: &[Message],
    ) -> Result<(String, Vec<Range<usize>>), Failed> {
        let text = template.render(messages, false)?;
        let mut spans = Vec::new();
        for (index, message) in messages.iter().enumerate() {
            if message.role != Role::Assistant {
                continue;
            }
            let before =
                if index == 0 { String::new() } else { template.render(&messages[..index], true)? };
            let after = template.render(&messages[..=index], false)?;
            if !text.starts_with(&before) || !text.starts_with(&after) || after.len() < before.len() {
                return Err(Failed::Row(Misfit::new(
                    "messages",
                    format!(
                        "the chat template does not render the turns up to message {index} as the beginning of the \
                         conversation, so what the assistant says in it cannot be told"
                    ),
                    "split the conversation after each answer into `prompt` and `completion`, or train on everything \
                     (without `--assistant-only-loss`)",
                )));
            }
            spans.push(before.len()..self.end_of_turn(&after));
        }
        Ok((text, spans))
    }

    /// Where a turn ends: behind its end-of-turn token, without the line break that separates turns.
    fn end_of_turn(&self, rendered: &str) -> usize {
        let trimmed = rendered.trim_end();
        let mut ends = self.tokenizer.eos_ids().iter().filter_map(|id| self.tokenizer.id_to_token(*id));
        if ends.any(|end| trimmed.ends_with(&end)) { trimmed.len() } else { rendered.len() }
    }

    /// A text of language modelling: everything is trained, or what the assistant says.
    pub(super) fn language(&self, text: &Prompt) -> Result<Sequence, Failed> {
        match text {
            Prompt::Chat(messages) if self.assistant_only => {
                let (ids, trained) = self.conversation(messages)?;
                if !trained.contains(&true) {
                    return Err(Failed::Row(Misfit::new(
                        "messages",
                        "the assistant says nothing in it",
                        "leave the row out, or train on everything (without `--assistant-only-loss`)",
                    )));
                }
                Ok(Sequence { ids, trained })
            }
            _ => Ok(Sequence::new(self.whole(None, text)?, 0)),
        }
    }

    /// A prompt with its completion. `completion_only`: the prompt is not trained.
    pub(super) fn completion(
        &self,
        prompt: &Prompt,
        completion: &Prompt,
        completion_only: bool,
    ) -> Result<(Sequence, Cut), Failed> {
        let whole = self.whole(Some(prompt), completion)?;
        let cut = self.cut(prompt, &[(completion, &whole)])?;
        let mut sequence = Sequence::new(whole, if completion_only { cut.prompt_tokens } else { 0 });
        if self.assistant_only
            && let Prompt::Chat(messages) = joined(Some(prompt), completion)
        {
            let (_, said) = self.conversation(&messages)?;
            for (trained, said) in sequence.trained.iter_mut().zip(said) {
                *trained &= said;
            }
        }
        Ok((sequence, cut))
    }
}

/// Where texts part from their tokenised prompt: the smallest of the common prefixes.
pub(super) fn common_tokens(prompt: &[u32], wholes: &[&[u32]]) -> usize {
    let common = |whole: &&[u32]| prompt.iter().zip(*whole).take_while(|(one, other)| one == other).count();
    wholes.iter().map(common).min().unwrap_or(0)
}

fn joined(prompt: Option<&Prompt>, completion: &Prompt) -> Prompt {
    match (prompt, completion) {
        (Some(Prompt::Text(prompt)), Prompt::Text(completion)) => {
            Prompt::Text(format!("{prompt}{completion}"))
        }
        (Some(Prompt::Chat(prompt)), Prompt::Chat(completion)) => {
            Prompt::Chat(prompt.iter().chain(completion).cloned().collect())
        }
        // The reader of rows lets nothing mixed pass.
        _ => completion.clone(),
    }
}
