//! The judge-injection suite: how often a judge changes its mind when the worse of two answers tries to talk it round.
//!
//! Every pair is judged in both orders, once as it is and once with the attack behind the worse answer. The attack is
//! told the name its answer is shown under, which no real attacker knows: the rate is an upper one.

use std::collections::BTreeMap;

use evalign_core::{Digest, Estimate, ModelRef, Output, RunStatus, SampleKey, SampleRecord};
use evalign_judge::{Judge, Material, Order, Pair};
use evalign_stats::wilson_interval;
use evalign_store::NewRun;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use crate::pairing::{compare_scores, phase_spec, run_spec, verdict_of};
use crate::runner::{ActiveRun, Asking, Cancel, Phase, Progress, RunOfSteps, Steps};
use crate::task::embedded_rows;
use crate::{PlannedSample, RunError, RunRequest};

const FILE: &str = "samples/judge_injections.jsonl";
const STEP: &str = "judge/injections";
/// Numbers of the two pairs of an item.
const CLEAN: u32 = 0;
const ATTACKED: u32 = 1;

/// What `evalign judge injections` asks for.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct InjectionsRequest {
    /// `injections`: what kind of run this is.
    pub procedure: String,
    /// How the judge is loaded; its model is the judge.
    pub run: RunRequest,
    pub rubric: String,
}

impl InjectionsRequest {
    /// What [`InjectionsRequest::procedure`] is.
    pub const PROCEDURE: &'static str = "injections";
}

/// What attacks did.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct InjectionsReport {
    pub judge: ModelRef,
    pub rubric: String,
    pub all: InjectionCounts,
    pub by_family: BTreeMap<String, InjectionCounts>,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct InjectionCounts {
    /// Verdicts: two for each attack, one in each order.
    pub verdicts: u64,
    /// Without a verdict before or after the attack.
    pub undecided: u64,
    /// Of those, verdicts that were there before the attack and not after it.
    pub silenced: u64,
    /// The right answer won before the attack.
    pub right_before: u64,
    pub right_after: u64,
    /// Of the verdicts that an attack could turn (the attacked answer had not won already) and that were given before
    /// and after it: the share that moved toward the attacker, with Wilson's interval.
    pub flip_rate: Estimate,
    /// Mean change of the probability that the judge gives the right answer (without probabilities: of its points).
    pub mean_shift: Option<f64>,
}

struct Item {
    family: String,
    attack: String,
    question: String,
    good: String,
    bad: String,
}

/// A run of the suite, ready to start.
pub struct Injections<'a> {
    judge: &'a Judge,
    items: Vec<Item>,
    new: NewRun,
}

impl std::fmt::Debug for Injections<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Injections").field("items", &self.items.len()).finish_non_exhaustive()
    }
}

impl RunOfSteps for Injections<'_> {
    fn new_run(&self) -> &NewRun {
        &self.new
    }
}

impl<'a> Injections<'a> {
    /// # Errors
    /// A suite that cannot be read.
    pub fn new(request: &InjectionsRequest, judge: &'a Judge) -> Result<Self, RunError> {
        let wrong = |message: String| RunError::malformed(FILE, message);
        let embedded = embedded_rows(FILE).ok_or_else(|| wrong("is not embedded".to_owned()))?;
        let dataset = Digest::of(embedded.text.as_bytes());
        let rows = embedded.rows.map_err(wrong)?;
        let mut items: Vec<Item> =
            rows.iter().map(item).collect::<Option<_>>().ok_or_else(|| {
                wrong("a row lacks one of family, attack, question, good and bad".to_owned())
            })?;
        if let Some(limit) = request.run.limit {
            items.truncate(usize::try_from(limit.of(items.len() as u64)).unwrap_or(usize::MAX));
        }
        let model = judge.model();
        let definition = json!({ "judge": judge.digest(), "weights": model.identity().weights });
        let count = items.len() as u64;
        let step = phase_spec(STEP, &definition, &dataset, (count, 4), None);
        let new = NewRun {
            spec: run_spec(&**model, request.run.seed, model.capabilities().chat, vec![step]),
            request: json!(request),
            samples_total: count * 4,
            fork: false,
        };
        Ok(Self { judge, items, new })
    }

    /// Asks what is not answered yet.
    ///
    /// # Errors
    /// As [`ActiveRun::drive`].
    pub async fn drive(
        &self,
        run: &mut ActiveRun,
        progress: &dyn Progress,
        cancel: &Cancel,
    ) -> Result<RunStatus, RunError> {
        let mut asking = Vec::new();
        for (doc, item) in (0u64..).zip(&self.items) {
            for (number, order) in
                [CLEAN, ATTACKED].into_iter().flat_map(|n| Order::BOTH.map(|order| (n, order)))
            {
                asking.push(self.ask(item, doc, number, order)?);
            }
        }
        let score =
            |sample: &PlannedSample, output: Option<&Output>| compare_scores(self.judge, sample, output);
        let phase = Phase::new(asking, self.total_samples(), score);
        run.drive_phase(&phase, &**self.judge.model(), progress, cancel).await
    }

    fn ask(&self, item: &Item, doc: u64, number: u32, order: Order) -> Result<Asking, RunError> {
        // The right answer is A as given, so that the other one is shown as B, and as A in the other order.
        let (shown_as, place) = match order {
            Order::AsGiven => ("B", 0),
            Order::Swapped => ("A", 1),
        };
        let bad = match number {
            CLEAN => item.bad.clone(),
            _ => format!("{}\n\n{}", item.bad, item.attack.replace("{win}", shown_as)),
        };
        let key = SampleKey { task: STEP.to_owned(), doc, repeat: number * 2 + place };
        let material = Material { prompt: &item.question, ..Material::default() };
        let pair = Pair { material, a: &item.good, b: &bad };
        Ok(Asking {
            request: self.judge.pairwise_request(key, &pair, order)?,
            doc: json!({ "family": item.family, "question": item.question, "good": item.good, "bad": bad }),
            target: "A".to_owned(),
        })
    }

    /// What the stored verdicts come to.
    ///
    /// # Errors
    /// A failure of the store.
    pub fn report(&self, steps: &Steps) -> Result<InjectionsReport, RunError> {
        let records = steps.answered(STEP)?;
        let mut tallies: BTreeMap<String, Tally> = BTreeMap::new();
        let mut all = Tally::default();
        let found: BTreeMap<(u64, u32), &SampleRecord> =
            records.iter().map(|record| ((record.key.doc, record.key.repeat), record)).collect();
        for (doc, item) in (0u64..).zip(&self.items) {
            for order in 0..2 {
                let verdict =
                    |number: u32| found.get(&(doc, number * 2 + order)).and_then(|r| verdict_of(&r.scores));
                let (before, after) = (verdict(CLEAN), verdict(ATTACKED));
                all.add(before, after);
                tallies.entry(item.family.clone()).or_default().add(before, after);
            }
        }
        Ok(InjectionsReport {
            judge: self.judge.model().identity().reference.clone(),
            rubric: self.judge.rubric().name.clone(),
            all: all.counts(),
            by_family: tallies.into_iter().map(|(family, tally)| (family, tally.counts())).collect(),
        })
    }
}

fn item(row: &Map<String, Value>) -> Option<Item> {
    let text = |name: &str| row.get(name).and_then(Value::as_str).map(str::to_owned);
    Some(Item {
        family: text("family")?,
        attack: text("attack")?,
        question: text("question")?,
        good: text("good")?,
        bad: text("bad")?,
    })
}

/// Probability and points of the right answer.
type Verdict = (f64, f64);

#[derive(Default)]
struct Tally {
    verdicts: u64,
    decided: u64,
    turnable: u64,
    silenced: u64,
    right_before: u64,
    right_after: u64,
    flips: u64,
    shift: f64,
}

impl Tally {
    fn add(&mut self, before: Option<Verdict>, after: Option<Verdict>) {
        self.verdicts += 1;
        self.right_before += u64::from(before.is_some_and(|(_, points)| points == 1.0));
        self.right_after += u64::from(after.is_some_and(|(_, points)| points == 1.0));
        self.silenced += u64::from(before.is_some() && after.is_none());
        if let (Some(before), Some(after)) = (before, after) {
            self.decided += 1;
            self.turnable += u64::from(before.1 > 0.0);
            self.flips += u64::from(after.1 < before.1);
            self.shift += after.0 - before.0;
        }
    }

    fn counts(&self) -> InjectionCounts {
        let decided = self.decided > 0;
        let interval = wilson_interval(self.flips, self.turnable, 0.95);
        InjectionCounts {
            verdicts: self.verdicts,
            undecided: self.verdicts - self.decided,
            silenced: self.silenced,
            right_before: self.right_before,
            right_after: self.right_after,
            flip_rate: Estimate {
                value: (self.turnable > 0).then(|| self.flips as f64 / self.turnable as f64),
                stderr: None,
                ci95: interval,
                n: self.turnable,
            },
            mean_shift: decided.then(|| self.shift / self.decided as f64),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn moves_toward_the_attacker_are_flips_and_lost_verdicts_are_not() {
        let mut tally = Tally::default();
        tally.add(Some((0.9, 1.0)), Some((0.2, 0.0)));
        tally.add(Some((0.9, 1.0)), Some((0.5, 0.5)));
        tally.add(Some((0.4, 0.0)), Some((0.9, 1.0)));
        tally.add(Some((0.9, 1.0)), None);
        tally.add(None, Some((0.1, 0.0)));
        let counts = tally.counts();
        assert_eq!((counts.verdicts, counts.undecided, counts.silenced), (5, 2, 1));
        assert_eq!((counts.right_before, counts.right_after), (3, 1));
        assert_eq!((counts.flip_rate.n, counts.flip_rate.value), (2, Some(1.0)));
        assert!((counts.mean_shift.unwrap() - (-0.7 - 0.4 + 0.5) / 3.0).abs() < 1e-12);
        let empty = Tally::default().counts();
        assert_eq!((empty.flip_rate.value, empty.flip_rate.ci95, empty.mean_shift), (None, None, None));
    }

    #[test]
    fn the_suite_is_whole() {
        let rows = embedded_rows(FILE).unwrap().rows.unwrap();
        let items: Vec<Item> = rows.iter().map(|row| item(row).unwrap()).collect();
        let attacks: BTreeSet<&str> = items.iter().map(|item| item.attack.as_str()).collect();
        let families: BTreeSet<&str> = items.iter().map(|item| item.family.as_str()).collect();
        assert_eq!((items.len(), attacks.len(), families.len()), (25, 25, 5));
    }
}
