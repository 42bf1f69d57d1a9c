use std::path::{Path, PathBuf};

use evalign_data::{Limits, TextPart, holds_texts, read_texts};
use serde::Serialize;

use super::ngrams::{Index, Search, Words};
use crate::{BenchError, RunError};

/// Files of texts: `.txt`, `.jsonl` (both also `.gz`, `.zst`) and `.parquet`.
#[derive(Clone, Debug)]
pub struct Corpus {
    files: Vec<PathBuf>,
    /// The field or column the texts are in.
    field: String,
}

/// What was read of a corpus.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct CorpusCounts {
    pub files: u64,
    pub texts: u64,
    pub words: u64,
    /// Rows without a text, which were passed over.
    pub rows_without_text: u64,
}

/// Where an item was found first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Hit {
    pub(super) file: PathBuf,
    /// The text of the file, counted from 1.
    pub(super) text: u64,
    pub(super) position: usize,
}

impl Corpus {
    /// The files at `paths`; of directories all files of a known kind in and below them.
    ///
    /// # Errors
    /// A path that cannot be read, a directory without such files.
    pub fn open(paths: &[PathBuf], field: &str) -> Result<Self, RunError> {
        let mut files = Vec::new();
        for path in paths {
            if !path.is_dir() {
                files.push(path.clone());
                continue;
            }
            let before = files.len();
            below(path, &mut files)?;
            if files.len() == before {
                return Err(RunError::Bench(BenchError::request(
                    format!("there are no texts in {}", path.display()),
                    "a corpus is .txt, .jsonl (also .gz or .zst) or .parquet files",
                )));
            }
        }
        Ok(Self { files, field: field.to_owned() })
    }

    /// Streams everything past the index. Of each item the first place it is found at, by its number.
    pub(super) fn search(
        &self,
        index: &Index,
        items: usize,
    ) -> Result<(Vec<Option<Hit>>, CorpusCounts), RunError> {
        let mut reading = Reading { search: Search::new(index), hits: vec![None; items], words: 0 };
        let mut counts = CorpusCounts::default();
        for file in &self.files {
            let mut words = Words::default();
            let mut text = 1;
            let found = read_texts(file, &self.field, &Limits::default(), &mut |part| match part {
                TextPart::Part(part) => words.part(part, &mut |word| reading.word(word, file, text)),
                TextPart::End => {
                    words.end(&mut |word| reading.word(word, file, text));
                    reading.search.end_of_text();
                    text += 1;
                }
            })?;
            counts.files += 1;
            counts.texts += found.texts;
            counts.rows_without_text += found.without;
        }
        counts.words = reading.words;
        Ok((reading.hits, counts))
    }
}

/// A search under way.
struct Reading<'a> {
    search: Search<'a>,
    hits: Vec<Option<Hit>>,
    words: u64,
}

impl Reading<'_> {
    fn word(&mut self, word: &str, file: &Path, text: u64) {
        self.words += 1;
        let hits = &mut self.hits;
        self.search.word(word, &mut |item, position| {
            if let Some(slot @ None) = hits.get_mut(item) {
                *slot = Some(Hit { file: file.to_owned(), text, position });
            }
        });
    }
}

/// Files of texts below a directory, in the order of their names.
fn below(directory: &Path, found: &mut Vec<PathBuf>) -> Result<(), RunError> {
    let failed = |source| RunError::File { path: directory.to_owned(), source };
    let mut entries = Vec::new();
    for entry in fs_err::read_dir(directory).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        // A link may lead back up.
        entries.push((entry.path(), entry.file_type().map_err(failed)?.is_dir()));
    }
    entries.sort();
    for (path, is_directory) in entries {
        if is_directory {
            below(&path, found)?;
        } else if holds_texts(&path) {
            found.push(path);
        }
    }
    Ok(())
}
