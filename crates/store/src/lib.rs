//! The only SQL of evalign: runs, their samples and events, the response cache, and what is indexed of documents,
//! in one SQLite file.
//!
//! The one decision made here: **a sample is one transaction**. Its record, scores, usage and event are
//! written together, and the caller hears "done" only after the commit has reached the disk
//! (`journal_mode=WAL`, `synchronous=FULL`). So there is no second log to recover from: whatever
//! happens to the process, the file holds exactly the samples that were acknowledged (and perhaps some
//! that were about to be), and resuming a run means asking [`Store::finished`] what is left to do.
//!
//! All writes go through one thread. It takes everything that is waiting and commits it together
//! (group commit), so many samples share one disk flush, and none waits for a timer.
//!
//! Who may write to a run is decided by a lease:
//!
//! ```text
//! free --lease()--> held(token n) --release()--> free
//!                     |  renew(): a later end, the same token
//!                     '--ttl over, or the owner's lock file is free--> lease(): held(token n+1)
//! ```
//!
//! Every write to a run carries its lease, and a token that is no longer the current one is refused
//! ([`StoreError::LeaseLost`]); a process that was suspended past its lease therefore cannot disturb
//! the one that took over.
//!
//! A [`Store`] is the view of one tenant ([`Store::for_tenant`]): whoever holds it cannot name another's run. It may
//! also know on whose behalf it is used ([`Store::on_behalf_of`]).
//!
//! This crate knows nothing of models, tasks or networks.

mod audit;
mod cache;
mod error;
mod events;
mod files;
mod idempotency;
mod indexes;
mod jobs;
mod key_use;
mod keys;
mod lease;
mod lock;
mod readers;
mod runs;
mod samples;
mod schema;
mod scores;
mod shown;
mod spending;
mod store;
mod sums;
mod version;
mod web_tokens;
mod writer;

pub use audit::AuditEntry;
pub use error::{Fault, StoreError};
pub use events::Event;
pub use files::StoredFile;
pub use idempotency::{IDEMPOTENCY_TTL, Repetition};
pub use indexes::{IndexCommit, IndexSize, IndexedDocument, TextPlaces};
pub use jobs::{Claim, Enqueued, Job, JobState, Orphans};
pub use key_use::KeyUse;
pub use keys::{KeyLimits, KeyScope, NewKey, StoredKey};
pub use lease::Lease;
pub use runs::{CreatedRun, NewRun, StoredRun};
pub use samples::{Commit, SampleFilter, Samples};
pub use schema::SCHEMA_VERSION;
pub use scores::SampleScores;
pub use shown::{INTERRUPTED, shown_status};
pub use spending::Spending;
pub use store::{Clock, Store, StoreOptions};
pub use version::{CompletedRuns, Version};
pub use web_tokens::{Session, WebToken};
