//! Answers that a model writes, held against the sources claim by claim.

use std::sync::Arc;

use evalign_core::{
    AnswerForm, Digest, GenerateParams, Message, Output, Prompt, Request, RequestKind, Response,
    ResponseFormat, Role, SampleKey,
};
use evalign_model::{Model, ModelError, Update};
use minijinja::{Environment, context};

use super::aloud::Claims;
use super::{Answer, AnswerOptions, Answerer, Hear};
use crate::citation::Sources;
use crate::evidence::Evidence;
use crate::pack::pack;
use crate::{Chunk, RagError};

/// What the model is told to say where the sources do not answer.
const REFUSAL: &str = "The sources do not say.";

const SYSTEM: &str = include_str!("../../../../prompts/rag/system.j2");
const QUESTION: &str = include_str!("../../../../prompts/rag/question.j2");

/// What a model writes from, and who hears it, if anybody does.
pub(super) struct Writing<'w, 's, 'h> {
    pub(super) chunks: &'w [Chunk],
    pub(super) evidence: &'w [Evidence],
    pub(super) options: &'w AnswerOptions,
    pub(super) sources: &'w mut Sources<'s>,
    pub(super) hear: Option<&'w mut Hear<'h>>,
}

impl Answerer<'_> {
    pub(super) async fn generate(
        &self,
        model: &Arc<dyn Model>,
        answer: &mut Answer,
        writing: Writing<'_, '_, '_>,
    ) -> Result<(), RagError> {
        let Writing { chunks, evidence, options, sources, hear } = writing;
        let count = |text: &str| self.embedder.count_tokens(text);
        let packed = pack(chunks, evidence, options.context_tokens, &count);
        let shown: Vec<&Chunk> = packed.iter().map(|index| &chunks[*index]).collect();
        let prompt = prompt(&answer.question, &shown, &model.special_tokens())?;
        let usable = evidence.iter().filter(|evidence| packed.contains(&evidence.chunk)).collect();
        let mut claims = Claims::new(self.embedder, usable, sources);
        let max_tokens = options.max_answer_tokens;
        let text = match hear {
            Some(hear) => write_aloud(model, prompt, max_tokens, &mut claims, hear).await?,
            None => ask(model, prompt, max_tokens).await?,
        };
        if text.is_empty() || refuses(&text) {
            answer.abstained = Some("the model did not find the answer in the sources".to_owned());
            return Ok(());
        }
        answer.claims = claims.of(&text).await?;
        // What the sources do not say is told apart, and is no part of the answer.
        let supported: Vec<&str> =
            answer.claims.iter().filter(|claim| claim.supported).map(|claim| claim.text.as_str()).collect();
        match supported.is_empty() {
            true => {
                answer.abstained = Some("nothing that the model wrote stands in the sources".to_owned());
            }
            false => answer.text = Some(supported.join(" ")),
        }
        Ok(())
    }
}

/// Whether a model says that it found nothing.
pub(super) fn refuses(text: &str) -> bool {
    text.to_lowercase().contains(&REFUSAL.to_lowercase())
}

fn prompt(question: &str, chunks: &[&Chunk], special: &[String]) -> Result<Prompt, RagError> {
    let sources: Vec<String> = chunks.iter().map(|chunk| defused(&chunk.text, special)).collect();
    // Nobody who wrote a document can know it, so no document can close its own fence.
    let fence = Digest::of(format!("{question} {}", sources.join("\u{0}")));
    let question = defused(question, special);
    let context = context! { sources, question, fence => fence.short(), refusal => REFUSAL };
    let render = |template: &str| {
        Environment::new().render_str(template, &context).map_err(|error| {
            RagError::invalid("the template of the question", error.to_string(), "report it as a bug")
        })
    };
    let message = |role, content| Message { role, content };
    Ok(Prompt::Chat(vec![message(Role::System, render(SYSTEM)?), message(Role::User, render(QUESTION)?)]))
}

/// A document that spells a special token must not make one.
pub(crate) fn defused(text: &str, special: &[String]) -> String {
    let mut text = text.to_owned();
    for token in special.iter().filter(|token| token.chars().count() > 1) {
        let mut chars = token.chars();
        let first: String = chars.by_ref().take(1).collect();
        text = text.replace(token.as_str(), &format!("{first} {}", chars.as_str()));
    }
    text
}

pub(crate) async fn ask(model: &Arc<dyn Model>, prompt: Prompt, max_tokens: u32) -> Result<String, RagError> {
    write(model, prompt, GenerateParams { max_tokens, ..GenerateParams::default() }).await
}

/// As [`ask`], held to a form.
pub(crate) async fn ask_in_form(
    model: &Arc<dyn Model>,
    prompt: Prompt,
    form: &ResponseFormat,
) -> Result<String, RagError> {
    let (max_tokens, form) = (form.max_tokens(), Some(AnswerForm::Fields(form.clone())));
    write(model, prompt, GenerateParams { max_tokens, form, ..GenerateParams::default() }).await
}

async fn write(model: &Arc<dyn Model>, prompt: Prompt, params: GenerateParams) -> Result<String, RagError> {
    match model.submit(vec![request(model, prompt, params)]).next().await {
        Some((_, response)) => written(response),
        None => Ok(String::new()),
    }
}

/// As [`ask`]; claims are checked, and heard, as soon as they are complete.
async fn write_aloud(
    model: &Arc<dyn Model>,
    prompt: Prompt,
    max_tokens: u32,
    claims: &mut Claims<'_, '_>,
    hear: &mut Hear<'_>,
) -> Result<String, RagError> {
    let params = GenerateParams { max_tokens, ..GenerateParams::default() };
    let mut replies = model.submit_streamed(vec![request(model, prompt, params)]);
    let mut text = String::new();
    loop {
        match replies.next_update().await {
            Some(Update::Piece(_, piece)) => {
                text.push_str(&piece.text);
                claims.tell_complete(&text, hear).await?;
            }
            Some(Update::Withdrawn(_)) => {
                text.clear();
                claims.begin_again();
            }
            Some(Update::Answer((_, response))) => return written(response),
            None => return Ok(String::new()),
        }
    }
}

fn request(model: &Arc<dyn Model>, prompt: Prompt, params: GenerateParams) -> Request {
    let prompt = match prompt {
        // A model without a chat template reads the messages one after the other.
        Prompt::Chat(messages) if !model.capabilities().chat => {
            let texts: Vec<String> = messages.into_iter().map(|message| message.content).collect();
            Prompt::Text(texts.join("\n\n") + "\n\n")
        }
        prompt => prompt,
    };
    let key = SampleKey { task: "rag".to_owned(), doc: 0, repeat: 0 };
    Request { key, kind: RequestKind::Generate { prompt, params } }
}

fn written(response: Result<Response, ModelError>) -> Result<String, RagError> {
    match response?.output {
        Output::Text { text, .. } => Ok(text.trim().to_owned()),
        _ => Ok(String::new()),
    }
}

/// The claim without the marks of the sources the model named.
pub(super) fn without_marks(claim: &str) -> String {
    let mut text = String::with_capacity(claim.len());
    let mut rest = claim;
    while let Some(start) = rest.find('[') {
        let inside = rest[start + 1..].split(']').next().unwrap_or_default();
        text.push_str(&rest[..start]);
        let is_mark = !inside.is_empty() && inside.bytes().all(|byte| byte.is_ascii_digit());
        if is_mark && rest.len() > start + 1 + inside.len() {
            rest = &rest[start + inside.len() + 2..];
        } else {
            text.push('[');
            rest = &rest[start + 1..];
        }
    }
    text.push_str(rest);
    text.split_whitespace().collect::<Vec<_>>().join(" ").replace(" .", ".")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn marks_go_and_brackets_stay() {
        assert_eq!(without_marks("It is 11.4 V [1][12]."), "It is 11.4 V.");
        assert_eq!(without_marks("a [b] c [1"), "a [b] c [1");
    }

    #[test]
    fn no_document_spells_a_special_token() {
        assert_eq!(defused("a <|im_end|> b", &["<|im_end|>".to_owned()]), "a < |im_end|> b");
    }
}
