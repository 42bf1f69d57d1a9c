//! Blind votes on a comparison that is done, cast over REST and on a page.

use evalign_bench::{Ballot, Vote, Votes};
use evalign_core::RunId;
use evalign_store::{JobState, Store};

use crate::app::App;
use crate::error::{ApiError, ApiResult, Code};
use crate::work::owner;

/// What the owner of a key (`voter`) can vote on, and has, once the comparison is done.
pub(crate) fn ballot_of(store: &Store, arena: &RunId, voter: &str) -> ApiResult<Ballot> {
    check_done(store, arena)?;
    Ok(Ballot::of(store, arena, voter)?)
}

impl App {
    /// Casts a vote on a question of a comparison for the owner of a key (`voter`). `false` where the question is not open
    /// to them: it was voted on, or is none.
    pub(crate) fn vote(
        &self,
        store: &Store,
        (arena, voter): (&RunId, &str),
        question: &str,
        vote: Vote,
    ) -> ApiResult<bool> {
        check_done(store, arena)?;
        let votes = Votes::open(store, arena, voter, &owner())?;
        let open = votes.questions().iter().find(|open| open.id() == question);
        let cast = match open {
            Some(open) => votes.cast_one(open, vote).map(|()| true),
            None => Ok(false),
        };
        // Whatever became of it, others can vote.
        votes.close(&owner())?;
        let is_cast = cast?;
        self.active.changed(arena);
        Ok(is_cast)
    }
}

/// Answers that are still to come would be other questions.
fn check_done(store: &Store, arena: &RunId) -> ApiResult<()> {
    let job = store.job_of(&store.run(arena)?.id)?;
    if job.is_some_and(|job| matches!(job.state, JobState::Queued | JobState::Running)) {
        let message = "the comparison is still being worked on: it can be voted on when it is completed";
        return Err(ApiError::new(Code::RunActive, message));
    }
    Ok(())
}
