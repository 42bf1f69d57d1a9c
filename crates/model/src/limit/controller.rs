use std::time::Duration;

use tokio::time::Instant;

use super::Concurrency;

/// Requests in flight of which a fresh limiter is sure that any server takes them, or says so at once.
const INITIAL: usize = 40;
/// No more in flight, however much the server takes: each is a connection where the server speaks
/// HTTP/1.1, and processes commonly may have 1024 files open.
const MOST: usize = 512;
/// After a refusal the limit goes to this share of what was seen to be too much.
const CUT: f64 = 0.9;
/// A refusal at a level that was fine before says little about the level: it takes the ceiling down to
/// this share of what it was, and no further.
const DEEPEST_CUT: f64 = 0.8;
/// No more of what is in flight is taken to be on the wire: some servers take their time to refuse.
const MOST_ON_THE_WIRE: f64 = 0.1;
/// Growth per round trip once the level that is too much is known.
const STEP: f64 = 0.05;
/// Answers count towards growth only while this share of the limit was in use (the saturation gate).
const SATURATED: f64 = 0.8;
/// Doubling must raise the throughput by this factor to count as worth it...
const WORTH_IT: f64 = 1.25;
/// ...and this many doublings that are not end the doubling (BBR's "full pipe": Cardwell et al. 2016).
const FLAT_EPOCHS: u32 = 3;
/// Round trips and time at the ceiling before a step beyond it is tried; a failed try multiplies the
/// round trips by [`PROBE_BACKOFF`].
const PROBE_ROUNDS: u64 = 128;
const PROBE_AFTER: Duration = Duration::from_secs(30);
const PROBE_BACKOFF: u64 = 16;
/// Nothing is sent for this long, doubling up to the cap, when a whole round trip was refused.
const PAUSE: Duration = Duration::from_millis(500);
const PAUSE_CAP: Duration = Duration::from_secs(30);
/// No `Retry-After` is heeded for longer.
pub(super) const RETRY_AFTER_CAP: Duration = Duration::from_secs(120);

/// What became of a request, as far as the limit is concerned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Answer {
    Accepted,
    /// HTTP 429.
    Refused {
        retry_after: Option<Duration>,
    },
    /// The server or the way to it is in trouble of another kind: no time to send more.
    Disturbed,
    /// Nothing to learn: the request itself was at fault, or it was cancelled.
    Other,
}

/// A request in flight.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ticket {
    /// 1, 2, 3, ... in the order of sending.
    seq: u64,
    /// Requests in flight when it was sent, itself included.
    in_flight: usize,
    sent: Instant,
}

/// Decides how many requests may be in flight. Pure: told what happens, it says the limit.
///
/// Additive increase, multiplicative decrease (Chiu and Jain 1989) with slow start and one cut per round
/// trip (Jacobson 1988; "recover" of RFC 6582), and with two things a congestion window does not have.
/// A refusal tells more than a lost packet: the request that was refused while `n` were in flight shows
/// that the server takes fewer than `n`, because what the server has in hand is never more than what
/// was sent and not answered. So the least such `n` is remembered as a ceiling, approached from below
/// and not passed again, except for a rare step to see whether it is still there. And a server that
/// refuses nothing but is no faster for more requests is not given more.
#[derive(Debug)]
pub(super) struct Controller {
    adaptive: bool,
    limit: f64,
    in_flight: usize,
    /// Requests sent so far: the latest ticket.
    sent: u64,
    /// Refusals of tickets up to this one belong to the burst that was cut for already.
    recover: u64,
    /// Answers to tickets up to this one say nothing about whether there is room for more.
    hold: u64,
    /// `Retry-After`: no growth before.
    growth_from: Option<Instant>,
    slow_start: Option<Epoch>,
    ceiling: Option<Ceiling>,
    /// Where the very first answers are refusals: how many of the requests sent before were accepted.
    accepted_at_once: Option<usize>,
    proven: Proven,
    /// Smoothed time to an answer.
    answer_secs: Option<f64>,
    /// The least time a refusal took.
    refusal_secs: Option<f64>,
    /// Any request was refused so far.
    refused: bool,
    accepted_since_burst: bool,
    /// Round trips in a row in which everything was refused.
    closed_rounds: u32,
    paused_until: Option<Instant>,
}

/// The most that is known to work.
#[derive(Clone, Copy, Debug)]
struct Ceiling {
    level: usize,
    /// Further refusals of the same burst lower it no further than this.
    floor: usize,
    since: Instant,
    /// Round trips at this level, and after how many a step beyond is tried.
    rounds: u64,
    probe_rounds: u64,
}

/// The highest level at which requests were sent and accepted, a whole round trip ago: refusals take
/// time to come back, so what was accepted just now proves nothing yet.
#[derive(Clone, Copy, Debug, Default)]
struct Proven {
    level: usize,
    candidate: usize,
    /// The round trip ends with the first answer to a ticket after this one.
    mark: u64,
}

/// As many answers as there were requests in flight at its start; measures throughput in slow start.
#[derive(Clone, Copy, Debug)]
struct Epoch {
    started: Option<Instant>,
    answers_left: usize,
    answers: usize,
    best_per_sec: f64,
    best_limit: usize,
    flat: u32,
}

impl Epoch {
    fn first() -> Self {
        Self { started: None, answers_left: 0, answers: 0, best_per_sec: 0.0, best_limit: 0, flat: 0 }
    }

    /// One more answer under `limit`. The level to stay at, once more of them do not help.
    fn answered(&mut self, limit: usize, now: Instant) -> Option<usize> {
        self.answers_left = self.answers_left.saturating_sub(1);
        if self.answers_left > 0 {
            return None;
        }
        if let Some(started) = self.started {
            let per_sec = self.answers as f64 / (now - started).as_secs_f64().max(1e-6);
            if per_sec >= self.best_per_sec * WORTH_IT {
                (self.best_per_sec, self.best_limit, self.flat) = (per_sec, self.answers, 0);
            } else {
                self.flat += 1;
            }
        }
        (self.started, self.answers, self.answers_left) = (Some(now), limit, limit);
        // Twice what sufficed, so that the server always has the next request at hand.
        (self.flat >= FLAT_EPOCHS).then_some(self.best_limit * 2)
    }
}

impl Controller {
    pub(super) fn new(concurrency: Concurrency) -> Self {
        let (adaptive, limit) = match concurrency {
            Concurrency::Auto => (true, INITIAL),
            Concurrency::Fixed(limit) => (false, limit.get() as usize),
        };
        Self {
            adaptive,
            limit: limit as f64,
            in_flight: 0,
            sent: 0,
            recover: 0,
            hold: 0,
            growth_from: None,
            slow_start: adaptive.then(Epoch::first),
            ceiling: None,
            accepted_at_once: None,
            proven: Proven::default(),
            answer_secs: None,
            refusal_secs: None,
            refused: false,
            accepted_since_burst: false,
            closed_rounds: 0,
            paused_until: None,
        }
    }

    /// Requests that may be in flight. After a pause one is sent to see whether it is over.
    pub(super) fn limit(&self) -> usize {
        if self.closed_rounds > 0 { 1 } else { self.limit as usize }
    }

    pub(super) fn in_flight(&self) -> usize {
        self.in_flight
    }

    /// Until when nothing is to be sent.
    pub(super) fn paused_until(&self, now: Instant) -> Option<Instant> {
        self.paused_until.filter(|until| *until > now)
    }

    pub(super) fn sent(&mut self, now: Instant) -> Ticket {
        self.sent += 1;
        self.in_flight += 1;
        Ticket { seq: self.sent, in_flight: self.in_flight, sent: now }
    }

    pub(super) fn answered(&mut self, ticket: Ticket, answer: Answer, now: Instant) {
        let saturated = self.in_flight as f64 >= SATURATED * self.limit() as f64;
        self.in_flight = self.in_flight.saturating_sub(1);
        match answer {
            Answer::Accepted => self.accepted(ticket, saturated, now),
            Answer::Refused { retry_after } => {
                self.refused(ticket, retry_after.map(|after| after.min(RETRY_AFTER_CAP)), now);
            }
            Answer::Disturbed => self.hold = self.sent,
            Answer::Other => {}
        }
    }

    fn accepted(&mut self, ticket: Ticket, saturated: bool, now: Instant) {
        let secs = (now - ticket.sent).as_secs_f64();
        self.answer_secs = Some(self.answer_secs.map_or(secs, |mean| 0.9 * mean + 0.1 * secs));
        if ticket.seq <= self.recover {
            // Sent before the account was closed, it does not say that it is open again.
            self.accepted_since_burst |= self.closed_rounds == 0;
            self.accept_at_once();
            return;
        }
        self.accepted_since_burst = true;
        self.closed_rounds = 0;
        if !self.adaptive {
            return;
        }
        self.prove(ticket, now);
        let cooling = self.growth_from.is_some_and(|from| now < from);
        if saturated && !cooling && ticket.seq > self.hold {
            self.grow(now);
        }
    }

    /// What was sent together arrives in any order (each opens a connection), so that one of the first
    /// few may be refused and another one be taken for it. But none of it can have taken the place of one
    /// that was done: as many as were accepted, the server takes at once.
    fn accept_at_once(&mut self) {
        if let (Some(accepted), Some(ceiling)) = (&mut self.accepted_at_once, &mut self.ceiling) {
            *accepted += 1;
            ceiling.level = ceiling.level.max(*accepted);
        }
    }

    /// Books a success, and lifts the ceiling when its time has come.
    fn prove(&mut self, ticket: Ticket, now: Instant) {
        let proven = &mut self.proven;
        if ticket.seq > proven.mark {
            proven.level = proven.level.max(proven.candidate);
            proven.candidate = 0;
            proven.mark = self.sent;
            if let Some(ceiling) = &mut self.ceiling
                && self.limit as usize >= ceiling.level
            {
                ceiling.rounds += 1;
                if ceiling.rounds > ceiling.probe_rounds && now - ceiling.since > PROBE_AFTER {
                    tracing::debug!(level = ceiling.level, "trying more requests in flight");
                    ceiling.level = MOST;
                }
            }
        }
        proven.candidate = proven.candidate.max(ticket.in_flight);
    }

    fn grow(&mut self, now: Instant) {
        let limit = self.limit();
        if let Some(epoch) = &mut self.slow_start {
            // One more for each answer doubles the limit in a round trip.
            self.limit += 1.0;
            if let Some(level) = epoch.answered(limit, now) {
                tracing::debug!(level, "more requests in flight are no faster");
                self.slow_start = None;
                self.ceiling =
                    Some(Ceiling { level, floor: 0, since: now, rounds: 0, probe_rounds: u64::MAX });
            }
        } else {
            self.limit += (STEP * self.limit).max(1.0) / self.limit;
        }
        let most = self.ceiling.map_or(MOST, |ceiling| ceiling.level.min(MOST));
        self.limit = self.limit.min(most as f64);
    }

    fn refused(&mut self, ticket: Ticket, retry_after: Option<Duration>, now: Instant) {
        if let Some(after) = retry_after {
            self.growth_from = self.growth_from.max(Some(now + after));
        }
        let below = ticket.in_flight.saturating_sub(1);
        let secs = (now - ticket.sent).as_secs_f64();
        self.refusal_secs = Some(self.refusal_secs.map_or(secs, |least| least.min(secs)));
        if ticket.seq <= self.recover {
            // Sent before the cut: the same burst, but it may know better how much is too much.
            if let Some(ceiling) = &mut self.ceiling
                && below < ceiling.level
            {
                let taken = self.accepted_at_once.unwrap_or(1);
                ceiling.level = below.max(ceiling.floor).max(taken).max(1);
                self.limit_to_ceiling();
            }
        } else if self.refused && !self.accepted_since_burst {
            self.close(retry_after, now);
        } else {
            self.cut(ticket, below, now);
            self.limit_to_ceiling();
        }
    }

    /// A whole round trip was refused: it is not the number of requests, the account is closed for a
    /// while (a quota per minute, for example). Sending more would only use up attempts.
    fn close(&mut self, retry_after: Option<Duration>, now: Instant) {
        let backoff = PAUSE.saturating_mul(1 << self.closed_rounds.min(10)).min(PAUSE_CAP);
        self.closed_rounds += 1;
        self.recover = self.sent;
        let pause = retry_after.unwrap_or_default().max(backoff);
        tracing::debug!(?pause, "everything is refused");
        self.paused_until = Some(now + pause);
    }

    fn cut(&mut self, ticket: Ticket, below: usize, now: Instant) {
        let slow_start = self.slow_start.take().is_some();
        self.refused = true;
        self.recover = self.sent;
        self.accepted_since_burst = false;
        if !self.adaptive {
            return;
        }
        self.accepted_at_once = self.answer_secs.is_none().then_some(0);
        let was = self.ceiling;
        let held = was.map_or(self.limit(), |ceiling| ceiling.level.min(self.limit().max(1)));
        // In slow start every level is new, and proofs come too late to count.
        let known = !slow_start && ticket.in_flight <= self.proven.level;
        let floor = if known { (DEEPEST_CUT * held as f64) as usize } else { 0 };
        let level = match was {
            None => below,
            Some(ceiling) if ceiling.level == MOST => below,
            // The ceiling was too high. What is on the wire is in flight here and not yet, or no more,
            // at the server: that share of it is what the ceiling can be wrong by.
            Some(ceiling) => {
                let likely = below.min(ceiling.level) as f64 * (1.0 - self.on_the_wire());
                ((likely - 0.5).ceil() as usize).min(ceiling.level - 1)
            }
        };
        let probe_rounds =
            was.map_or(PROBE_ROUNDS, |ceiling| ceiling.probe_rounds.saturating_mul(PROBE_BACKOFF));
        let level = level.max(floor).max(1);
        self.ceiling = Some(Ceiling { level, floor, since: now, rounds: 0, probe_rounds });
        self.proven = Proven { mark: self.sent, ..Proven::default() };
        tracing::debug!(in_flight = ticket.in_flight, level, "refused; fewer requests in flight");
    }

    /// The share of a round trip that a request and its answer are under way and not at the server: a
    /// refusal needs no work, so its time is that and no more.
    fn on_the_wire(&self) -> f64 {
        let whole = self.answer_secs.zip(self.refusal_secs);
        whole.map_or(1.0, |(answer, refusal)| refusal / answer.max(1e-6)).clamp(0.01, MOST_ON_THE_WIRE)
    }

    fn limit_to_ceiling(&mut self) {
        if let (true, Some(ceiling)) = (self.adaptive, self.ceiling) {
            let cut = (CUT * ceiling.level as f64).ceil().min(ceiling.level as f64 - 1.0).max(1.0);
            self.limit = self.limit.min(cut);
        }
    }
}
