//! The service: what the command line does, over HTTP; an OpenAI-compatible endpoint for local models; pages.
//!
//! The one decision made here: **a handler does nothing itself.** It reads a request into the type that the
//! command line also makes, calls the same function of `bench`, `store` or `model`, and writes the answer down.
//! Everything that is true of all routes is decided in one place, [`gate`], which every request passes:
//!
//! ```text
//! connection (bounded, head within a deadline) -> gate: request id -> key or session -> scope -> rate
//!   -> handler (body within a cap; a panic becomes a 500 with the request's id) -> headers, metrics, audit log
//! ```
//!
//! Nobody is let in by default: a path that the gate does not know needs a key like any other, and which tenant
//! a request is for follows from its key alone. A handler gets the store as that tenant sees it, so that it
//! cannot name what belongs to another.
//!
//! Work that takes longer than an answer is a job in the store (`202` and where to look):
//!
//! ```text
//! POST /v1/runs: planned, created, queued --worker claims--> running --> done | failed | cancelled
//!                                            '-- server ends or dies: queued again, nothing answered is lost
//! ```
//!
//! This crate knows no SQL and no prompts, and no address or path that a client sends is ever opened.

mod adapters;
mod app;
mod credentials;
mod daily;
mod error;
mod evidence;
mod extract;
mod gate;
mod indexes;
mod judging;
mod listen;
mod metrics;
mod models;
mod openai;
mod openapi;
mod pages;
mod places;
mod planning;
mod preferences;
mod procedures;
mod quota;
mod remembered;
mod retrieval;
mod routes;
mod runs;
mod scoring;
mod settings;
mod start;
mod trained;
mod training;
mod uploads;
mod votes;
mod work;
mod worker;
mod writes;

pub use app::App;
pub use credentials::{MintedKey, mint_key};
pub use error::ServeError;
pub use listen::{Shutdown, listen};
pub use openapi::{openapi, service};
pub use settings::{Layer, Origin, ServedModels, Setting, Settings, check_variables, settings};
pub use start::{Begun, begin, login_link};
pub use writes::BLOCKING_THREADS;
