//! Models as the rest of evalign sees them: text in, log-likelihoods or text out.
//!
//! The one seam is the [`Model`] trait. Behind it are providers ([`Local`] for the engine in this
//! process, [`Scripted`] for tests) and decorators ([`Cached`]); [`load`] turns a [`ModelRef`] into the
//! right one.
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

mod cached;
mod error;
mod load;
mod local;
mod model;
mod replies;
mod scripted;

pub use cached::{Cached, MemoryCache, ResponseCache, cache_key};
pub use error::{ErrorKind, ModelError};
pub use evalign_core::ModelRef;
pub use evalign_lm::{DateTime, DeviceSpec};
pub use load::{LoadOptions, load};
pub use local::{Local, LocalOptions, OverlongPrompt};
pub use model::{Capabilities, Model, TokenCount};
pub use replies::{Replies, Reply, ReplySender};
pub use scripted::Scripted;
