//! Models as the rest of evalign sees them: text in, log-likelihoods or text out.
//!
//! The one seam is the [`Model`] trait. Behind it are providers ([`Local`] for the engine in this
//! process, [`OpenAi`] for servers, [`Scripted`] for tests) and decorators ([`Cached`]); [`load`] turns a
//! [`ModelRef`] into the right one. A server is asked one [`Call`] at a time, through decorators of its
//! own, from the outside in [`Split`], [`Retrying`], [`Limited`], [`Fused`], [`Budgeted`] and [`Deadlined`];
//! [`Remote`] makes a model of it.
//!
//! The one decision: requests are submitted as whole sets and answered in any order. A set is what lets
//! the local engine compute a prompt that thousands of requests share only once; any order is what lets
//! each answer be stored as soon as it exists. Dropping the [`Replies`] is how a caller cancels.
//!
//! ```text
//! submit(requests) -> Replies --next()--> (index, response or error) ... -> end
//!                        '--drop--> what is not yet answered is not computed
//! ```
//!
//! A request that fails has an error of its own and does not disturb the others. [`ModelError::kind`]
//! says whether the request is at fault, the moment, or the model.
//!
//! This crate knows nothing of tasks, runs or storage.

mod budget;
mod cached;
mod call;
mod deadline;
mod decorator;
mod error;
mod fused;
mod limit;
mod load;
mod local;
mod model;
mod openai;
mod price;
mod remote;
mod replies;
mod retry;
mod reward;
mod scripted;
mod split;
mod teller;

pub use budget::{Budget, BudgetLimits, Budgeted};
pub use cached::{Cached, MemoryCache, ResponseCache, cache_key};
pub use call::{Call, Listener};
pub use deadline::Deadlined;
pub use decorator::Decorator;
pub use error::{ErrorKind, ModelError, ServerError, TransportFailure};
pub use evalign_core::ModelRef;
pub use evalign_fetch::{Jitter, RetryPolicy};
pub use evalign_lm::{
    DateTime, DeviceSpec, EncodedText, EncoderIdentity, LmError, LoadOptions as EngineOptions, ONNX_WEIGHTS,
    Piece, Pooling as EncoderPooling, QUANTISED_WEIGHTS, SentenceConfig, TextEncoder, export_onnx,
    quantise_encoder,
};
pub use fused::{Fuse, Fused};
pub use limit::{Concurrency, Limited, Limiter, Limiters};
pub use load::{LoadOptions, load, load_local};
pub use local::{EngineLoad, Local, LocalOptions, OverlongPrompt, ScoredText, ScoredToken};
pub use model::{Capabilities, Intake, Model, TokenCount};
pub use openai::{
    CallDeadlines, Embeddings, EventDecoder, EventTooLong, ModelSettings, Needs, OpenAi, OpenAiOptions,
    Parameter, ServerKind, SystemRole, TokenLimit,
};
pub use price::{Price, PriceTable};
pub use remote::{Remote, RemoteProfile};
pub use replies::{Replies, Reply, ReplySender, Room, Update};
pub use retry::Retrying;
pub use reward::{RewardModel, Rewards};
pub use scripted::Scripted;
pub use split::Split;
pub use teller::Teller;
