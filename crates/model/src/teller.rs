//! Telling an answer while it is written, attempt after attempt.

use evalign_lm::Piece;

use crate::replies::ReplySender;

/// Tells one answer of a submission. An attempt that fails may be followed by another, which writes from the
/// beginning: what was told stays as long as it is written again, and is withdrawn where it is not.
#[derive(Debug)]
pub struct Teller {
    index: usize,
    replies: ReplySender,
    told: String,
    /// A stream broke off: this answer is no longer asked for in pieces.
    wants_whole: bool,
}

impl Teller {
    pub(crate) fn new(index: usize, replies: ReplySender) -> Self {
        Self { index, replies, told: String::new(), wants_whole: false }
    }

    /// Whether a server is to send the answer in pieces.
    pub(crate) fn wants_pieces(&self) -> bool {
        !self.wants_whole
    }

    /// The next attempt asks for the whole answer, as everybody does to whom nobody listens: what is wrong with a
    /// server's streams must not cost an answer.
    pub(crate) fn ask_for_the_whole(&mut self) {
        self.wants_whole = true;
    }

    /// Tells what is new of a text that is being written, given from its beginning.
    pub(crate) fn tell_beginning(&mut self, text: &str) {
        // Up to where another attempt came, nothing is new.
        if !self.told.starts_with(text) {
            self.tell(text);
        }
    }

    /// Tells what is missing of the whole text.
    pub(crate) fn tell(&mut self, text: &str) {
        if !text.starts_with(&self.told) {
            if !self.replies.withdraw(self.index) {
                return;
            }
            self.told.clear();
        }
        let Some(new) = text.strip_prefix(&self.told).filter(|new| !new.is_empty()) else { return };
        let piece = Piece { text: new.to_owned(), logprobs: Vec::new() };
        if self.replies.piece(self.index, piece).is_ok() {
            self.told = text.to_owned();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::replies::{Replies, Update};

    /// What is heard: pieces, and `<` where they were withdrawn.
    fn heard(tell: impl FnOnce(&mut Teller)) -> Vec<String> {
        let (sender, mut replies) = Replies::channel();
        tell(&mut Teller::new(3, sender));
        let mut heard = Vec::new();
        while let Some(update) = futures::executor::block_on(replies.next_update()) {
            heard.push(match update {
                Update::Piece(3, piece) => piece.text,
                Update::Withdrawn(3) => "<".to_owned(),
                other => panic!("{other:?}"),
            });
        }
        heard
    }

    #[test]
    fn what_is_written_again_is_told_once() {
        let attempts = |teller: &mut Teller| {
            for text in ["It", "It is", "", "I", "It is", "It is so"] {
                teller.tell_beginning(text);
            }
            teller.tell("It is so.");
        };
        assert_eq!(heard(attempts), ["It", " is", " so", "."]);
    }

    #[test]
    fn what_is_not_written_again_is_withdrawn() {
        let attempts = |teller: &mut Teller| {
            for text in ["It is", "It", "It was", "It was n"] {
                teller.tell_beginning(text);
            }
            teller.tell("It was");
        };
        assert_eq!(heard(attempts), ["It is", "<", "It was", " n", "<", "It was"]);
        assert_eq!(heard(|teller| ["No", ""].iter().for_each(|text| teller.tell(text))), ["No", "<"]);
    }
}
