use evalign_core::{Digest, Estimate, OutcomeCounts, RunId, Score};
use evalign_store::Store;
use indexmap::IndexMap;
use serde::Serialize;

use super::corpus::{Corpus, CorpusCounts, Hit};
use super::ngrams::{Index, words};
use super::{FEWEST_WORDS, NGRAM_WORDS};
use crate::aggregate::{Aggregation, estimate, joint_protocol};
use crate::{RunError, Scoreboard};

/// Every score of a run with and without the items that stand in a corpus.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Contamination {
    pub ngram_words: usize,
    pub corpus: CorpusCounts,
    /// Groups first, then leaf tasks.
    pub results: Vec<SplitResult>,
    /// The items that were found, and where.
    pub found: Vec<DirtyItem>,
}

/// One metric of a task, split.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct SplitResult {
    /// A leaf task, or a group: then over all items of its tasks together.
    pub task: String,
    pub protocol: Digest,
    pub metric: String,
    pub filter: String,
    pub all: Part,
    pub clean: Part,
    pub dirty: Part,
    /// Items found that are too short for it to mean anything, and items without words.
    pub undecided: Part,
}

/// One part of the items. Its `n` counts those with a value, its outcomes all.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Part {
    #[serde(flatten)]
    pub estimate: Estimate,
    pub outcomes: OutcomeCounts,
}

/// An item that stands in the corpus.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct DirtyItem {
    pub task: String,
    pub doc: u64,
    /// False where the question is so short that finding it may be chance.
    pub dirty: bool,
    pub file: String,
    /// Which text of the file, from 1: for JSONL and parquet the row among those with a text.
    pub text: u64,
    /// The words found.
    pub ngram: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Class {
    Clean,
    Dirty,
    Undecided,
}

/// A document of the run, as far as it matters here.
struct Item {
    task: usize,
    doc: u64,
    scores: Vec<Score>,
}

impl Scoreboard {
    /// Looks for the questions of a run in a corpus. Options and answers are not looked for.
    ///
    /// # Errors
    /// A failure of the store, a stored sample that does not fit its task, a corpus that cannot be read.
    pub fn contamination(
        &self,
        store: &Store,
        run: &RunId,
        corpus: &Corpus,
    ) -> Result<Contamination, RunError> {
        let leaves: Vec<_> = self.leaves.iter().filter(|leaf| leaf.spec.variant.is_none()).collect();
        let mut index = Index::default();
        let mut items: Vec<Item> = Vec::new();
        for (task, leaf) in leaves.iter().enumerate() {
            self.each_document(store, run, leaf, &mut |records, scores| {
                if let Some(first) = records.first() {
                    index.add(words(&leaf.scorer.question_text(&first.doc, &leaf.definition.question)?));
                    items.push(Item { task, doc: first.key.doc, scores: scores.to_vec() });
                }
                Ok(())
            })?;
        }
        let (hits, counts) = corpus.search(&index, items.len())?;
        let classes: Vec<Class> =
            hits.iter().enumerate().map(|(item, hit)| class(index.word_count(item), hit.as_ref())).collect();
        let found = items.iter().zip(&hits).enumerate().filter_map(|(number, (item, hit))| {
            let hit = hit.as_ref()?;
            Some(DirtyItem {
                task: leaves[item.task].spec.task.clone(),
                doc: item.doc,
                dirty: classes[number] == Class::Dirty,
                file: hit.file.display().to_string(),
                text: hit.text,
                ngram: index.ngram(number, hit.position),
            })
        });
        let found = found.collect();
        let named = |task: usize| leaves[task].spec.task.as_str();
        let mut results = Vec::new();
        for (name, members) in self.groups_and(leaves.iter().map(|leaf| leaf.spec.task.as_str())) {
            let mine: Vec<(&Item, Class)> = items
                .iter()
                .zip(&classes)
                .filter(|(item, _)| members.contains(&named(item.task)))
                .map(|(item, class)| (item, *class))
                .collect();
            let specs = leaves.iter().map(|leaf| &leaf.spec);
            let protocol = joint_protocol(specs.filter(|spec| members.contains(&spec.task.as_str())));
            results.extend(self.split(name, &protocol, &mine));
        }
        Ok(Contamination { ngram_words: NGRAM_WORDS, corpus: counts, results, found })
    }

    fn split(&self, task: &str, protocol: &Digest, items: &[(&Item, Class)]) -> Vec<SplitResult> {
        let mut metrics: IndexMap<(&str, &str), Vec<(&Score, Class)>> = IndexMap::new();
        for (item, class) in items {
            for score in &item.scores {
                metrics.entry((&score.metric, &score.filter)).or_default().push((score, *class));
            }
        }
        let result = |((metric, filter), scores): ((&str, &str), Vec<(&Score, Class)>)| {
            let part = |wanted: &dyn Fn(Class) -> bool| {
                let mine = scores.iter().filter(|(_, class)| wanted(*class)).map(|(score, _)| *score);
                self.part(metric, mine)
            };
            SplitResult {
                task: task.to_owned(),
                protocol: protocol.clone(),
                metric: metric.to_owned(),
                filter: filter.to_owned(),
                all: part(&|_| true),
                clean: part(&|class| class == Class::Clean),
                dirty: part(&|class| class == Class::Dirty),
                undecided: part(&|class| class == Class::Undecided),
            }
        };
        metrics.into_iter().map(result).collect()
    }

    fn part<'a>(&self, metric: &str, scores: impl Iterator<Item = &'a Score>) -> Part {
        let (mut pairs, mut outcomes) = (Vec::new(), OutcomeCounts::default());
        for score in scores {
            outcomes.add(score.outcome);
            pairs.extend(score.value.map(|value| (value, score.weight.unwrap_or(1.0))));
        }
        Part { estimate: estimate(Aggregation::of(metric), &pairs, self.mode), outcomes }
    }
}

fn class(words: usize, hit: Option<&Hit>) -> Class {
    match (words, hit) {
        (0, _) => Class::Undecided,
        (_, None) => Class::Clean,
        (FEWEST_WORDS.., Some(_)) => Class::Dirty,
        (_, Some(_)) => Class::Undecided,
    }
}
