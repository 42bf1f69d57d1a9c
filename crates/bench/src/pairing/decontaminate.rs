use std::collections::{BTreeMap, BTreeSet};

use evalign_core::{Digest, ScoringMode};
use evalign_data::DataRoots;
use serde::Serialize;
use serde_json::Value;

use super::origin::BuiltPair;
use crate::BenchError;
use crate::contamination::{FEWEST_WORDS, Index, Search, words};
use crate::document::Reader;
use crate::rows::RowSource;
use crate::scorer::Scorer;
use crate::task::Catalog;

/// The questions that scores are measured on, and finding them in texts: thirteen words in a row, or a whole
/// question of eight to twelve (the rule of [`crate::Corpus`]).
pub struct Decontamination {
    index: Index,
    /// By item: the task, as an index into `tasks`.
    task_of: Vec<usize>,
    tasks: Vec<String>,
    unavailable: Vec<String>,
    /// Questions that are in the index: tasks of one benchmark ask the same ones in several ways.
    known: BTreeSet<Digest>,
    /// Questions too short for the index, words between single spaces, with the task: looked for in prompts only.
    short: BTreeMap<String, usize>,
}

/// Shorter questions are the same only where they are the whole prompt.
const FEWEST_SHORT_WORDS: usize = 4;

impl std::fmt::Debug for Decontamination {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Decontamination").field("tasks", &self.tasks).finish_non_exhaustive()
    }
}

/// What was compared with, and what was found.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct DecontaminationCounts {
    pub questions: u64,
    pub tasks: Vec<String>,
    /// Tasks whose rows are not on this machine: nothing is said about them.
    pub unavailable: Vec<String>,
    /// Tasks of which questions were found.
    pub found: BTreeSet<String>,
}

impl Decontamination {
    /// The questions of these tasks (all of the catalog where none is named), as far as their rows are on this
    /// machine: nothing is downloaded for it.
    ///
    /// # Errors
    /// A task that is not there, or whose rows do not fit its definition.
    pub fn of_tasks(
        names: Option<&[String]>,
        catalog: &Catalog,
        roots: &DataRoots,
    ) -> Result<Self, BenchError> {
        let names: Vec<String> = match names {
            Some(names) => names.to_vec(),
            None => catalog.tasks().map(|task| task.name).collect(),
        };
        let here = DataRoots { offline: true, hub: None, ..roots.clone() };
        let mut found = Self {
            index: Index::default(),
            task_of: Vec::new(),
            known: BTreeSet::new(),
            short: BTreeMap::new(),
            tasks: Vec::new(),
            unavailable: Vec::new(),
        };
        for name in names {
            let definition = catalog.task(&name)?.for_mode(ScoringMode::Default);
            match RowSource::evaluated(&definition, catalog.directory(&name), &here) {
                Ok(rows) => found.add(&definition, &rows)?,
                Err(BenchError::Dataset { .. }) => found.unavailable.push(name),
                Err(error) => return Err(error),
            }
        }
        Ok(found)
    }

    /// Tasks whose rows are not on this machine.
    #[must_use]
    pub fn unavailable(&self) -> &[String] {
        &self.unavailable
    }

    fn add(&mut self, definition: &crate::TaskDefinition, rows: &RowSource) -> Result<(), BenchError> {
        let reader = Reader::new(definition)?;
        let scorer = Scorer::new(definition, ScoringMode::Default, definition.repeats)?;
        let task = self.tasks.len();
        self.tasks.push(definition.name.clone());
        for row in 0..rows.len() {
            let document =
                reader.document(rows.get(&definition.name, row)?).map_err(|error| BenchError::Row {
                    task: definition.name.clone(),
                    field: error.field,
                    dataset: rows.name(),
                    row: row + 1,
                    message: error.message,
                })?;
            let question = scorer.question_text(&Value::Object(document.row), &definition.question)?;
            let words = words(&question);
            // Shorter ones stand in many texts by chance.
            if (1..FEWEST_WORDS).contains(&words.len()) {
                self.short.entry(words.join(" ")).or_insert(task);
            }
            if words.len() >= FEWEST_WORDS && self.known.insert(Digest::of(words.join(" "))) {
                self.index.add(words);
                self.task_of.push(task);
            }
        }
        Ok(())
    }

    /// The tasks of which a question stands in a text.
    pub(super) fn tasks_in(&self, texts: &[&str]) -> BTreeSet<usize> {
        let mut search = Search::new(&self.index);
        let mut found = BTreeSet::new();
        for text in texts {
            for word in words(text) {
                search.word(&word, &mut |item, _| {
                    found.extend(self.task_of.get(item));
                });
            }
            search.end_of_text();
        }
        found
    }

    /// The tasks of which a question is asked in a prompt, or is all of it.
    pub(super) fn tasks_asked(&self, prompt: &str) -> BTreeSet<usize> {
        let mut found = self.tasks_in(&[prompt]);
        let words = words(prompt);
        let asked = |words: &[String]| self.short.get(&words.join(" ")).copied();
        found.extend(asked(&words));
        for count in FEWEST_SHORT_WORDS..FEWEST_WORDS {
            found.extend(words.windows(count).filter_map(asked));
        }
        found
    }

    /// Whether a question stands in the prompt or in a side of a pair.
    pub(crate) fn finds(&self, pair: &BuiltPair, counts: &mut DecontaminationCounts) -> bool {
        let texts: Vec<String> =
            pair.example.texts().into_iter().map(|(_, text)| evalign_judge::as_text(text)).collect();
        let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
        let mut found = self.tasks_in(&texts);
        found.extend(self.tasks_asked(&pair.prompt_text()));
        counts.found.extend(found.iter().filter_map(|task| self.tasks.get(*task)).cloned());
        !found.is_empty()
    }

    pub(super) fn counts(&self, found: &DecontaminationCounts) -> DecontaminationCounts {
        DecontaminationCounts {
            questions: self.task_of.len() as u64,
            tasks: self.tasks.clone(),
            unavailable: self.unavailable.clone(),
            found: found.found.clone(),
        }
    }
}
