//! Answers that a model writes, held against the sources claim by claim.

use std::sync::Arc;

use evalign_core::{
    Digest, GenerateParams, Message, Output, Prompt, Request, RequestKind, ResponseFormat, Role, SampleKey,
};
use evalign_model::Model;
use minijinja::{Environment, context};

use super::holds::holds;
use super::{Answer, AnswerOptions, Answerer, Claim};
use crate::citation::{Citation, Sources};
use crate::evidence::Evidence;
use crate::pack::pack;
use crate::sentences::sentences;
use crate::{Chunk, RagError, TextRole};

/// What the model is told to say where the sources do not answer.
const REFUSAL: &str = "The sources do not say.";
/// A claim is supported by a statement that is at least so similar, and [`holds`] what the claim names.
const SUPPORT_SIMILARITY: f64 = 0.6;

const SYSTEM: &str = include_str!("../../../../prompts/rag/system.j2");
const QUESTION: &str = include_str!("../../../../prompts/rag/question.j2");

impl Answerer<'_> {
    pub(super) async fn generate(
        &self,
        model: &Arc<dyn Model>,
        answer: &mut Answer,
        chunks: &[Chunk],
        evidence: &[Evidence],
        options: &AnswerOptions,
        sources: &mut Sources<'_>,
    ) -> Result<(), RagError> {
        let count = |text: &str| self.embedder.count_tokens(text);
        let packed = pack(chunks, evidence, options.context_tokens, &count);
        let shown: Vec<&Chunk> = packed.iter().map(|index| &chunks[*index]).collect();
        let prompt = prompt(&answer.question, &shown, &model.special_tokens())?;
        let text = ask(model, prompt, options.max_answer_tokens).await?;
        if text.is_empty() || text.to_lowercase().contains(&REFUSAL.to_lowercase()) {
            answer.abstained = Some("the model did not find the answer in the sources".to_owned());
            return Ok(());
        }
        let usable: Vec<&Evidence> =
            evidence.iter().filter(|evidence| packed.contains(&evidence.chunk)).collect();
        for range in sentences(&text, false) {
            let claim = without_marks(&text[range]);
            if !claim.is_empty() {
                let citations = self.support(&claim, &usable, sources).await?;
                answer.claims.push(Claim { supported: !citations.is_empty(), text: claim, citations });
            }
        }
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

    /// The statement a claim rests on: the most similar one that [`holds`] what it names.
    async fn support(
        &self,
        claim: &str,
        evidence: &[&Evidence],
        sources: &mut Sources<'_>,
    ) -> Result<Vec<Citation>, RagError> {
        let mut texts = vec![claim.to_owned()];
        texts.extend(evidence.iter().map(|evidence| evidence.citation.quote.clone()));
        let vectors = self.embedder.embed(&texts, TextRole::Passage).await?;
        let Some((of_claim, of_evidence)) = vectors.split_first() else { return Ok(Vec::new()) };
        let mut best: Option<(f64, &Evidence)> = None;
        for (evidence, vector) in evidence.iter().zip(of_evidence) {
            let similarity: f64 =
                of_claim.iter().zip(vector).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum();
            let nearer = similarity >= SUPPORT_SIMILARITY && best.is_none_or(|(best, _)| similarity > best);
            let Citation { quote, section, .. } = &evidence.citation;
            if nearer && holds(quote, section, claim) {
                best = Some((similarity, evidence));
            }
        }
        let Some((_, evidence)) = best else { return Ok(Vec::new()) };
        Ok(sources.verified(evidence.citation.clone())?.into_iter().collect())
    }
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
    let (max_tokens, response_format) = (form.max_tokens(), Some(form.clone()));
    write(model, prompt, GenerateParams { max_tokens, response_format, ..GenerateParams::default() }).await
}

async fn write(model: &Arc<dyn Model>, prompt: Prompt, params: GenerateParams) -> Result<String, RagError> {
    let prompt = match prompt {
        // A model without a chat template reads the messages one after the other.
        Prompt::Chat(messages) if !model.capabilities().chat => {
            let texts: Vec<String> = messages.into_iter().map(|message| message.content).collect();
            Prompt::Text(texts.join("\n\n") + "\n\n")
        }
        prompt => prompt,
    };
    let key = SampleKey { task: "rag".to_owned(), doc: 0, repeat: 0 };
    let mut replies = model.submit(vec![Request { key, kind: RequestKind::Generate { prompt, params } }]);
    match replies.next().await {
        Some((_, response)) => match response?.output {
            Output::Text { text, .. } => Ok(text.trim().to_owned()),
            _ => Ok(String::new()),
        },
        None => Ok(String::new()),
    }
}

/// The claim without the marks of the sources the model named.
fn without_marks(claim: &str) -> String {
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
