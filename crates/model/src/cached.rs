use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use evalign_core::{Digest, GenerateParams, ModelIdentity, Prompt, Request, RequestKind, Response, Seconds};
use evalign_lm::DateTime;
use serde_json::{Value, json};

use crate::model::{Capabilities, Model, TokenCount};
use crate::replies::Replies;

/// Raised when the way requests become tokens, or what a response means, changes.
const KEY_VERSION: u32 = 2;

/// Where responses are kept. Neither operation may fail loudly: a cache that does not work is a cache
/// that is empty.
pub trait ResponseCache: Send + Sync {
    fn get(&self, key: &Digest) -> Option<Response>;
    fn put(&self, key: &Digest, response: &Response);
}

impl<C: ResponseCache + ?Sized> ResponseCache for std::sync::Arc<C> {
    fn get(&self, key: &Digest) -> Option<Response> {
        (**self).get(key)
    }

    fn put(&self, key: &Digest, response: &Response) {
        (**self).put(key, response);
    }
}

/// A cache that lives as long as the process.
#[derive(Debug, Default)]
pub struct MemoryCache(Mutex<BTreeMap<Digest, Response>>);

impl ResponseCache for MemoryCache {
    fn get(&self, key: &Digest) -> Option<Response> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).get(key).cloned()
    }

    fn put(&self, key: &Digest, response: &Response) {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        kept.entry(key.clone()).or_insert_with(|| response.clone());
    }
}

/// What an answer is determined by, and nothing else: the weights, tokeniser, adapter, dtype and device
/// that compute it, the version of the code that does, and the request's content. Together with the
/// tokeniser's digest the text stands for the token ids; the chat template counts where it is used, with
/// what it takes for the present ([`Model::clock`]). The sample's own name does not count, so that another run may reuse the answer; the seed does when
/// something is drawn with it, so that repeats stay apart.
#[must_use]
pub fn cache_key(identity: &ModelIdentity, clock: Option<DateTime>, kind: &RequestKind) -> Digest {
    let (request, prompt) = match kind {
        RequestKind::LogLikelihood { context, continuations } => {
            (json!({"log_likelihood": continuations}), Some(context))
        }
        RequestKind::Generate { prompt, params } => (json!({"generate": effective(params)}), Some(prompt)),
        RequestKind::Perplexity { text } => (json!({"perplexity": text}), None),
    };
    let (template, clock) = match prompt {
        Some(Prompt::Chat(_)) => (identity.chat_template.as_ref(), clock),
        Some(Prompt::Text(_)) | None => (None, None),
    };
    Digest::of_json(&json!({
        "version": [json!(KEY_VERSION), json!(env!("CARGO_PKG_VERSION"))],
        "provider": identity.reference.provider,
        "weights": identity.weights,
        "tokenizer": identity.tokenizer,
        "chat_template": template,
        "clock": clock.map(|time| time.to_string()),
        "adapter": identity.adapter,
        "dtype": identity.dtype,
        "device": identity.device,
        "prompt": prompt,
        "request": request,
    }))
}

/// Without what has no effect in greedy decoding (see [`GenerateParams`]).
fn effective(params: &GenerateParams) -> Value {
    let mut params = params.clone();
    if params.temperature == 0.0 {
        params = GenerateParams { top_p: None, top_k: None, min_p: None, seed: 0, ..params };
    }
    json!(params)
}

/// Answers from a cache what was answered before by the same model. A model without an answer is asked;
/// its failures are not kept, nor its answers to prompts that were cut, nor texts whose prompt another
/// rule would have cut to make room for them (the rule for long prompts is not part of the key).
#[derive(Debug)]
pub struct Cached<M, C> {
    model: M,
    cache: C,
}

impl<M: Model, C: ResponseCache + Clone + 'static> Cached<M, C> {
    pub fn new(model: M, cache: C) -> Self {
        Self { model, cache }
    }
}

impl<M: Model, C: ResponseCache + Clone + 'static> Model for Cached<M, C> {
    fn identity(&self) -> &ModelIdentity {
        self.model.identity()
    }

    fn context_length(&self) -> Option<usize> {
        self.model.context_length()
    }

    fn capabilities(&self) -> Capabilities {
        self.model.capabilities()
    }

    fn count_tokens(&self, kind: &RequestKind) -> Option<TokenCount> {
        self.model.count_tokens(kind)
    }

    fn render(&self, prompt: &Prompt) -> Option<String> {
        self.model.render(prompt)
    }

    fn clock(&self) -> Option<DateTime> {
        self.model.clock()
    }

    fn submit(&self, requests: Vec<Request>) -> Replies {
        let mut found = Vec::new();
        let mut missing = Vec::new();
        let mut asked = Vec::new();
        for (index, request) in requests.into_iter().enumerate() {
            let key = cache_key(self.identity(), self.clock(), &request.kind);
            if let Some(mut response) = self.cache.get(&key) {
                response.cached = true;
                response.usage.computed_prompt_tokens = 0;
                found.push((index, Ok(response)));
            } else {
                let wanted = match &request.kind {
                    RequestKind::Generate { params, .. } => Some(u64::from(params.max_tokens)),
                    // Their tokens are counted over all continuations or windows: no measure of length.
                    RequestKind::LogLikelihood { .. } | RequestKind::Perplexity { .. } => None,
                };
                missing.push((index, key, wanted));
                asked.push(request);
            }
        }
        let cache = self.cache.clone();
        let room = self.context_length().map_or(u64::MAX, |length| length as u64);
        let answers = self.model.submit(asked).map(move |(position, result)| {
            // A model that answers what it was not asked is passed on as it is: the caller ignores it.
            let Some((index, key, wanted)) = missing.get(position) else { return (usize::MAX, result) };
            if let Ok(response) = &result
                && response.truncated_tokens == 0
                && wanted.is_none_or(|wanted| response.usage.prompt_tokens + wanted <= room)
            {
                cache.put(key, response);
            }
            (*index, result)
        });
        answers.preceded_by(found)
    }

    fn timing(&self) -> Seconds {
        self.model.timing()
    }
}
