//! Questions for measuring an index, made from its own documents.
//!
//! A model reads a chunk, copies an answer out of it and writes the question. Whatever it says, a question is kept
//! only where the answer stands in the document, byte for byte and once in the chunk, and the question does not give
//! it away: the right place of every question is verified, not claimed. Of some, others are made that no document
//! answers.

mod unanswerable;

use std::collections::BTreeMap;
use std::sync::Arc;

use evalign_core::{Digest, Message, Prompt, ResponseField, ResponseFormat, ResponseValue, Role};
use evalign_model::Model;
use evalign_store::Store;
use minijinja::{Environment, context};
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::answer::{ask_in_form, defused};
use crate::citation::Sources;
use crate::evidence::cite;
use crate::ingest::{check_presence, shown};
use crate::injection::orders_in;
use crate::quality::{GoldPlace, GoldQuestion};
use crate::{Chunk, RagError, Scope, VectorStore, With};

const TEMPLATE: &str = include_str!("../../../prompts/rag/test_question.j2");
/// A shorter chunk holds little to ask about.
const SHORTEST_CHUNK_BYTES: usize = 120;
const ANSWER_BYTES: std::ops::RangeInclusive<usize> = 2..=160;
const FEWEST_QUESTION_WORDS: usize = 4;
const QUOTE_TOKENS: u32 = 40;
const QUESTION_TOKENS: u32 = 48;
/// Points read together.
const POINTS_TOGETHER: usize = 1000;

/// Where questions are made from.
pub struct TestSource<'a> {
    pub state: &'a Store,
    pub vectors: &'a dyn VectorStore,
    pub model: Arc<dyn Model>,
    pub index: &'a str,
    pub tenant: &'a str,
}

impl std::fmt::Debug for TestSource<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TestSource").field("index", &self.index).finish_non_exhaustive()
    }
}

/// Questions that were made, and what became of the others.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct GeneratedTests {
    pub questions: Vec<GoldQuestion>,
    /// Those that the documents do not answer.
    pub unanswerable: Vec<GoldQuestion>,
    /// Chunks that the model was shown.
    pub asked: usize,
    /// Questions that were thrown away, by reason.
    pub refused: BTreeMap<&'static str, usize>,
}

/// What the model writes.
#[derive(Deserialize)]
struct Written {
    quote: String,
    question: String,
}

impl TestSource<'_> {
    /// Makes `count` questions, or as many as the documents give, each from another chunk, and of these at most
    /// `unanswerable` about something that no document names. The same seed takes the chunks in the same order.
    ///
    /// # Errors
    /// What the stores or the model report.
    pub async fn generate(
        &self,
        (count, unanswerable): (usize, usize),
        seed: u64,
        progress: &(dyn Fn(usize) + Sync),
    ) -> Result<GeneratedTests, RagError> {
        let mut chunks = self.chunks().await?;
        if chunks.is_empty() {
            check_presence(self.state, self.vectors, (self.index, self.tenant)).await?;
        }
        chunks.sort_by_cached_key(|chunk| Digest::of_json(&json!([seed, chunk.id.to_string()])));
        let mut sources = Sources::new(self.state, self.index, self.tenant);
        let mut made = GeneratedTests::default();
        for chunk in &chunks {
            if made.questions.len() >= count {
                break;
            }
            made.asked += 1;
            let form = form();
            let text = ask_in_form(&self.model, self.prompt(chunk)?, &form).await?;
            match question(chunk, &text, &mut sources)? {
                Ok(question) => {
                    made.questions.push(question);
                    progress(made.questions.len());
                }
                Err(reason) => *made.refused.entry(reason).or_default() += 1,
            }
        }
        let place = (self.state, self.index, self.tenant);
        made.unanswerable = unanswerable::unanswerable(&made.questions, unanswerable, place)?;
        Ok(made)
    }

    /// Every chunk that questions can be about.
    async fn chunks(&self) -> Result<Vec<Chunk>, RagError> {
        let scope = Scope::of(self.tenant).visible(shown());
        let with = With { payload: true, vectors: false };
        let (mut chunks, mut from) = (Vec::new(), None);
        loop {
            let page = self.vectors.scroll(self.index, &scope, from, POINTS_TOGETHER, with).await?;
            for record in page.records {
                let chunk = Chunk::from_payload(self.index, record.id, self.tenant, &record.payload)?;
                if chunk.text.len() >= SHORTEST_CHUNK_BYTES && orders_in(&chunk.text).is_empty() {
                    chunks.push(chunk);
                }
            }
            match page.next {
                Some(next) => from = Some(next),
                None => return Ok(chunks),
            }
        }
    }

    fn prompt(&self, chunk: &Chunk) -> Result<Prompt, RagError> {
        let passage = defused(&chunk.text, &self.model.special_tokens());
        let fence = Digest::of(&passage);
        let content = Environment::new()
            .render_str(TEMPLATE, context! { passage, fence => fence.short() })
            .map_err(|error| {
            RagError::invalid("the template of test questions", error.to_string(), "report it as a bug")
        })?;
        Ok(Prompt::Chat(vec![Message { role: Role::User, content }]))
    }
}

fn form() -> ResponseFormat {
    let field = |name: &str, max_tokens| ResponseField {
        name: name.to_owned(),
        value: ResponseValue::Text { max_tokens },
    };
    ResponseFormat {
        fields: vec![field("quote", QUOTE_TOKENS), field("question", QUESTION_TOKENS)],
        name: "test_question".to_owned(),
    }
}

/// The question that was written, or why it is none.
fn question(
    chunk: &Chunk,
    written: &str,
    sources: &mut Sources<'_>,
) -> Result<Result<GoldQuestion, &'static str>, RagError> {
    let object = written.find('{').map_or("", |start| &written[start..]);
    let mut objects = serde_json::Deserializer::from_str(object).into_iter::<Written>();
    let Some(Ok(Written { quote, question })) = objects.next() else {
        return Ok(Err("not the form that was asked for"));
    };
    let (quote, question) = (quote.trim(), question.split_whitespace().collect::<Vec<_>>().join(" "));
    if let Some(reason) = flaw(quote, &question) {
        return Ok(Err(reason));
    }
    let mut places = chunk.text.match_indices(quote);
    let (Some((start, _)), None) = (places.next(), places.next()) else {
        return Ok(Err("the answer does not stand in the chunk exactly once"));
    };
    let Some(citation) = sources.verified(cite(chunk, start..start + quote.len()))? else {
        return Ok(Err("the answer does not stand in the document"));
    };
    Ok(Ok(GoldQuestion {
        id: Digest::of(&question).short().to_owned(),
        question,
        answers: vec![quote.to_owned()],
        evidence: vec![GoldPlace {
            document: citation.document.0,
            bytes: Some([citation.start_byte, citation.end_byte]),
            page: citation.page,
        }],
    }))
}

/// What is wrong with a question and its answer, whatever the chunk.
fn flaw(quote: &str, question: &str) -> Option<&'static str> {
    let holds = |text: &str, part: &str| text.to_lowercase().contains(&part.to_lowercase());
    if !ANSWER_BYTES.contains(&quote.len()) || !quote.contains(char::is_alphanumeric) {
        Some("the answer is too short or too long")
    } else if !question.ends_with(['?', '？', '؟']) || question.split(' ').count() < FEWEST_QUESTION_WORDS {
        Some("not a question")
    } else if holds(question, quote) {
        Some("the question gives the answer away")
    } else if ["passage", "the text", "the document"].iter().any(|word| holds(question, word)) {
        Some("the question speaks of the passage")
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn questions_that_test_nothing_are_thrown_away() {
        assert_eq!(flaw("18:30", "When does the gate close?"), None);
        for (quote, question) in [
            ("x", "When does the gate close?"),
            ("…!", "When does the gate close?"),
            ("18:30", "Tell me when the gate closes"),
            ("18:30", "When?"),
            ("the GATE", "When does the gate close?"),
            ("18:30", "When does the gate close according to the passage?"),
        ] {
            assert!(flaw(quote, question).is_some(), "{quote}: {question}");
        }
    }
}
