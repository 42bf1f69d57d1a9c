//! A model that makes its answers up: for tests of everything around a model.

mod answer;
mod form;
mod script;

use std::collections::{BTreeMap, VecDeque};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use evalign_core::{
    Digest, ModelIdentity, ModelRef, Output, Prompt, Provider, Request, RequestKind, Response, Seconds,
};
use evalign_lm::Piece;
use serde_json::json;

use crate::error::{ErrorKind, ModelError};
use crate::model::{Capabilities, Model, TokenCount};
use crate::replies::{Replies, ReplySender};
use script::{FaultKind, Script};

/// A model whose answers come from a file: rules for prompts that contain a given text, and for all
/// others something that looks like an answer and depends on nothing but the request and the file's
/// seed. It can be slow, fail, and keep a list of what it was asked, so that a test can see whether
/// anything was asked twice.
///
/// The file is one JSON object; all fields are optional:
///
/// ```json
/// {
///   "seed": 1,
///   "rules": [
///     {"match": "capital of France", "text": "Paris"},
///     {"match": "Answer:", "log_likelihoods": [-3.0, -0.5, -2.0, -4.0]},
///     {"match": "too hot", "error": "the server said no", "kind": "permanent"}
///   ],
///   "fault": {"every": 20, "kind": "temporary"},
///   "delay_ms": 5,
///   "concurrency": 8,
///   "context_length": 2048,
///   "count_file": "asked.txt"
/// }
/// ```
///
/// `fault` chooses about one request in `every`, by its content, so that the same ones fail in every
/// run; `temporary` faults pass at the second attempt. `count_file` (relative to the script) gets one
/// line for each request when it is issued: the digest of its key and content.
#[derive(Debug)]
pub struct Scripted {
    identity: ModelIdentity,
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    script: Script,
    count_file: Option<PathBuf>,
    /// Attempts at requests chosen for a temporary fault.
    attempts: Mutex<BTreeMap<Digest, u32>>,
}

impl Scripted {
    /// Reads a script.
    ///
    /// # Errors
    /// [`ModelError::Script`] where the file cannot be read or is not what it should be.
    pub fn load(path: &Path) -> Result<Self, ModelError> {
        let script = Script::read(path)?;
        let count_file = script.count_file.as_ref().map(|file| match path.parent() {
            Some(dir) => dir.join(file),
            None => file.clone(),
        });
        let name = path.display().to_string();
        let identity = ModelIdentity {
            reference: ModelRef { provider: Provider::Scripted, name, adapter: None },
            weights: script.digest(),
            tokenizer: Digest::of("scripted tokenizer 1: one token for each word"),
            chat_template: None,
            adapter: None,
            trained_on: None,
            dtype: "none".to_owned(),
            device: "none".to_owned(),
        };
        Ok(Self { identity, shared: Arc::new(Shared { script, count_file, attempts: Mutex::default() }) })
    }
}

impl Model for Scripted {
    fn identity(&self) -> &ModelIdentity {
        &self.identity
    }

    fn context_length(&self) -> Option<usize> {
        self.shared.script.context_length
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities::ALL
    }

    fn count_tokens(&self, kind: &RequestKind) -> Option<TokenCount> {
        Some(TokenCount { prompt: answer::prompt_tokens(kind) })
    }

    /// Behaves like a server that renders conversations itself.
    fn render(&self, prompt: &Prompt) -> Option<String> {
        match prompt {
            Prompt::Text(text) => Some(text.clone()),
            Prompt::Chat(_) => None,
        }
    }

    fn submit(&self, requests: Vec<Request>) -> Replies {
        self.start(requests, false)
    }

    /// Texts are told word by word.
    fn submit_streamed(&self, requests: Vec<Request>) -> Replies {
        self.start(requests, true)
    }

    fn timing(&self) -> Seconds {
        Seconds::default()
    }
}

impl Scripted {
    fn start(&self, requests: Vec<Request>, is_streamed: bool) -> Replies {
        let (sender, replies) = Replies::channel();
        let workers = self.shared.script.concurrency.min(requests.len());
        let queue: Arc<Mutex<VecDeque<_>>> = Arc::new(Mutex::new(requests.into_iter().enumerate().collect()));
        for _ in 0..workers {
            let (shared, queue, sender) = (self.shared.clone(), queue.clone(), sender.clone());
            let worker = std::thread::Builder::new().name("evalign-scripted".to_owned());
            if let Err(error) = worker.spawn(move || shared.work(&queue, &sender, is_streamed)) {
                // With one worker or more everything is still answered; with none the replies end.
                tracing::error!(%error, "no thread for the scripted model");
            }
        }
        replies
    }
}

/// Tells a text in words, as far as there is room for it.
fn tell(index: usize, text: &str, replies: &ReplySender) {
    let words = text.split_inclusive(char::is_whitespace);
    let mut pieces = words.map(|word| Piece { text: word.to_owned(), logprobs: Vec::new() });
    while let Some(piece) = pieces.next()
        && replies.piece(index, piece).is_ok()
    {}
}

impl Shared {
    fn work(&self, queue: &Mutex<VecDeque<(usize, Request)>>, replies: &ReplySender, is_streamed: bool) {
        let next = || queue.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
        while !replies.is_cancelled()
            && let Some((index, request)) = next()
        {
            let answer = self.answer_patiently(&request);
            if let Ok(Response { output: Output::Text { text, .. }, .. }) = &answer
                && is_streamed
            {
                tell(index, text, replies);
            }
            if replies.send(index, answer).is_break() {
                return;
            }
        }
    }

    /// A passing failure is asked once more, as providers of servers do: who submits requests does not.
    fn answer_patiently(&self, request: &Request) -> Result<Response, ModelError> {
        match self.answer(request) {
            Err(error) if error.kind() == ErrorKind::Retryable => self.answer(request),
            result => result,
        }
    }

    fn answer(&self, request: &Request) -> Result<Response, ModelError> {
        let content = Digest::of_json(&json!(request));
        self.count(&content)?;
        std::thread::sleep(Duration::from_millis(self.script.delay_ms));
        if let Some(kind) = self.fault(&content) {
            return Err(kind.error(format!("scripted fault of request {}", content.short())));
        }
        let tokens = answer::prompt_tokens(&request.kind);
        if let Some(context) = self.script.context_length
            && tokens > context as u64
        {
            let tokens = usize::try_from(tokens).unwrap_or(usize::MAX);
            return Err(ModelError::TooLong { tokens, context });
        }
        answer::answer(&self.script, &request.kind)
    }

    /// One write of one line: processes that append to the same file do not mix their lines.
    fn count(&self, content: &Digest) -> Result<(), ModelError> {
        let Some(path) = &self.count_file else { return Ok(()) };
        fs_err::OpenOptions::new()
            .create(true)
            .append(true)
            .open(path)
            .and_then(|mut file| file.write_all(format!("{content}\n").as_bytes()))
            .map_err(|error| ModelError::Script { path: path.clone(), detail: error.to_string() })
    }

    fn fault(&self, content: &Digest) -> Option<FaultKind> {
        let fault = self.script.fault.as_ref()?;
        if !answer::number(content).is_multiple_of(fault.every.get()) {
            return None;
        }
        if fault.kind == FaultKind::Temporary {
            let mut attempts = self.attempts.lock().unwrap_or_else(PoisonError::into_inner);
            let attempt = attempts.entry(content.clone()).or_default();
            *attempt += 1;
            if *attempt > 1 {
                return None;
            }
        }
        Some(fault.kind)
    }
}
