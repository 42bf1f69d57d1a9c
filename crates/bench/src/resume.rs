//! Going on with a stored run.

use evalign_store::StoredRun;

use crate::{Plan, RunError};

/// Refuses to resume a run as something else: every field in which the plan made now differs from the
/// stored specification is named.
///
/// # Errors
/// [`RunError::SpecChanged`].
pub fn check_resume(stored: &StoredRun, plan: &Plan) -> Result<(), RunError> {
    let differences = stored.spec.differences(&plan.spec);
    if differences.is_empty() {
        return Ok(());
    }
    Err(RunError::SpecChanged { run: stored.id.clone(), differences })
}
