use std::sync::Arc;

use tokio::sync::watch;

/// How urgently a run is to end.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum CancelLevel {
    #[default]
    None,
    /// Ask nothing more; take and commit what is being answered where answers are paid for, and what has
    /// arrived elsewhere.
    Drain,
    /// End at once; what was not committed will be asked again on resume.
    Abort,
}

/// A switch that ends a run from outside. Clones are the same switch; it only ever gets more urgent.
#[derive(Clone, Debug)]
pub struct Cancel(Arc<watch::Sender<CancelLevel>>);

impl Default for Cancel {
    fn default() -> Self {
        Self(Arc::new(watch::Sender::new(CancelLevel::None)))
    }
}

impl Cancel {
    /// One step more urgent: the first call drains, the second aborts.
    pub fn raise(&self) {
        self.0.send_modify(|level| {
            *level = if *level == CancelLevel::None { CancelLevel::Drain } else { CancelLevel::Abort };
        });
    }

    #[must_use]
    pub fn level(&self) -> CancelLevel {
        *self.0.borrow()
    }

    /// Waits until it is more urgent than `level`.
    pub async fn raised_above(&self, level: CancelLevel) -> CancelLevel {
        let mut watched = self.0.subscribe();
        // The sender lives in `self`, so waiting cannot fail.
        watched.wait_for(|now| *now > level).await.map_or(CancelLevel::Abort, |now| *now)
    }
}
