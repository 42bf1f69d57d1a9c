//! How good answers are, as far as rules can tell: what a judge has to say is put together in `bench`.
//!
//! A metric that cannot be told of a question is absent, never 0: an answer that was not given cites nothing wrong.

use std::collections::BTreeMap;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::abstain::{RiskPoint, risk_coverage};
use crate::answer::Answer;
use crate::{Chunk, Citation, HitCopy, RagError};

/// A question with what is known of its right answer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GoldQuestion {
    pub id: String,
    pub question: String,
    /// Texts that say the right answer, any of them. None: the documents do not answer it.
    #[serde(default)]
    pub answers: Vec<String>,
    /// Where it stands. Empty where that is not known.
    #[serde(default)]
    pub evidence: Vec<GoldPlace>,
}

/// A place in a document, or all of it, or a page.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GoldPlace {
    /// Its name, or the end of its name from a `/` on.
    pub document: String,
    /// Of the document's text, end exclusive.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes: Option<[u64; 2]>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub page: Option<u32>,
}

/// A part of a document, as an answer cites it or a search finds it.
#[derive(Clone, Copy, Debug)]
struct Part<'a> {
    document: &'a str,
    start: u64,
    end: u64,
    page: Option<u32>,
}

impl<'a> From<&'a Citation> for Part<'a> {
    fn from(citation: &'a Citation) -> Self {
        Self {
            document: &citation.document.0,
            start: citation.start_byte,
            end: citation.end_byte,
            page: citation.page,
        }
    }
}

impl<'a> From<&'a Chunk> for Part<'a> {
    fn from(chunk: &'a Chunk) -> Self {
        Self { document: &chunk.document.0, start: chunk.start_byte, end: chunk.end_byte, page: chunk.page }
    }
}

impl<'a> From<&'a HitCopy> for Part<'a> {
    fn from(copy: &'a HitCopy) -> Self {
        Self { document: &copy.document.0, start: copy.start_byte, end: copy.end_byte, page: copy.page }
    }
}

/// The places that say one thing: of a citation or a chunk, and of its copies.
type Places<'a> = Vec<Part<'a>>;

impl GoldPlace {
    fn overlaps(&self, part: Part<'_>) -> bool {
        let named = part.document.strip_suffix(self.document.as_str());
        named.is_some_and(|before| before.is_empty() || before.ends_with('/'))
            && self.bytes.is_none_or(|[start, end]| part.start < end && start < part.end)
            && self.page.is_none_or(|page| part.page == Some(page))
    }
}

impl GoldQuestion {
    #[must_use]
    pub fn is_answerable(&self) -> bool {
        !self.answers.is_empty()
    }

    /// Reads questions, one JSON object in a line.
    ///
    /// # Errors
    /// [`RagError::Row`] for a line that is none, or an `id` that occurs twice.
    pub fn read_all(path: &Path) -> Result<Vec<Self>, RagError> {
        let text = fs_err::read_to_string(path).map_err(|error| RagError::file(path, error))?;
        let mut questions: Vec<Self> = Vec::new();
        let mut ids = BTreeMap::new();
        for (line, row) in (1..).zip(text.lines()).filter(|(_, row)| !row.trim().is_empty()) {
            let fail = |field: Option<&str>, message: String| RagError::Row {
                path: path.to_owned(),
                line,
                field: field.map(str::to_owned),
                message,
            };
            let question: Self = serde_json::from_str(row).map_err(|error| fail(None, error.to_string()))?;
            if let Some(first) = ids.insert(question.id.clone(), line) {
                return Err(fail(Some("id"), format!("`{}` is also in line {first}", question.id)));
            }
            questions.push(question);
        }
        if questions.is_empty() {
            return Err(RagError::file(path, "it holds no questions"));
        }
        Ok(questions)
    }
}

/// What rules tell of one answer, by metric; see [`RuleMetrics::NAMES`].
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct RuleMetrics(pub BTreeMap<String, f64>);

impl RuleMetrics {
    /// `abstention`: 1 where answering or not answering was right, whatever the answer says. `answer_f1`,
    /// `answer_exact`: words shared with the nearest right answer (SQuAD's measures: Rajpurkar and others 2016,
    /// arXiv 1606.05250, section 6.1). `citation_precision`: share of the citations that touch a right place.
    /// `citation_recall`: share of the right places that are cited. `context_precision`: mean over the ranks with a
    /// right chunk of the share of right chunks down to there (Es and others 2024, RAGAS 0.2, `context_precision`).
    /// `context_recall`: share of the right places that were found. `supported`: share of the claims with a verified
    /// quote.
    pub const NAMES: [&'static str; 8] = [
        "abstention",
        "answer_f1",
        "answer_exact",
        "citation_precision",
        "citation_recall",
        "context_precision",
        "context_recall",
        "supported",
    ];

    /// `found`: the chunks of the answer's hits, the best first. What stands in several documents is right where any of
    /// them is.
    #[must_use]
    pub fn of(gold: &GoldQuestion, answer: &Answer, found: &[Chunk]) -> Self {
        let mut metrics = BTreeMap::new();
        let mut set = |name: &str, value: Option<f64>| {
            if let Some(value) = value {
                metrics.insert(name.to_owned(), value);
            }
        };
        let right = gold.is_answerable() == answer.text.is_some();
        set("abstention", Some(f64::from(u8::from(right))));
        if gold.is_answerable() && !gold.evidence.is_empty() {
            let copies = |rank: usize| answer.hits.get(rank).map_or(&[][..], |hit| &hit.copies);
            let places = found.iter().enumerate().map(|(rank, chunk)| {
                std::iter::once(Part::from(chunk)).chain(copies(rank).iter().map(Part::from)).collect()
            });
            let chunks: Vec<Places<'_>> = places.collect();
            set("context_precision", Some(context_precision(&gold.evidence, &chunks)));
            set("context_recall", Some(touched(&gold.evidence, &chunks)));
        }
        if let Some(text) = answer.text.as_deref() {
            let claims = answer.claims.len() as f64;
            let supported = answer.claims.iter().filter(|claim| claim.supported).count() as f64;
            set("supported", (claims > 0.0).then(|| supported / claims));
            if gold.is_answerable() {
                let best = |score: fn(&[String], &[String]) -> f64| {
                    let said = words(text);
                    gold.answers.iter().map(|answer| score(&said, &words(answer))).fold(0.0, f64::max)
                };
                set("answer_f1", Some(best(word_f1)));
                set("answer_exact", Some(best(|a, b| f64::from(u8::from(a == b)))));
            }
            if gold.is_answerable() && !gold.evidence.is_empty() {
                let citations = answer.claims.iter().flat_map(|claim| &claim.citations);
                let places = citations.map(|citation| {
                    std::iter::once(Part::from(citation))
                        .chain(citation.copies.iter().map(Part::from))
                        .collect()
                });
                let cited: Vec<Places<'_>> = places.collect();
                let good = cited.iter().filter(|places| is_right(&gold.evidence, places)).count() as f64;
                set("citation_precision", (!cited.is_empty()).then(|| good / cited.len() as f64));
                set("citation_recall", Some(touched(&gold.evidence, &cited)));
            }
        }
        Self(metrics)
    }
}

fn is_right(gold: &[GoldPlace], places: &Places<'_>) -> bool {
    gold.iter().any(|gold| places.iter().any(|part| gold.overlaps(*part)))
}

/// Share of the right places that are touched.
fn touched(gold: &[GoldPlace], found: &[Places<'_>]) -> f64 {
    let touches = |gold: &&GoldPlace| found.iter().flatten().any(|part| gold.overlaps(*part));
    gold.iter().filter(touches).count() as f64 / gold.len() as f64
}

/// 0 where no chunk is right.
fn context_precision(gold: &[GoldPlace], chunks: &[Places<'_>]) -> f64 {
    let (mut right, mut sum) = (0.0, 0.0);
    for (rank, chunk) in (1u32..).zip(chunks) {
        if is_right(gold, chunk) {
            right += 1.0;
            sum += right / f64::from(rank);
        }
    }
    if right > 0.0 { sum / right } else { 0.0 }
}

/// Lower case, without punctuation and the articles of English, as SQuAD's evaluation takes them.
fn words(text: &str) -> Vec<String> {
    let plain: String = text
        .to_lowercase()
        .chars()
        .filter(|char| !(char.is_ascii_punctuation() || matches!(char, '“' | '”' | '’' | '–' | '—')))
        .collect();
    plain.split_whitespace().filter(|word| !matches!(*word, "a" | "an" | "the")).map(str::to_owned).collect()
}

/// Harmonic mean of the shares of words in common, each as often as it occurs.
fn word_f1(said: &[String], right: &[String]) -> f64 {
    let mut left: BTreeMap<&String, usize> = BTreeMap::new();
    right.iter().for_each(|word| *left.entry(word).or_default() += 1);
    let mut common = 0.0;
    for word in said {
        if let Some(count) = left.get_mut(word).filter(|count| **count > 0) {
            *count -= 1;
            common += 1.0;
        }
    }
    if common == 0.0 { 0.0 } else { 2.0 * common / (said.len() + right.len()) as f64 }
}

/// How well not answering is done, over all questions.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct AbstentionQuality {
    /// Share of the questions not answered that have no answer; absent where all are answered.
    pub precision: Option<f64>,
    /// Share of the questions without an answer that are not answered; absent where there is none.
    pub recall: Option<f64>,
    /// Area under the risk-coverage curve of the answers that were given: mean share of wrong ones over all coverages,
    /// 0 is best (Geifman and El-Yaniv 2017, arXiv 1705.08500, section 2). Wrong is an answer that cites no right
    /// place, or that should not have been given.
    pub risk_area: Option<f64>,
    pub curve: Vec<RiskPoint>,
}

/// A question's outcome for [`AbstentionQuality`].
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Told {
    pub is_answerable: bool,
    pub is_answered: bool,
    pub confidence: f64,
    /// Whether the answer that was given is right.
    pub is_right: bool,
}

impl AbstentionQuality {
    #[must_use]
    pub fn of(told: &[Told]) -> Self {
        let silent = told.iter().filter(|told| !told.is_answered).count();
        let unanswerable = told.iter().filter(|told| !told.is_answerable).count();
        let both = told.iter().filter(|told| !told.is_answered && !told.is_answerable).count() as f64;
        let answered = told.iter().filter(|told| told.is_answered);
        let curve = risk_coverage(&answered.map(|told| (told.confidence, told.is_right)).collect::<Vec<_>>());
        // Each point stands for the coverages between the one before it and itself.
        let mut before = 0.0;
        let area = curve.iter().map(|point| {
            let width = point.coverage - before;
            before = point.coverage;
            width * point.risk
        });
        let risk_area: f64 = area.sum();
        Self {
            precision: (silent > 0).then(|| both / silent as f64),
            recall: (unanswerable > 0).then(|| both / unanswerable as f64),
            risk_area: (!curve.is_empty()).then_some(risk_area),
            curve,
        }
    }
}

#[cfg(test)]
mod tests;
