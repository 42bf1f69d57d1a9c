use std::time::Duration;

/// What a sweep does one after the other, many times; each takes a time of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TuneStep {
    /// A document is cut, embedded and written.
    Document,
    /// The lists of a query are asked.
    Query,
    /// The first hits of a query are judged again.
    Judged,
}

/// How often each is done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TuneSteps {
    pub documents: u64,
    pub queries: u64,
    pub judged: u64,
}

impl TuneSteps {
    #[must_use]
    pub fn total(self) -> u64 {
        self.documents + self.queries + self.judged
    }
}

/// How long the rest of a sweep takes, going by what its steps took until now, each kind for itself.
#[derive(Clone, Copy, Debug)]
pub struct TimeLeft {
    of: [u64; 3],
    done: [u64; 3],
    spent: [Duration; 3],
    /// Until the last step.
    elapsed: Duration,
}

impl TimeLeft {
    #[must_use]
    pub fn new(TuneSteps { documents, queries, judged }: TuneSteps) -> Self {
        Self {
            of: [documents, queries, judged],
            done: [0; 3],
            spent: [Duration::ZERO; 3],
            elapsed: Duration::ZERO,
        }
    }

    /// More steps of a kind are done; `elapsed`: since the sweep began. Steps follow one another, so what has passed since
    /// those before is theirs.
    pub fn advance(&mut self, step: TuneStep, more: u64, elapsed: Duration) {
        let kind = step as usize;
        self.done[kind] += more;
        self.spent[kind] += elapsed.saturating_sub(self.elapsed);
        self.elapsed = elapsed;
    }

    #[must_use]
    pub fn done(&self) -> u64 {
        self.done.iter().sum()
    }

    /// `None` before one of each kind is done.
    #[must_use]
    pub fn left(&self) -> Option<Duration> {
        let mut seconds = 0.0;
        for ((of, done), spent) in self.of.iter().zip(self.done).zip(self.spent) {
            match of.saturating_sub(done) {
                0 => {}
                _ if done == 0 => return None,
                open => seconds += spent.as_secs_f64() / done as f64 * open as f64,
            }
        }
        Duration::try_from_secs_f64(seconds).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_left_is_reckoned_with_what_each_kind_of_step_takes() {
        let mut left = TimeLeft::new(TuneSteps { documents: 20, queries: 4, judged: 4 });
        let at = Duration::from_secs;
        left.advance(TuneStep::Document, 10, at(1));
        left.advance(TuneStep::Query, 2, at(3));
        assert_eq!(left.left(), None, "nothing has been judged yet");
        left.advance(TuneStep::Judged, 2, at(43));
        // 10 documents at 0.1 s, 2 queries at 1 s, 2 at 20 s.
        assert_eq!(left.left(), Some(at(43)));
        left.advance(TuneStep::Document, 10, at(44));
        left.advance(TuneStep::Query, 2, at(46));
        left.advance(TuneStep::Judged, 2, at(86));
        assert_eq!((left.left(), left.done()), (Some(Duration::ZERO), 28));
    }
}
