//! Blind votes on a comparison that is done, cast over REST and on a page.

use evalign_bench::{Vote, Votes};
use evalign_core::RunId;
use evalign_store::Store;

use crate::app::App;
use crate::error::ApiResult;
use crate::work::owner;

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
