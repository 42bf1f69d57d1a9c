//! Claims are told while the model writes, and not before they can be.

use std::sync::Mutex;
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use evalign_core::{FinishReason, ModelIdentity, Output, Prompt, Request, RequestKind, Response, Seconds};
use evalign_model::{Capabilities, Piece, Replies, Scripted, TokenCount, Update};

use super::*;
use crate::SearchMode;

/// Where [`Patient`] begins its text again.
const AGAIN: &str = "< ";

/// Writes the first part of its text, and the rest only when something was heard of it.
struct Patient {
    inner: Scripted,
    parts: [&'static str; 2],
    heard: Mutex<Option<Receiver<()>>>,
}

impl Patient {
    fn new(home: &Path, parts: [&'static str; 2], heard: Receiver<()>) -> Self {
        let script = home.join("script.json");
        fs_err::write(&script, "{}").unwrap();
        Self { inner: Scripted::load(&script).unwrap(), parts, heard: Mutex::new(Some(heard)) }
    }
}

impl Model for Patient {
    fn identity(&self) -> &ModelIdentity {
        self.inner.identity()
    }

    fn context_length(&self) -> Option<usize> {
        None
    }

    fn capabilities(&self) -> Capabilities {
        self.inner.capabilities()
    }

    fn count_tokens(&self, kind: &RequestKind) -> Option<TokenCount> {
        self.inner.count_tokens(kind)
    }

    fn render(&self, prompt: &Prompt) -> Option<String> {
        self.inner.render(prompt)
    }

    fn submit(&self, requests: Vec<Request>) -> Replies {
        self.submit_streamed(requests)
    }

    fn submit_streamed(&self, _: Vec<Request>) -> Replies {
        let (sender, replies) = Replies::channel();
        let heard = self.heard.lock().unwrap().take().unwrap();
        let [first, rest] = self.parts;
        std::thread::spawn(move || {
            for word in first.split_inclusive(' ') {
                sender.piece(0, Piece { text: word.to_owned(), logprobs: Vec::new() }).unwrap();
            }
            let was_heard = heard.recv_timeout(Duration::from_secs(60)).is_ok();
            let text = if was_heard { format!("{first}{rest}") } else { "Nobody heard me.".to_owned() };
            let text = text.rsplit(AGAIN).next().unwrap().to_owned();
            let finish = FinishReason::Stop;
            let output = Output::Text { text, finish, logprobs: None, reasoning: None };
            let response =
                Response { output, usage: None, truncated_tokens: 0, cached: false, latency: None };
            let _ = sender.send(0, Ok(response));
        });
        replies.map(|update| match update {
            Update::Piece(index, piece) if piece.text == AGAIN => Update::Withdrawn(index),
            update => update,
        })
    }

    fn timing(&self) -> Seconds {
        Seconds::default()
    }
}

/// What is heard of a text while it is written, and the answer.
async fn answered(test: &str, parts: [&'static str; 2]) -> Option<(Vec<Claim>, Answer)> {
    let model = evalign_testkit::embedding_model(test)?;
    let home = tempfile::tempdir().unwrap();
    let docs = home.path().join("docs");
    fs_err::create_dir(&docs).unwrap();
    fs_err::write(docs.join("gate.md"), "The gate closes at 18:30. The lamp burns all night.").unwrap();
    let state = Store::open(home.path()).unwrap();
    let vectors = EdgeStore::new(home.path().join("vectors"));
    let local = LocalEmbedder::load("all-minilm-l6-v2", model, &EmbedOptions::default()).unwrap();
    let embedder: Arc<dyn Embedder> = Arc::new(local);
    index("gate", &docs, &state, &vectors, &embedder).await;
    let (tell, heard) = channel();
    let answerer = Answerer {
        state: &state,
        vectors: &vectors,
        embedder: embedder.as_ref(),
        model: Some(Arc::new(Patient::new(home.path(), parts, heard))),
        reranker: None,
        index: "gate",
        tenant: "t",
    };
    let mut told = Vec::new();
    let mut hear = |claim: &Claim| {
        told.push(claim.clone());
        // A model that has finished hears nothing any more.
        let _ = tell.send(());
    };
    let options = AnswerOptions { threshold: 0.0, ..AnswerOptions::default() };
    let answer = answerer.answer_aloud("When does the gate close?", &options, &mut hear).await.unwrap();
    Some((told, answer))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_claim_is_told_before_the_next_one_is_written() {
    let parts =
        ["It sings. The gate closes at 18:30 [1]. The lamp ", "burns all night. The gate closes at 19:45."];
    let Some((told, answer)) = answered("a_claim_is_told_before_the_next_one_is_written", parts).await else {
        return;
    };
    // Neither what the sources do not say, nor a sentence that might have gone on.
    let texts: Vec<&str> = told.iter().map(|claim| claim.text.as_str()).collect();
    assert_eq!(texts, ["The gate closes at 18:30."]);
    assert_eq!(told[0].citations[0].quote, "The gate closes at 18:30.");
    assert_eq!(answer.text.as_deref(), Some("The gate closes at 18:30. The lamp burns all night."));
    let supported: Vec<bool> = answer.claims.iter().map(|claim| claim.supported).collect();
    assert_eq!(supported, [false, true, true, false], "{:?}", answer.claims);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_model_that_takes_it_back_answers_nothing() {
    let parts = ["The gate closes at 18:30. But ", "no: the sources do not say."];
    let Some((told, answer)) = answered("a_model_that_takes_it_back_answers_nothing", parts).await else {
        return;
    };
    assert_eq!(told.len(), 1);
    assert!(answer.text.is_none() && answer.claims.is_empty() && answer.abstained.is_some(), "{answer:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_text_that_is_begun_again_is_told_once() {
    let parts = [
        "The gate closes at 18:30. The lamp < The gate closes at 18:30. It sings. The lamp burns all night. The ",
        "gate closes at 18:30. So it is.",
    ];
    let Some((told, answer)) = answered("a_text_that_is_begun_again_is_told_once", parts).await else {
        return;
    };
    let texts: Vec<&str> = told.iter().map(|claim| claim.text.as_str()).collect();
    assert_eq!(texts, ["The gate closes at 18:30.", "The lamp burns all night."]);
    assert_eq!(
        answer.text.as_deref(),
        Some("The gate closes at 18:30. The lamp burns all night. The gate closes at 18:30.")
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_question_with_nothing_to_look_for_is_not_answered_and_no_error() {
    let test = "a_question_with_nothing_to_look_for_is_not_answered_and_no_error";
    let Some(model) = evalign_testkit::embedding_model(test) else { return };
    let home = tempfile::tempdir().unwrap();
    let state = Store::open(home.path()).unwrap();
    let vectors = EdgeStore::new(home.path().join("vectors"));
    let embedder = LocalEmbedder::load("all-minilm-l6-v2", model, &EmbedOptions::default()).unwrap();
    let answerer = Answerer {
        state: &state,
        vectors: &vectors,
        embedder: &embedder,
        model: None,
        reranker: None,
        index: "gate",
        tenant: "t",
    };
    for (question, mode) in [("Is this it?", SearchMode::Bm25), ("?!", SearchMode::Hybrid)] {
        assert!(QueryPlan::of(question).check(mode).is_err());
        let search = SearchOptions { mode, ..SearchOptions::default() };
        let options = AnswerOptions { search, threshold: 0.0, ..AnswerOptions::default() };
        let answer = answerer.answer(question, &options).await.unwrap();
        let reason = answer.abstained.unwrap();
        assert!(answer.text.is_none() && reason.starts_with("the question holds"), "{reason}");
    }
}
