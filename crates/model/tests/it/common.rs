use std::collections::BTreeMap;
use std::path::PathBuf;

use evalign_core::{GenerateParams, Output, Prompt, Request, RequestKind, Response, SampleKey};
use evalign_model::{Model, ModelError, Replies, Scripted};
use serde_json::Value;
use tempfile::TempDir;

/// A scripted model and the directory its files are in.
pub(crate) fn scripted(script: &Value) -> (TempDir, Scripted) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("script.json");
    fs_err::write(&path, script.to_string()).unwrap();
    let model = Scripted::load(&path).unwrap();
    (dir, model)
}

/// The small model all golden files were made with.
pub(crate) fn test_model() -> Option<PathBuf> {
    evalign_testkit::real_model("a test of the local model").map(PathBuf::from)
}

pub(crate) fn request(doc: u64, kind: RequestKind) -> Request {
    Request { key: SampleKey { task: "t".to_owned(), doc, repeat: 0 }, kind }
}

pub(crate) fn choices(context: &str, continuations: &[&str]) -> RequestKind {
    RequestKind::LogLikelihood {
        context: Prompt::Text(context.to_owned()),
        continuations: continuations.iter().map(|text| (*text).to_owned()).collect(),
    }
}

pub(crate) fn generation(prompt: &str, params: GenerateParams) -> RequestKind {
    RequestKind::Generate { prompt: Prompt::Text(prompt.to_owned()), params }
}

pub(crate) fn block_on<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(future)
}

/// All answers, in the order of the requests.
pub(crate) fn collect(mut replies: Replies) -> Vec<Result<Response, ModelError>> {
    let mut answers = BTreeMap::new();
    block_on(async {
        while let Some((index, result)) = replies.next().await {
            assert!(answers.insert(index, result).is_none(), "answered twice");
        }
    });
    assert!(answers.keys().copied().eq(0..answers.len()), "an answer is missing");
    answers.into_values().collect()
}

pub(crate) fn ask(model: &dyn Model, kinds: Vec<RequestKind>) -> Vec<Result<Response, ModelError>> {
    let requests = kinds.into_iter().enumerate().map(|(doc, kind)| request(doc as u64, kind)).collect();
    collect(model.submit(requests))
}

pub(crate) fn text(response: &Response) -> &str {
    match &response.output {
        Output::Text { text, .. } => text,
        other => panic!("no text: {other:?}"),
    }
}

pub(crate) fn sums(response: &Response) -> Vec<f64> {
    match &response.output {
        Output::LogLikelihood { choices } => choices.iter().map(|choice| choice.sum).collect(),
        other => panic!("no log-likelihoods: {other:?}"),
    }
}
