use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::{ConnectInfo, DefaultBodyLimit, State};
use axum::http::{HeaderMap, Method, Response, Uri};
use axum::response::IntoResponse;
use axum::routing::{get, post};
use serde_json::{Value, json};

use super::answer::{unit, words};
use super::ask::{Ask, Refusal};
use super::behaviour::{Behaviour, Support};
use super::completion::Completion;
use super::delivery::Delivery;
use super::fault::{ErrorBody, What};
use super::ledger::{Ledger, Ticket};
use super::route::Route;
use super::wire::Hold;

/// Largest request taken.
const MOST_BYTES: usize = 64 << 20;

/// tokio's timer counts in milliseconds and rounds up; half of one less is right in the mean.
const TIMER_ROUNDING: Duration = Duration::from_micros(500);

/// Headers that say who asks.
const IDENTIFYING: &[&str] =
    &["authorization", "api-key", "openai-organization", "openai-project", "user-agent"];

/// What all connections share.
#[derive(Debug)]
pub(super) struct Shared {
    behaviour: RwLock<Arc<Behaviour>>,
    pub(super) ledger: Ledger,
}

impl Shared {
    pub(super) fn new(behaviour: Behaviour) -> Self {
        Self { behaviour: RwLock::new(Arc::new(behaviour)), ledger: Ledger::new() }
    }

    pub(super) fn behaviour(&self) -> Arc<Behaviour> {
        Arc::clone(&self.behaviour.read().unwrap_or_else(PoisonError::into_inner))
    }

    pub(super) fn behave(&self, behaviour: Behaviour) {
        *self.behaviour.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(behaviour);
    }
}

/// The API (see [`Route::of`]; everything else is 404), and two routes of the server's own.
pub(super) fn router(shared: Arc<Shared>) -> Router {
    Router::new()
        .route("/scripted/summary", get(summary))
        .route("/scripted/forget", post(forget))
        .fallback(api)
        .layer(DefaultBodyLimit::max(MOST_BYTES))
        .with_state(shared)
}

async fn summary(State(shared): State<Arc<Shared>>) -> impl IntoResponse {
    let round_trip = Duration::from_secs_f64(shared.behaviour().latency_ms / 1000.0);
    axum::Json(shared.ledger.requests().summary(round_trip))
}

async fn forget(State(shared): State<Arc<Shared>>) {
    shared.ledger.forget();
}

async fn api(
    State(shared): State<Arc<Shared>>,
    ConnectInfo(hold): ConnectInfo<Hold>,
    method: Method,
    uri: Uri,
    headers: HeaderMap,
    body: Bytes,
) -> Response<Body> {
    let behaviour = shared.behaviour();
    let route = Route::of(uri.path());
    for name in IDENTIFYING {
        if let Some(value) = headers.get(*name) {
            shared.ledger.identify(name, &String::from_utf8_lossy(value.as_bytes()));
        }
    }
    let ask = if method == Method::POST { Ask::parse(&body) } else { Ok(Ask::default()) };
    let text = ask.as_ref().map(|ask| ask.text(&behaviour)).unwrap_or_default();
    let ticket = shared.ledger.admit(route, uri.path(), text, body);
    let call = Call { behaviour: &behaviour, route, ticket: &ticket };
    let delivery = match call.turned_away(&headers) {
        Some(refusal) => refusal,
        None => call.answer(uri.path(), ask, &hold).await,
    };
    delivery.into_response(ticket, hold)
}

/// One request on its way through the server.
struct Call<'a> {
    behaviour: &'a Behaviour,
    route: Route,
    ticket: &'a Ticket,
}

impl Call<'_> {
    /// What a server says before it looks at the request: who are you, and not now.
    fn turned_away(&self, headers: &HeaderMap) -> Option<Delivery> {
        let behaviour = self.behaviour;
        if let Some(wanted) = &behaviour.api_key {
            let bearer = headers.get("authorization").and_then(|value| value.to_str().ok());
            let bearer = bearer.and_then(|value| value.strip_prefix("Bearer "));
            let given = bearer.or_else(|| headers.get("api-key").and_then(|value| value.to_str().ok()));
            if given != Some(wanted) {
                let given = given.unwrap_or_default();
                let message = format!("Incorrect API key provided: {given}.");
                return Some(Delivery::error(401, None, None, Some(&message), ErrorBody::OpenAi));
            }
        }
        // Listing models is free.
        let over = behaviour.cliff.is_some_and(|cliff| self.ticket.in_flight > cliff);
        (over && self.route != Route::Models).then(|| {
            Delivery::error(429, None, None, None, ErrorBody::OpenAi)
                .retry_after(behaviour.cliff_retry_after.as_ref())
        })
    }

    async fn answer(&self, path: &str, ask: Result<Ask, Refusal>, hold: &Hold) -> Delivery {
        let behaviour = self.behaviour;
        let fault = behaviour.faults.iter().find(|fault| fault.when.holds(behaviour.seed, self.ticket));
        let what = fault.map(|fault| &fault.what);
        match what {
            // Refusals are quick.
            Some(what @ (What::Status { .. } | What::Redirect { .. })) => {
                return Delivery::json("").spoil(what, hold);
            }
            Some(What::StallBeforeHeaders) => std::future::pending().await,
            _ => self.work(what).await,
        }
        let whole = ask.and_then(|ask| self.whole(path, &ask, what)).unwrap_or_else(|refusal| {
            let Refusal { status, code, param, message } = refusal;
            Delivery::error(status, Some(code), param, Some(&message), ErrorBody::OpenAi)
        });
        match what {
            Some(what) => whole.spoil(what, hold),
            None => whole,
        }
    }

    /// Takes the time an answer takes.
    async fn work(&self, what: Option<&What>) {
        let (content, attempt) = (self.ticket.content.as_str(), self.ticket.attempt.to_string());
        let mut time = match self.route {
            Route::Models | Route::Other => Duration::ZERO,
            _ => {
                let seed = self.behaviour.seed.to_string();
                self.behaviour.latency(unit(&["latency", &seed, content, &attempt]))
            }
        };
        if let Some(What::Delay { ms }) = what {
            time += Duration::from_millis(*ms);
        }
        if !time.is_zero() {
            tokio::time::sleep(time.saturating_sub(TIMER_ROUNDING)).await;
        }
    }

    /// The answer as it would be without faults of the wire.
    fn whole(&self, path: &str, ask: &Ask, what: Option<&What>) -> Result<Delivery, Refusal> {
        let can = &self.behaviour.capabilities;
        let there = match self.route {
            Route::Models => can.list_models,
            Route::Chat => can.chat,
            Route::Completions => can.completions,
            Route::Embeddings => can.embeddings,
            Route::Other => false,
        };
        if !there {
            return Ok(Delivery::error(404, None, None, Some("Not Found"), ErrorBody::Detail));
        }
        match self.route {
            Route::Models => return Ok(self.models(path)),
            // Azure names the model in the path only.
            _ if path.contains("/deployments/") && ask.model.is_none() => {}
            _ => ask.check(self.route, self.behaviour)?,
        }
        if self.route == Route::Embeddings {
            return self.embeddings(ask);
        }
        let mut completion = Completion::of(self.route, ask, self.behaviour, self.ticket.attempt)?;
        match what {
            Some(What::DuplicateChoices) => {
                let twice = completion.choices.iter().flat_map(|choice| [choice.clone(), choice.clone()]);
                completion.choices = twice.collect();
            }
            Some(What::EmptyChoices) => completion.choices.clear(),
            Some(What::NullContent) => completion.null_content = true,
            Some(What::Declined) => completion.declined = true,
            Some(What::Filtered) => completion.finish_with("content_filter"),
            Some(What::Usage { usage }) => completion.count_as(usage.clone()),
            _ => {}
        }
        Ok(match ask.stream && can.stream == Support::Yes {
            true => Delivery::events(&completion.events()),
            false => Delivery::json(completion.document()),
        })
    }

    fn models(&self, path: &str) -> Delivery {
        let model =
            |name: &String| json!({"id": name, "object": "model", "created": 0, "owned_by": "evalign"});
        match path.split_once("/models/") {
            None => {
                let list: Vec<Value> = self.behaviour.models.iter().map(model).collect();
                Delivery::json(json!({"object": "list", "data": list}).to_string())
            }
            Some((_, name)) => match self.behaviour.models.iter().find(|known| *known == name) {
                Some(known) => Delivery::json(model(known).to_string()),
                None => Delivery::error(404, None, None, None, ErrorBody::OpenAi),
            },
        }
    }

    /// Unit vectors made up from the seed and the text.
    fn embeddings(&self, ask: &Ask) -> Result<Delivery, Refusal> {
        let texts = ask.texts(Route::Embeddings)?;
        let size = ask.dimensions.unwrap_or(8).clamp(1, 4096);
        let (seed, ordinal) = (self.behaviour.seed.to_string(), self.ticket.ordinal.to_string());
        let embed = |(index, text): (usize, &String)| {
            let number = |place: usize| {
                let place = place.to_string();
                let noise = 2.0 * unit(&["noise", &seed, &ordinal, &place]) - 1.0;
                unit(&["embed", &seed, text, &place]) - 0.5 + self.behaviour.embedding_noise * noise
            };
            let numbers: Vec<f64> = (0..size).map(number).collect();
            let norm = numbers.iter().map(|x| x * x).sum::<f64>().sqrt();
            let numbers: Vec<f64> = numbers.iter().map(|x| x / norm).collect();
            json!({"object": "embedding", "index": index, "embedding": numbers})
        };
        let data: Vec<Value> = texts.iter().enumerate().map(embed).collect();
        let read: u64 = texts.iter().map(|text| words(text)).sum();
        let usage = json!({"prompt_tokens": read, "total_tokens": read});
        let answer = json!({"object": "list", "data": data, "model": ask.model, "usage": usage});
        Ok(Delivery::json(answer.to_string()))
    }
}
