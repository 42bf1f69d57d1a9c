use std::collections::{BTreeMap, BTreeSet};

use evalign_judge::{
    Aggregation, BiasReport, Comparison, Effect, Judge, JudgeCalibration, Judged, JudgedAnswer, JudgedPair,
    JuryAgreement, LabelledPair, LabelledScore, Preference, Unscored, family_of, family_of_name,
    formatting_marks, jury_preferences, jury_scores, preference_agreement, score_agreement,
};
use evalign_stats::{Bootstrap, clustered_difference, mean};
use serde::{Deserialize, Serialize};

use super::file::{Stored, comparison_of, judged_of, reason_of};
use super::rows::{Answers, JudgedRow, Label};

const LEVEL: f64 = 0.95;

/// What judges said about the rows of a file.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct JudgingReport {
    pub rubric: String,
    /// Lowest and highest level of the rubric's scale.
    pub scale: [u8; 2],
    pub rows: u64,
    /// Rows with a verdict.
    pub decided: u64,
    /// Why the others have none, with their number. Of several judges, the first one's reason.
    pub unscored: BTreeMap<String, u64>,
    /// Mean score of single answers on the rubric's scale; of pairs, the win rate of A.
    pub score: Option<Effect>,
    /// Of single answers, by criterion, in the rubric's order. Means over all judges.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub criteria: Vec<CriterionReport>,
    pub judges: Vec<JudgeReport>,
    /// Of several judges or repeats.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub jury: Option<JuryAgreement>,
    /// Where rows have labels.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub calibration: Option<JudgeCalibration>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CriterionReport {
    pub criterion: String,
    pub score: Option<Effect>,
}

/// One judge.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct JudgeReport {
    pub judge: String,
    pub rows: u64,
    /// Rows with a verdict, in one repeat at least.
    pub decided: u64,
    /// Over all repeats, with the documents as what is independent.
    pub score: Option<Effect>,
    /// Of pairs: what moves the judge besides the answers.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub bias: Option<BiasReport>,
    /// Of single answers: correlation of score and length (Pearson), and the mean entropy of levels in nats.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub length_correlation: Option<f64>,
    /// Likewise of score and formatting marks.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub format_correlation: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub entropy_nats: Option<f64>,
    /// Of single answers: rows that a model of the judge's own family wrote. Absent where no row says who did.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub own_rows: Option<u64>,
    /// How much higher it scores those than rows of other families. Absent where there are not both.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub own_family: Option<Effect>,
}

/// What was judged: rows, and by row the number of the document that it is about. Several answers to one share noise.
#[derive(Clone, Copy)]
pub(super) struct Rows<'a> {
    pub(super) all: &'a [JudgedRow],
    pub(super) documents: &'a [usize],
}

/// The document of each row, where rows that ask the same are about one.
pub(super) fn documents_by_prompt(rows: &[JudgedRow]) -> Vec<usize> {
    let mut known: BTreeMap<&str, usize> = BTreeMap::new();
    rows.iter().enumerate().map(|(number, row)| *known.entry(&row.prompt).or_insert(number)).collect()
}

/// A jury's members: judge by judge, and repeat by repeat.
type Members<T> = Vec<Vec<T>>;

impl JudgingReport {
    pub(super) fn of(
        rows: Rows<'_>,
        stored: &[(&Judge, Stored)],
        (repeats, how): (u32, Aggregation),
    ) -> Self {
        match rows.all.first().map(|row| &row.answers) {
            Some(Answers::Two(_)) => pairs(rows, stored, (repeats, how)),
            Some(Answers::One(_)) | None => singles(rows, stored, (repeats, how)),
        }
    }

    fn empty(rows: Rows<'_>, stored: &[(&Judge, Stored)]) -> Self {
        let rubric = stored.first().map(|(judge, _)| judge.rubric());
        Self {
            rubric: rubric.map(|rubric| rubric.name.clone()).unwrap_or_default(),
            scale: rubric.map_or([0, 1], |rubric| [rubric.scale.lowest, rubric.scale.highest]),
            rows: rows.all.len() as u64,
            decided: 0,
            unscored: BTreeMap::new(),
            score: None,
            criteria: Vec::new(),
            judges: Vec::new(),
            jury: None,
            calibration: None,
        }
    }
}

/// The reason as it is counted.
fn reason_name(reason: &Unscored) -> &'static str {
    match reason {
        Unscored::Abstained => "abstained",
        Unscored::Malformed => "malformed",
        Unscored::Truncated => "truncated",
        Unscored::Refused => "refused",
        Unscored::Failed(_) => "failed",
    }
}

fn count<'a>(reasons: impl Iterator<Item = &'a Unscored>) -> BTreeMap<String, u64> {
    let mut counts = BTreeMap::new();
    for reason in reasons {
        *counts.entry(reason_name(reason).to_owned()).or_default() += 1;
    }
    counts
}

fn pairs(rows: Rows<'_>, stored: &[(&Judge, Stored)], (repeats, how): (u32, Aggregation)) -> JudgingReport {
    let mut members: Members<Comparison> = Vec::new();
    let mut judges = Vec::new();
    for (judge, stored) in stored {
        let first = members.len();
        for repeat in 0..repeats {
            let docs = 0..rows.all.len() as u64;
            members.push(docs.map(|doc| comparison_of(judge, stored, doc, repeat)).collect());
        }
        judges.push(judge_of_pairs(rows, judge, &members[first..]));
    }
    let said: Members<Preference> =
        members.iter().map(|all| all.iter().map(|c| c.outcome.clone()).collect()).collect();
    let verdicts = jury_preferences(&said, how);
    let probability = |row: usize| {
        let all: Option<Vec<f64>> = members.iter().map(|all| all.get(row)?.probability_a).collect();
        mean(&all?)
    };
    let labelled = |(row, judge): (usize, &Preference)| LabelledPair {
        people: rows.all[row].label.and_then(people),
        judge: judge.clone(),
        probability_a: probability(row),
        group: rows.documents[row],
    };
    let points = verdicts.iter().enumerate().filter_map(|(row, verdict)| Some((row, verdict.points_a()?)));
    let points = ByRow::of(points);
    let has_labels = rows.all.iter().any(|row| row.label.is_some());
    JudgingReport {
        decided: points.rows(),
        unscored: count(verdicts.iter().filter_map(reason_of)),
        score: points.mean(rows, POINTS),
        judges,
        jury: (said.len() > 1).then(|| preference_agreement(&said)),
        calibration: has_labels.then(|| {
            JudgeCalibration::of_pairs(&verdicts.iter().enumerate().map(labelled).collect::<Vec<_>>())
        }),
        ..JudgingReport::empty(rows, stored)
    }
}

fn people(label: Label) -> Option<Preference> {
    match label {
        Label::Points(points) if points > 0.5 => Some(Preference::A),
        Label::Points(points) if points < 0.5 => Some(Preference::B),
        Label::Points(_) => Some(Preference::Tie),
        Label::Binary(_) | Label::Score(_) => None,
    }
}

fn judge_of_pairs(rows: Rows<'_>, judge: &Judge, said: &[Vec<Comparison>]) -> JudgeReport {
    let family = family_of(&judge.model().identity().reference);
    let families: Vec<[Option<String>; 2]> = rows.all.iter().map(families).collect();
    let mut judged = Vec::new();
    let mut points = ByRow::default();
    for all in said {
        for (number, (row, comparison)) in rows.all.iter().zip(all).enumerate() {
            let Answers::Two([a, b]) = &row.answers else { continue };
            let [of_a, of_b] = &families[number];
            let people = row.label.and_then(people).and_then(|preference| preference.points_a());
            if let Some(value) = comparison.outcome.points_a() {
                points.push(number, value);
            }
            judged.push(JudgedPair {
                comparison,
                group: rows.documents[number],
                a: JudgedAnswer { text: a, family: of_a.as_deref() },
                b: JudgedAnswer { text: b, family: of_b.as_deref() },
                people,
            });
        }
    }
    JudgeReport {
        judge: judge.model().identity().reference.to_string(),
        rows: rows.all.len() as u64,
        decided: points.rows(),
        score: points.mean(rows, POINTS),
        bias: Some(BiasReport::of(&judged, Some(&family))),
        length_correlation: None,
        format_correlation: None,
        entropy_nats: None,
        own_rows: None,
        own_family: None,
    }
}

fn singles(rows: Rows<'_>, stored: &[(&Judge, Stored)], (repeats, how): (u32, Aggregation)) -> JudgingReport {
    let mut members: Members<Result<Judged, Unscored>> = Vec::new();
    let mut judges = Vec::new();
    for (judge, stored) in stored {
        let first = members.len();
        for repeat in 0..repeats {
            let docs = 0..rows.all.len() as u64;
            members.push(docs.map(|doc| judged_of(judge, stored, doc, repeat)).collect());
        }
        judges.push(judge_of_singles(rows, judge, &members[first..]));
    }
    let score = |judged: &Result<Judged, Unscored>| judged.as_ref().ok().map(|judged| judged.score);
    let said: Members<Option<f64>> = members.iter().map(|all| all.iter().map(score).collect()).collect();
    let scores = jury_scores(&said, how);
    let missing = scores.iter().enumerate().filter(|(_, score)| score.is_none());
    let reasons = missing.filter_map(|(row, _)| members.first()?.get(row)?.as_ref().err());
    let decided = ByRow::of(scores.iter().enumerate().filter_map(|(row, score)| Some((row, (*score)?))));
    let mut report = JudgingReport::empty(rows, stored);
    report.criteria = criteria(rows, stored, &members);
    report.calibration = calibration(rows, &scores, report.scale);
    JudgingReport {
        decided: decided.rows(),
        unscored: count(reasons),
        score: decided.mean(rows, report.scale.map(f64::from)),
        judges,
        jury: (said.len() > 1).then(|| score_agreement(&said)),
        ..report
    }
}

fn judge_of_singles(rows: Rows<'_>, judge: &Judge, said: &[Vec<Result<Judged, Unscored>>]) -> JudgeReport {
    let family = family_of(&judge.model().identity().reference);
    let families: Vec<Option<String>> = rows.all.iter().map(|row| families(row)[0].clone()).collect();
    let mut scores = ByRow::default();
    let (mut lengths, mut marks) = (Vec::new(), Vec::new());
    let mut entropies = Vec::new();
    for all in said {
        for (number, (row, judged)) in rows.all.iter().zip(all).enumerate() {
            let (Ok(judged), Answers::One(answer)) = (judged, &row.answers) else { continue };
            scores.push(number, judged.score);
            lengths.push(answer.chars().count() as f64);
            marks.push(formatting_marks(answer) as f64);
            entropies.extend(judged.criteria.iter().filter_map(|criterion| criterion.entropy));
        }
    }
    JudgeReport {
        judge: judge.model().identity().reference.to_string(),
        rows: rows.all.len() as u64,
        decided: scores.rows(),
        score: scores.mean(rows, scale_of(judge)),
        bias: None,
        length_correlation: correlation(&scores.values, &lengths),
        format_correlation: correlation(&scores.values, &marks),
        entropy_nats: mean(&entropies),
        own_rows: families
            .iter()
            .any(Option::is_some)
            .then(|| families.iter().filter(|writer| writer.as_ref() == Some(&family)).count() as u64),
        own_family: scores.own_family(rows, &families, &family),
    }
}

/// The families of the models that wrote a row's answers.
fn families(row: &JudgedRow) -> [Option<String>; 2] {
    row.writers.clone().map(|writer| writer.as_deref().map(family_of_name))
}

pub(super) fn scale_of(judge: &Judge) -> [f64; 2] {
    let scale = judge.rubric().scale;
    [f64::from(scale.lowest), f64::from(scale.highest)]
}

fn criteria(
    rows: Rows<'_>,
    stored: &[(&Judge, Stored)],
    members: &Members<Result<Judged, Unscored>>,
) -> Vec<CriterionReport> {
    let Some((judge, _)) = stored.first() else { return Vec::new() };
    let report = |(index, criterion): (usize, &evalign_judge::Criterion)| {
        let values = members.iter().flat_map(|all| all.iter().enumerate()).filter_map(|(row, judged)| {
            let judged = judged.as_ref().ok()?;
            Some((row, judged.criteria.get(index)?.value()))
        });
        let score = ByRow::of(values).mean(rows, scale_of(judge));
        CriterionReport { criterion: criterion.name.clone(), score }
    };
    judge.rubric().criteria.iter().enumerate().map(report).collect()
}

/// Binary labels stand at the ends of the scale.
fn calibration(rows: Rows<'_>, scores: &[Option<f64>], scale: [u8; 2]) -> Option<JudgeCalibration> {
    let levels = scale.map(f64::from);
    let label = |row: &JudgedRow| match row.label? {
        Label::Binary(good) => Some(levels[usize::from(good)]),
        Label::Score(score) => Some(score),
        Label::Points(_) => None,
    };
    let items: Vec<LabelledScore> = rows
        .all
        .iter()
        .zip(scores)
        .zip(rows.documents)
        .map(|((row, judge), document)| LabelledScore { people: label(row), judge: *judge, group: *document })
        .collect();
    let has_labels = items.iter().any(|item| item.people.is_some());
    has_labels.then(|| JudgeCalibration::of_scores(&items, levels))
}

/// Between which the points of A lie.
const POINTS: [f64; 2] = [0.0, 1.0];

/// Values by the row they are about: judges and repeats say several about one, which are not independent.
#[derive(Default)]
struct ByRow {
    values: Vec<f64>,
    rows: Vec<usize>,
}

impl ByRow {
    fn of(values: impl Iterator<Item = (usize, f64)>) -> Self {
        let (rows, values) = values.unzip();
        Self { values, rows }
    }

    fn push(&mut self, row: usize, value: f64) {
        self.rows.push(row);
        self.values.push(value);
    }

    /// Mean of the rows of one family less that of all others, with the interval of two independent means.
    fn own_family(&self, rows: Rows<'_>, families: &[Option<String>], own: &str) -> Option<Effect> {
        let part = |mine: bool| {
            let wanted = |row: &usize| families[*row].as_ref().is_some_and(|family| (family == own) == mine);
            let found = self.values.iter().zip(&self.rows).filter(|(_, row)| wanted(row));
            let (values, documents): (Vec<f64>, Vec<usize>) =
                found.map(|(value, row)| (*value, rows.documents[*row])).unzip();
            clustered_difference(&values, &documents, LEVEL)
        };
        let (own, others) = (part(true)?, part(false)?);
        let half = (own.interval[1] - own.value).hypot(others.interval[1] - others.value);
        let value = own.value - others.value;
        // Who wrote the others is not known: they are in neither mean.
        let counted: BTreeSet<_> = self.rows.iter().filter(|row| families[**row].is_some()).collect();
        Some(Effect { value, ci95: [value - half, value + half], n: counted.len() as u64 })
    }

    /// Rows with a value.
    fn rows(&self) -> u64 {
        self.rows.iter().collect::<BTreeSet<_>>().len() as u64
    }

    /// A mean with the interval of a bootstrap over documents: scores are bounded and few, so no normal one.
    fn mean(&self, rows: Rows<'_>, range: [f64; 2]) -> Option<Effect> {
        let plan = Bootstrap { level: LEVEL, ..Bootstrap::default() };
        let documents: Vec<usize> = self.rows.iter().map(|row| rows.documents[*row]).collect();
        Effect::of_groups(&self.values, &documents, range, &plan)
    }
}

fn correlation(x: &[f64], y: &[f64]) -> Option<f64> {
    let (mx, my) = (mean(x)?, mean(y)?);
    let sum = |f: &dyn Fn(f64, f64) -> f64| x.iter().zip(y).map(|(a, b)| f(a - mx, b - my)).sum::<f64>();
    let r = sum(&|a, b| a * b) / (sum(&|a, _| a * a) * sum(&|_, b| b * b)).sqrt();
    r.is_finite().then_some(r)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Each of 30 rows is judged ten times at temperature 0, one of them never.
    #[test]
    fn repeats_are_no_rows_and_make_nothing_surer() {
        let score = |row: usize| f64::from(u8::from(row.is_multiple_of(3)));
        let once = ByRow::of((0..30).map(|row| (row, score(row))));
        let often = ByRow::of((0..10).flat_map(|_| 0..30).map(|row| (row, score(row))));
        assert_eq!((once.rows(), often.rows()), (30, 30));
        let each: Vec<usize> = (0..30).collect();
        let rows = Rows { all: &[], documents: &each };
        let (one, ten) = (once.mean(rows, POINTS).unwrap(), often.mean(rows, POINTS).unwrap());
        assert_eq!((one.n, ten.n), (30, 300));
        // Rows about one document are not independent either.
        let by_three: Vec<usize> = (0..30).map(|row| row % 3).collect();
        let few = once.mean(Rows { all: &[], documents: &by_three }, POINTS).unwrap();
        assert!(few.ci95[1] - few.ci95[0] > 1.5 * (one.ci95[1] - one.ci95[0]), "{few:?} {one:?}");
        assert!((one.value - ten.value).abs() < 1e-12);
        for (one, ten) in one.ci95.iter().zip(ten.ci95) {
            assert!((one - ten).abs() < 1e-9, "{one} {ten}");
        }
        assert_eq!(ByRow::default().mean(rows, POINTS), None);
    }

    #[test]
    fn rows_of_unknown_writers_are_no_part_of_what_a_judge_thinks_of_its_own_family() {
        let families = |n| match n {
            0..4 => Some("own".to_owned()),
            4..8 => Some("other".to_owned()),
            _ => None,
        };
        let families: Vec<Option<String>> = (0..20).map(families).collect();
        let scores = ByRow::of((0..40).map(|n| (n % 20, f64::from(u8::from(n % 20 < 3)))));
        let each: Vec<usize> = (0..20).collect();
        let found = scores.own_family(Rows { all: &[], documents: &each }, &families, "own").unwrap();
        assert_eq!((found.value, found.n), (0.75, 8));
    }
}
