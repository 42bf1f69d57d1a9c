//! Which worked examples stand before which document.

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::sync::OnceLock;

use evalign_core::{SampleKey, ScoringMode, sample_seed};
use serde_json::Value;

use crate::error::BenchError;
use crate::python::Random;
use crate::rows::RowSource;
use crate::task::{Sampler, ShotsDefinition};
use crate::template::{self, Formula};

/// Where the examples of a task come from, and the rule they are chosen by.
///
/// `--compat lm-eval` draws from one stream per task, advanced once per document in document order, so
/// the examples of a document depend on all documents before it; they are drawn up to the last document
/// wanted, also when the ones before it are not evaluated. The default mode seeds every document by
/// itself: neither order nor selection changes a prompt.
#[derive(Debug)]
pub(crate) struct Shots {
    pub(crate) count: u32,
    pool: Pool,
    rule: Rule,
    task: String,
    seed: u64,
    mode: ScoringMode,
    /// Documents (0 to the last wanted) that the stream is drawn for.
    docs: u64,
    /// Whether the evaluated document must not be its own example.
    drop_self: bool,
    drawn: OnceLock<Result<Vec<u32>, String>>,
    fingerprints: OnceLock<Result<Vec<u64>, String>>,
    classes: OnceLock<Result<Vec<Vec<u32>>, String>>,
}

#[derive(Debug)]
pub(crate) enum Pool {
    /// Examples written in the task file.
    Examples(Vec<serde_json::Map<String, Value>>),
    Rows(RowSource),
}

#[derive(Debug)]
enum Rule {
    FirstN,
    Random,
    Balanced(Formula),
}

/// What [`Shots::new`] needs to know beyond the definition.
pub(crate) struct ShotsContext<'a> {
    pub(crate) task: &'a str,
    pub(crate) seed: u64,
    pub(crate) mode: ScoringMode,
    /// Documents up to the last one wanted.
    pub(crate) docs: u64,
    /// The examples come from the split that is evaluated.
    pub(crate) same_split: bool,
}

impl Pool {
    pub(crate) fn len(&self) -> u64 {
        match self {
            Self::Examples(examples) => examples.len() as u64,
            Self::Rows(rows) => rows.len(),
        }
    }

    pub(crate) fn get(&self, task: &str, index: u32) -> Result<serde_json::Map<String, Value>, BenchError> {
        match self {
            Self::Examples(examples) => {
                examples.get(index as usize).cloned().ok_or_else(|| BenchError::Rows {
                    task: task.to_owned(),
                    dataset: self.name(),
                    message: format!("there is no example {index}"),
                })
            }
            Self::Rows(rows) => rows.get(task, u64::from(index)),
        }
    }

    pub(crate) fn name(&self) -> String {
        match self {
            Self::Examples(_) => "the worked examples of the task file".to_owned(),
            Self::Rows(rows) => rows.name(),
        }
    }
}

impl Shots {
    pub(crate) fn new(
        definition: &ShotsDefinition,
        count: u32,
        pool: Pool,
        context: &ShotsContext<'_>,
    ) -> Result<Self, BenchError> {
        let compat = context.mode == ScoringMode::LmEval;
        let from_rows = matches!(pool, Pool::Rows(_));
        let drop_self = from_rows && (context.same_split || (compat && definition.extra_draw));
        let needed = u64::from(count) + u64::from(drop_self);
        if needed > pool.len() {
            return Err(BenchError::request(
                format!(
                    "task `{}`: {count} shots were asked for, {} has only {} rows",
                    context.task,
                    pool.name(),
                    pool.len()
                ),
                "ask for fewer with `--shots`",
            ));
        }
        let rule = match definition.sampler {
            Sampler::FirstN => Rule::FirstN,
            Sampler::Random => Rule::Random,
            Sampler::Balanced if compat => {
                return Err(BenchError::request(
                    format!("task `{}`: the reference has no balanced sampler", context.task),
                    "run it without `--compat lm-eval`",
                ));
            }
            Sampler::Balanced => {
                let source = definition.balance_by.as_deref().unwrap_or_default();
                Rule::Balanced(Formula::new(source).map_err(|message| BenchError::Definition {
                    task: context.task.to_owned(),
                    field: "shots.balance_by".to_owned(),
                    message,
                })?)
            }
        };
        Ok(Self {
            count,
            pool,
            rule,
            task: context.task.to_owned(),
            seed: context.seed,
            mode: context.mode,
            docs: context.docs,
            drop_self,
            drawn: OnceLock::new(),
            fingerprints: OnceLock::new(),
            classes: OnceLock::new(),
        })
    }

    pub(crate) fn pool(&self) -> &Pool {
        &self.pool
    }

    /// Indices into the pool, in prompt order, for document `doc`. `rows` are the evaluated documents,
    /// which the draw compares itself with where a document could be its own example.
    pub(crate) fn of(&self, doc: u64, rows: &RowSource) -> Result<Vec<u32>, BenchError> {
        if self.count == 0 {
            return Ok(Vec::new());
        }
        let result = match (&self.rule, self.mode) {
            (Rule::FirstN, _) => self.first_n(doc, rows),
            (Rule::Balanced(formula), _) => self.balanced(doc, formula),
            (Rule::Random, ScoringMode::LmEval) => self.one_stream(doc, rows),
            (Rule::Random, ScoringMode::Default) => {
                self.own_print(doc, rows).and_then(|own| self.draw(&mut self.stream_of(doc), own))
            }
        };
        result.map_err(|message| BenchError::Rows {
            task: self.task.clone(),
            dataset: self.pool.name(),
            message,
        })
    }

    /// A stream of its own for one document, apart from those that sample answers.
    fn stream_of(&self, doc: u64) -> Random {
        let key = SampleKey { task: self.task.clone(), doc, repeat: u32::MAX };
        Random::new(sample_seed(self.seed, &key))
    }

    fn first_n(&self, doc: u64, rows: &RowSource) -> Result<Vec<u32>, String> {
        let own = self.own_print(doc, rows)?;
        let mut first = Vec::with_capacity(self.count as usize);
        for index in 0..self.size() {
            if first.len() == self.count as usize {
                break;
            }
            if !self.is(index, own)? {
                first.push(index);
            }
        }
        self.enough(first)
    }

    /// The reference's stream, drawn for all documents up to the last one wanted.
    fn one_stream(&self, doc: u64, rows: &RowSource) -> Result<Vec<u32>, String> {
        let count = self.count as usize;
        let drawn = self.drawn.get_or_init(|| {
            let mut random = Random::new(self.seed);
            let mut drawn = Vec::with_capacity(self.docs as usize * count);
            for doc in 0..self.docs {
                drawn.extend(self.draw(&mut random, self.own_print(doc, rows)?)?);
            }
            Ok(drawn)
        });
        let start = doc as usize * count;
        let drawn = drawn.as_ref().map_err(Clone::clone)?;
        let of_doc = drawn.get(start..start + count);
        of_doc.map(<[u32]>::to_vec).ok_or_else(|| format!("no examples were drawn for document {doc}"))
    }

    /// `ContextSampler.sample`: one more than wanted where the document itself may be drawn, copies of it
    /// dropped, the rest cut to the number wanted; and a second draw where too few remain.
    fn draw(&self, random: &mut Random, own: Option<u64>) -> Result<Vec<u32>, String> {
        let sample = |random: &mut Random, size: u32, count: u32| {
            random.sample(size, count).ok_or_else(|| format!("{size} rows are too few for {count} shots"))
        };
        let Some(own) = own else { return sample(random, self.size(), self.count) };
        let mut kept = Vec::with_capacity(self.count as usize + 1);
        for index in sample(random, self.size(), self.count + 1)? {
            if !self.is(index, Some(own))? {
                kept.push(index);
            }
        }
        kept.truncate(self.count as usize);
        if kept.len() == self.count as usize {
            return Ok(kept);
        }
        let mut others = Vec::new();
        for index in 0..self.size() {
            if !self.is(index, Some(own))? {
                others.push(index);
            }
        }
        let drawn = sample(random, others.len() as u32, self.count)?;
        Ok(drawn.into_iter().map(|i| others[i as usize]).collect())
    }

    /// Classes in random order, in each turn one random unused row of the next class.
    fn balanced(&self, doc: u64, formula: &Formula) -> Result<Vec<u32>, String> {
        let classes = self.classes.get_or_init(|| self.classify(formula));
        let mut classes = classes.as_ref().map_err(Clone::clone)?.clone();
        let mut random = self.stream_of(doc);
        let order = random.sample(classes.len() as u32, classes.len() as u32).unwrap_or_default();
        let mut chosen = Vec::with_capacity(self.count as usize);
        while chosen.len() < self.count as usize {
            let before = chosen.len();
            for &class in &order {
                let left = &mut classes[class as usize];
                if chosen.len() < self.count as usize && !left.is_empty() {
                    let at = random.below(left.len() as u32) as usize;
                    chosen.push(left.swap_remove(at));
                }
            }
            if chosen.len() == before {
                break;
            }
        }
        self.enough(chosen)
    }

    fn classify(&self, formula: &Formula) -> Result<Vec<Vec<u32>>, String> {
        let mut classes: BTreeMap<String, Vec<u32>> = BTreeMap::new();
        for index in 0..self.size() {
            let row = self.pool.get(&self.task, index).map_err(|error| error.to_string())?;
            let class = formula.eval(&template::document(&row));
            let class = class.map_err(|message| format!("row {}: {message}", index + 1))?;
            classes.entry(class.to_string()).or_default().push(index);
        }
        Ok(classes.into_values().collect())
    }

    fn enough(&self, indices: Vec<u32>) -> Result<Vec<u32>, String> {
        if indices.len() == self.count as usize {
            return Ok(indices);
        }
        Err(format!("only {} rows for {} shots", indices.len(), self.count))
    }

    fn size(&self) -> u32 {
        u32::try_from(self.pool.len()).unwrap_or(u32::MAX)
    }

    /// Fingerprint of the evaluated document, where it must not be drawn.
    fn own_print(&self, doc: u64, rows: &RowSource) -> Result<Option<u64>, String> {
        if !self.drop_self {
            return Ok(None);
        }
        let row = rows.get(&self.task, doc).map_err(|error| error.to_string())?;
        Ok(Some(fingerprint(&row)))
    }

    /// Whether row `index` of the pool equals the document with fingerprint `own`.
    fn is(&self, index: u32, own: Option<u64>) -> Result<bool, String> {
        let Some(own) = own else { return Ok(false) };
        let prints = self.fingerprints.get_or_init(|| {
            let print = |index| self.pool.get(&self.task, index).map(|row| fingerprint(&row));
            (0..self.size()).map(|index| print(index).map_err(|error| error.to_string())).collect()
        });
        Ok(prints.as_ref().map_err(Clone::clone)?.get(index as usize) == Some(&own))
    }
}

/// Equal rows have equal fingerprints. (Columns that `process` adds are functions of the row.)
fn fingerprint(row: &serde_json::Map<String, Value>) -> u64 {
    let mut hasher = DefaultHasher::new();
    for (key, value) in row {
        key.hash(&mut hasher);
        value.to_string().hash(&mut hasher);
    }
    hasher.finish()
}
