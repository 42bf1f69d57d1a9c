//! Weights that this process holds, so that models of the same files share them.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use evalign_core::{Digest, Dtype};

use super::Base;
use crate::weights::Weights;
use crate::{DeviceSpec, LmError};

/// The weights of all models of this process whose backend has such matrices and vectors, for as long as one of these
/// models lives.
#[derive(Debug)]
pub(crate) struct HeldWeights<M, V>(Mutex<Known<M, V>>);

/// Where weights are held, and as what.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Form {
    pub(crate) device: DeviceSpec,
    pub(crate) dtype: Dtype,
}

/// What weights that may be the same have in common: their form and the bytes of their files.
type Kind = (Form, u64);

#[derive(Debug)]
struct Known<M, V> {
    held: Vec<Held<M, V>>,
    /// Those that are being read or waited for.
    turns: Vec<(Kind, Weak<Mutex<()>>)>,
}

#[derive(Debug)]
struct Held<M, V> {
    kind: Kind,
    digest: Digest,
    base: Weak<Base<M, V>>,
}

impl<M: Send, V: Send> HeldWeights<M, V> {
    pub(crate) const fn new() -> Self {
        Self(Mutex::new(Known { held: Vec::new(), turns: Vec::new() }))
    }

    /// Never for longer than a look takes, and nothing else is locked under it.
    fn lock(&self) -> MutexGuard<'_, Known<M, V>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The digest of the files, where weights are held that may be theirs.
    fn digest_of_alike(&self, kind: Kind, weights: &Weights) -> Option<Digest> {
        let alike = |held: &Held<M, V>| held.kind == kind && held.base.strong_count() > 0;
        let is_known = self.lock().held.iter().any(alike);
        is_known.then(|| weights.digest())
    }

    fn find(&self, kind: Kind, digest: &Digest) -> Option<Arc<Base<M, V>>> {
        let known = self.lock();
        let mut same = known.held.iter().filter(|held| held.kind == kind && held.digest == *digest);
        same.find_map(|held| held.base.upgrade())
    }

    /// What is locked to read weights of a kind: the same for all who have it or wait for it.
    fn turn(&self, kind: Kind) -> Arc<Mutex<()>> {
        let mut known = self.lock();
        known.turns.retain(|(_, turn)| turn.strong_count() > 0);
        let mut same = known.turns.iter().filter(|(other, _)| *other == kind);
        if let Some(turn) = same.find_map(|(_, turn)| turn.upgrade()) {
            return turn;
        }
        let turn = Arc::new(Mutex::new(()));
        known.turns.push((kind, Arc::downgrade(&turn)));
        turn
    }

    /// The weights of these files with their digest: those that are held, else what `read` gives.
    ///
    /// What may be the same is read one after the other, that two of the same files at the same time are one; nobody else
    /// waits. Each caller holds one turn and no other, so none waits for one that waits.
    ///
    /// # Errors
    /// Those of `read`.
    pub(crate) fn get(
        &self,
        form: Form,
        weights: &Weights,
        read: impl FnOnce() -> Result<Base<M, V>, LmError>,
    ) -> Result<(Arc<Base<M, V>>, Digest), LmError> {
        let kind = (form, weights.bytes());
        // The digest takes as long as reading does: where nothing can be found with it, both are done at once.
        let mut known = self.digest_of_alike(kind, weights);
        if let Some(digest) = &known
            && let Some(base) = self.find(kind, digest)
        {
            return Ok((base, digest.clone()));
        }
        let turn = self.turn(kind);
        let _only = turn.lock().unwrap_or_else(PoisonError::into_inner);
        // Others may have read them meanwhile.
        known = known.or_else(|| self.digest_of_alike(kind, weights));
        if let Some(digest) = &known
            && let Some(base) = self.find(kind, digest)
        {
            return Ok((base, digest.clone()));
        }
        let (base, digest) = std::thread::scope(|scope| {
            let digest = scope.spawn(|| known.unwrap_or_else(|| weights.digest()));
            let base = read();
            let digest = digest.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            Ok::<_, LmError>((Arc::new(base?), digest))
        })?;
        let mut known = self.lock();
        known.held.retain(|held| held.base.strong_count() > 0);
        known.held.push(Held { kind, digest: digest.clone(), base: Arc::downgrade(&base) });
        drop(known);
        Ok((base, digest))
    }
}

#[cfg(test)]
mod tests;
