//! Texts while they are written.

use std::collections::BTreeMap;
use std::sync::Arc;

use evalign_core::{GenerateParams, Output, Request, Response};
use evalign_model::{Cached, Local, LocalOptions, MemoryCache, Model, Replies, Update};
use serde_json::json;
use tempfile::TempDir;

use crate::common::{ask, block_on, choices, generation, request, scripted, text};

/// A local model of made-up weights that would write 100,000 words if it were let.
fn tiny() -> (TempDir, Local) {
    let dir = tempfile::tempdir().unwrap();
    evalign_testkit::write_tiny_model(dir.path(), 110_000).unwrap();
    let model = Local::load(&"local/tiny".parse().unwrap(), dir.path(), &LocalOptions::default()).unwrap();
    (dir, model)
}

fn story(prompt: &str, max_tokens: u32) -> Request {
    request(0, generation(prompt, GenerateParams { max_tokens, logprobs: true, ..Default::default() }))
}

/// What was heard, without what was withdrawn.
#[derive(Default)]
pub(crate) struct Told {
    pub(crate) pieces: BTreeMap<usize, Vec<String>>,
    logprobs: usize,
    pub(crate) withdrawn: usize,
    pub(crate) answers: BTreeMap<usize, Response>,
}

pub(crate) fn told(mut replies: Replies) -> Told {
    let mut told = Told::default();
    while let Some(update) = block_on(replies.next_update()) {
        match update {
            Update::Piece(index, piece) => {
                assert!(!told.answers.contains_key(&index), "a piece after the answer");
                told.pieces.entry(index).or_default().push(piece.text);
                told.logprobs += piece.logprobs.len();
            }
            Update::Withdrawn(index) => {
                assert!(told.pieces.remove(&index).is_some(), "nothing was told");
                told.withdrawn += 1;
            }
            Update::Answer((index, answer)) => drop(told.answers.insert(index, answer.unwrap())),
        }
    }
    told
}

#[test]
fn pieces_are_the_text_that_is_answered() {
    let (_dir, model) = tiny();
    let requests = vec![story("t1 t2", 20), story("t3", 7)];
    let whole = told(model.submit(requests.clone()));
    assert!(whole.pieces.is_empty(), "nobody asked for pieces");
    let streamed = told(model.submit_streamed(requests));
    assert_eq!(streamed.logprobs, 27);
    for (index, tokens) in [(0, 20), (1, 7)] {
        let (pieces, answer) = (&streamed.pieces[&index], &streamed.answers[&index]);
        assert_eq!((pieces.len(), pieces.concat().as_str()), (tokens, text(answer)));
        assert_eq!(answer.output, whole.answers[&index].output);
    }
}

/// A reader that takes its time holds nobody up, and misses nothing: a text of more pieces than may wait.
#[test]
fn a_slow_reader_gets_the_whole_text() {
    let (_dir, model) = tiny();
    let slow = model.submit_streamed(vec![story("t1 t2", 3000)]);
    assert_eq!(ask(&model, vec![story("t3", 5).kind, story("t4", 3000).kind]).len(), 2);
    let told = told(slow);
    assert!(text(&told.answers[&0]).starts_with(&told.pieces[&0].concat()));
    assert!((500..1000).contains(&told.pieces[&0].len()), "{}", told.pieces[&0].len());
}

/// The engine writes for all at once: a short text is there long before an endless one, which ends with its reader.
#[test]
fn submissions_are_written_together() {
    let (_dir, model) = tiny();
    let mut endless = model.submit_streamed(vec![story("t7", 100_000)]);
    assert!(matches!(block_on(endless.next_update()), Some(Update::Piece(0, _))));
    let short = story("t1 t2", 6).kind;
    let answer = ask(&model, vec![short.clone()]).remove(0).unwrap();
    assert!(model.engine_load().sequences >= 1, "the endless text has ended");
    drop(endless);
    // What is no text waits for texts: the engine is free then.
    ask(&model, vec![choices("t1", &[" t2", " t3"])]).remove(0).unwrap();
    assert_eq!(model.engine_load().sequences, 0);
    let steps = model.engine_load().steps;
    assert!(steps < 100_000, "{steps}");
    let alone = ask(&model, vec![short]).remove(0).unwrap();
    assert_eq!((alone.output, model.engine_load().steps - steps), (answer.output, 6));
}

#[test]
fn a_decorated_model_tells_pieces_too() {
    let (_dir, model) = scripted(&json!({"rules": [{"match": "poem", "text": "roses are red"}]}));
    let model: Arc<dyn Model> = Arc::new(Cached::new(model, Arc::new(MemoryCache::default())));
    let known = request(0, generation("a short poem", GenerateParams::default()));
    let new = request(1, generation("another poem", GenerateParams::default()));
    told(model.submit_streamed(vec![known.clone()]));
    let told = told(model.submit_streamed(vec![known, new]));
    assert!(told.answers[&0].cached && !told.answers[&1].cached);
    assert_eq!(told.pieces, [(1, ["roses ", "are ", "red"].map(str::to_owned).to_vec())].into());
    assert!(matches!(&told.answers[&0].output, Output::Text { text, .. } if text == "roses are red"));
}
