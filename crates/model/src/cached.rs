use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use evalign_core::{
    AnswerForm, Digest, GenerateParams, Message, ModelIdentity, Prompt, Provider, Request, RequestKind,
    Response, Role,
};
use evalign_lm::DateTime;
use serde::Serialize;

use crate::decorator::Decorator;
use crate::model::Model;
use crate::replies::{Replies, Update};

/// Raised when the way requests become tokens, or what a response means, changes.
const KEY_VERSION: u32 = 2;

/// Where responses are kept. Neither operation may fail loudly: a cache that does not work is a cache
/// that is empty.
pub trait ResponseCache: Send + Sync {
    fn get(&self, key: &Digest) -> Option<Response>;
    /// [`ResponseCache::get`] for many, where that is faster together.
    fn get_all(&self, keys: &[Digest]) -> Vec<Option<Response>> {
        keys.iter().map(|key| self.get(key)).collect()
    }
    fn put(&self, key: &Digest, response: &Response);
}

impl<C: ResponseCache + ?Sized> ResponseCache for std::sync::Arc<C> {
    fn get(&self, key: &Digest) -> Option<Response> {
        (**self).get(key)
    }

    fn get_all(&self, keys: &[Digest]) -> Vec<Option<Response>> {
        (**self).get_all(keys)
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
            (KeyRequest::LogLikelihood(continuations), Some(context))
        }
        RequestKind::Generate { prompt, params } => {
            (KeyRequest::Generate(KeyParams::of(params)), Some(prompt))
        }
        RequestKind::Perplexity { text } => (KeyRequest::Perplexity(text), None),
    };
    let (template, clock) = match prompt {
        Some(Prompt::Chat(_)) => (identity.chat_template.as_ref(), clock),
        Some(Prompt::Text(_)) | None => (None, None),
    };
    Digest::of_canonical(&Key {
        adapter: identity.adapter.as_ref(),
        chat_template: template,
        clock: clock.map(|time| time.to_string()),
        device: &identity.device,
        dtype: &identity.dtype,
        prompt: prompt.map(KeyPrompt::of),
        provider: identity.reference.provider,
        request,
        tokenizer: &identity.tokenizer,
        version: (KEY_VERSION, env!("CARGO_PKG_VERSION")),
        weights: &identity.weights,
    })
}

/// What a key is the digest of. Its canonical JSON is its JSON: fields stand in alphabetical order, here and
/// in everything below. That makes a key cheap, and there is one for every request.
#[derive(Serialize)]
struct Key<'a> {
    adapter: Option<&'a Digest>,
    chat_template: Option<&'a Digest>,
    clock: Option<String>,
    device: &'a str,
    dtype: &'a str,
    prompt: Option<KeyPrompt<'a>>,
    provider: Provider,
    request: KeyRequest<'a>,
    tokenizer: &'a Digest,
    version: (u32, &'static str),
    weights: &'a Digest,
}

#[derive(Serialize)]
#[serde(rename_all = "snake_case")]
enum KeyPrompt<'a> {
    Text(&'a str),
    Chat(Vec<KeyMessage<'a>>),
}

#[derive(Serialize)]
struct KeyMessage<'a> {
    content: &'a str,
    role: Role,
}

#[derive(Serialize)]
#[serde(rename_all = "snake_case")]
enum KeyRequest<'a> {
    LogLikelihood(&'a [String]),
    Generate(KeyParams<'a>),
    Perplexity(&'a str),
}

#[derive(Serialize)]
struct KeyParams<'a> {
    logprobs: bool,
    max_tokens: u32,
    min_p: Option<f64>,
    repetition_penalty: Option<f64>,
    #[serde(flatten)]
    form: Option<&'a AnswerForm>,
    seed: u64,
    stop: &'a [String],
    temperature: f64,
    top_k: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    top_logprobs: Option<u32>,
    top_p: Option<f64>,
}

impl<'a> KeyPrompt<'a> {
    fn of(prompt: &'a Prompt) -> Self {
        match prompt {
            Prompt::Text(text) => Self::Text(text),
            Prompt::Chat(messages) => Self::Chat(
                messages
                    .iter()
                    .map(|Message { role, content }| KeyMessage { content, role: *role })
                    .collect(),
            ),
        }
    }
}

impl<'a> KeyParams<'a> {
    /// Without what has no effect in greedy decoding (see [`GenerateParams`]).
    fn of(params: &'a GenerateParams) -> Self {
        let GenerateParams {
            max_tokens,
            temperature,
            top_p,
            top_k,
            min_p,
            repetition_penalty,
            stop,
            seed,
            logprobs,
            top_logprobs,
            form,
        } = params;
        let drawn = *temperature != 0.0;
        Self {
            form: form.as_ref(),
            logprobs: *logprobs,
            max_tokens: *max_tokens,
            min_p: min_p.filter(|_| drawn),
            repetition_penalty: *repetition_penalty,
            seed: if drawn { *seed } else { 0 },
            stop,
            temperature: *temperature,
            top_k: top_k.filter(|_| drawn),
            top_logprobs: Some(*top_logprobs).filter(|count| *logprobs && *count > 0),
            top_p: top_p.filter(|_| drawn),
        }
    }
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

impl<M: Model, C: ResponseCache + Clone + 'static> Decorator for Cached<M, C> {
    type Inner = M;

    fn inner(&self) -> &M {
        &self.model
    }

    fn answer(&self, requests: Vec<Request>, is_streamed: bool) -> Replies {
        let mut found = Vec::new();
        let mut missing = Vec::new();
        let mut asked = Vec::new();
        let key = |request: &Request| cache_key(self.identity(), self.clock(), &request.kind);
        let keys: Vec<Digest> = requests.iter().map(key).collect();
        let known = self.cache.get_all(&keys);
        for (index, ((request, key), known)) in requests.into_iter().zip(keys).zip(known).enumerate() {
            if let Some(mut response) = known {
                response.cached = true;
                if let Some(usage) = &mut response.usage {
                    usage.computed_prompt_tokens = 0;
                }
                response.latency = None;
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
        let answers = self.ask_inner(asked, is_streamed).map(move |update| {
            // A model that answers what it was not asked is passed on: the caller ignores it.
            let place = |position: usize| missing.get(position).map_or(usize::MAX, |(index, ..)| *index);
            let (position, result) = match update {
                Update::Piece(position, piece) => return Update::Piece(place(position), piece),
                Update::Withdrawn(position) => return Update::Withdrawn(place(position)),
                Update::Answer(reply) => reply,
            };
            if let Ok(response) = &result
                && let Some((_, key, wanted)) = missing.get(position)
                && response.truncated_tokens == 0
                && wanted
                    .zip(response.usage)
                    .is_none_or(|(wanted, usage)| usage.prompt_tokens.saturating_add(wanted) <= room)
            {
                cache.put(key, response);
            }
            Update::Answer((place(position), result))
        });
        answers.preceded_by(found)
    }
}

#[cfg(test)]
mod tests {
    use evalign_core::ModelRef;
    use serde_json::json;

    use super::*;

    fn identity() -> ModelIdentity {
        ModelIdentity {
            reference: "openai/m".parse::<ModelRef>().unwrap(),
            weights: Digest::of("weights"),
            tokenizer: Digest::of("tokenizer"),
            chat_template: Some(Digest::of("template")),
            adapter: None,
            trained_on: None,
            dtype: "unknown".to_owned(),
            device: "http://h/v1 \"quoted\"".to_owned(),
        }
    }

    fn key_in_words(
        prompt: &serde_json::Value,
        template: Option<&Digest>,
        request: &serde_json::Value,
    ) -> Digest {
        let identity = identity();
        Digest::of_json(&json!({
            "version": [json!(KEY_VERSION), json!(env!("CARGO_PKG_VERSION"))],
            "provider": identity.reference.provider, "weights": identity.weights,
            "tokenizer": identity.tokenizer, "chat_template": template, "clock": null, "adapter": null,
            "dtype": identity.dtype, "device": identity.device, "prompt": prompt, "request": request,
        }))
    }

    /// Keys are on users' disks: how they are computed may change, what comes out may not.
    #[test]
    fn keys_are_digests_of_canonical_json() {
        let key = |kind: &RequestKind| cache_key(&identity(), None, kind);
        let context = Prompt::Text("ü\n\"".to_owned());
        let asked = RequestKind::LogLikelihood { context, continuations: vec![" A".to_owned()] };
        let wanted = json!({"log_likelihood": [" A"]});
        assert_eq!(key(&asked), key_in_words(&json!({"text": "ü\n\""}), None, &wanted));

        let prompt = Prompt::Chat(vec![Message { role: Role::User, content: "hi".to_owned() }]);
        let drawn = GenerateParams {
            temperature: 0.7,
            top_p: Some(0.9),
            top_k: Some(5),
            min_p: Some(0.05),
            repetition_penalty: Some(1.1),
            stop: vec!["\n".to_owned()],
            seed: u64::MAX,
            ..GenerateParams::default()
        };
        let greedy = GenerateParams { temperature: 0.0, ..drawn.clone() };
        let without_effect =
            GenerateParams { top_p: None, top_k: None, min_p: None, seed: 0, ..greedy.clone() };
        let chat = json!({"chat": [{"role": "user", "content": "hi"}]});
        let named = GenerateParams { logprobs: true, top_logprobs: 5, ..drawn.clone() };
        let cases = [(drawn.clone(), drawn), (greedy, without_effect), (named.clone(), named)];
        for (params, counted) in cases {
            let asked = RequestKind::Generate { prompt: prompt.clone(), params };
            let wanted =
                key_in_words(&chat, identity().chat_template.as_ref(), &json!({"generate": counted}));
            assert_eq!(key(&asked), wanted);
        }
        let asked = RequestKind::Perplexity { text: "t".to_owned() };
        assert_eq!(key(&asked), key_in_words(&json!(null), None, &json!({"perplexity": "t"})));
    }
}
