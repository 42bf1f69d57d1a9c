//! Texts to chunks, with exact places.
//!
//! A text is cut into units by its structure (pages, sections, rows, items of source code), a unit into pieces
//! that fit the budget of tokens: at blank lines, else at line ends, sentences, words, characters. Pieces are put
//! together again as long as they fit. A chunk is always a range of the text, so its place is exact and no
//! character is ever split.

mod code;
mod split;

use std::ops::Range;

use serde::{Deserialize, Serialize};

use crate::RagError;
use crate::load::{DocumentKind, LoadedText};
use split::Splitter;

/// How texts are cut.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Strategy {
    /// By what the document is: sections of Markdown and HTML, items of source code, rows, pages.
    #[default]
    Auto,
    /// Blank lines, lines, sentences, words: whatever the document is.
    Recursive,
    /// Whole sentences, as many as fit.
    Sentence,
}

/// What decides which chunks become of a text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChunkSettings {
    pub strategy: Strategy,
    /// Most tokens of a chunk, counted by the embedder, special tokens not included.
    pub max_tokens: usize,
    /// Tokens at the end of a chunk that the next one repeats.
    pub overlap_tokens: usize,
    /// Puts the document's title and the headings above a chunk before it for searching.
    pub prefix: bool,
}

impl ChunkSettings {
    /// # Errors
    /// [`RagError::Invalid`] for a budget that holds nothing, or that the embedder would cut.
    pub fn check(&self, embedder_tokens: usize) -> Result<(), RagError> {
        let invalid = |message: String, hint: &str| Err(RagError::invalid("--chunk-tokens", message, hint));
        if self.max_tokens < 8 {
            return invalid(format!("{} tokens hold no sentence", self.max_tokens), "give 8 or more");
        }
        if self.max_tokens >= embedder_tokens {
            return invalid(
                format!("the embedder reads {embedder_tokens} tokens of a text, its own included"),
                "give fewer: what does not fit would not be searched",
            );
        }
        if self.overlap_tokens * 2 > self.max_tokens {
            return Err(RagError::invalid(
                "--chunk-overlap",
                format!("{} of {} tokens", self.overlap_tokens, self.max_tokens),
                "give at most half of `--chunk-tokens`",
            ));
        }
        Ok(())
    }
}

/// Where a chunk is in its text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChunkPlace {
    pub range: Range<usize>,
    pub page: Option<u32>,
    /// Headings above it, the outermost first; of source code, the item it is in.
    pub section: Vec<String>,
}

/// A part of a text that no chunk reaches out of.
#[derive(Clone, Debug)]
struct Unit {
    range: Range<usize>,
    section: Vec<String>,
    /// Small neighbours of this kind may share a chunk.
    joins: bool,
}

/// Cuts a text. `count` says how many tokens a piece of text has, special tokens not included.
#[must_use]
pub fn chunks(
    loaded: &LoadedText,
    settings: ChunkSettings,
    count: &dyn Fn(&str) -> usize,
) -> Vec<ChunkPlace> {
    let splitter = Splitter {
        text: &loaded.text,
        max: settings.max_tokens.saturating_sub(settings.overlap_tokens).max(1),
        overlap: settings.overlap_tokens,
        count,
    };
    let mut places: Vec<ChunkPlace> = Vec::new();
    for unit in joined(units(loaded, settings.strategy, &splitter), &splitter) {
        let first = match settings.strategy {
            Strategy::Sentence => split::Level::Sentence,
            Strategy::Auto | Strategy::Recursive => split::Level::Paragraph,
        };
        for range in splitter.split(unit.range, first) {
            let page = loaded.page_of(range.start);
            places.push(ChunkPlace { range, page, section: unit.section.clone() });
        }
    }
    places
}

/// Puts small neighbours together that may share a chunk.
fn joined(units: Vec<Unit>, splitter: &Splitter<'_>) -> Vec<Unit> {
    let mut out: Vec<Unit> = Vec::with_capacity(units.len());
    let mut open_tokens = 0;
    for unit in units {
        let tokens = splitter.tokens(unit.range.clone());
        match (out.last_mut(), tokens) {
            (Some(last), Some(tokens))
                if last.joins && unit.joins && open_tokens + tokens <= splitter.max =>
            {
                last.range.end = unit.range.end;
                open_tokens += tokens;
            }
            (_, tokens) => {
                open_tokens = tokens.unwrap_or(usize::MAX / 2);
                out.push(unit);
            }
        }
    }
    out
}

fn units(loaded: &LoadedText, strategy: Strategy, splitter: &Splitter<'_>) -> Vec<Unit> {
    let whole = 0..loaded.text.len();
    if strategy != Strategy::Auto {
        return paged(loaded, vec![Unit { range: whole, section: Vec::new(), joins: false }]);
    }
    if !loaded.rows.is_empty() {
        let row = |range: &Range<usize>| Unit { range: range.clone(), section: Vec::new(), joins: false };
        return loaded.rows.iter().map(row).collect();
    }
    match loaded.kind {
        DocumentKind::Rust | DocumentKind::Python | DocumentKind::Javascript | DocumentKind::Go => {
            code::units(&loaded.text, loaded.kind, splitter)
        }
        _ => paged(loaded, sections(loaded)),
    }
}

/// Cuts at headings; a section is named by the headings above it.
fn sections(loaded: &LoadedText) -> Vec<Unit> {
    let mut units = Vec::new();
    let mut path: Vec<(u8, String)> = Vec::new();
    let mut start = 0;
    for heading in &loaded.headings {
        let section = path.iter().map(|(_, title)| title.clone()).collect();
        units.push(Unit { range: start..heading.start, section, joins: false });
        path.retain(|(level, _)| *level < heading.level);
        path.push((heading.level, heading.title.clone()));
        start = heading.start;
    }
    let section = path.into_iter().map(|(_, title)| title).collect();
    units.push(Unit { range: start..loaded.text.len(), section, joins: false });
    units
}

/// Cuts units at page ends.
fn paged(loaded: &LoadedText, units: Vec<Unit>) -> Vec<Unit> {
    let mut out = Vec::new();
    for unit in units {
        let mut start = unit.range.start;
        let inside = loaded.pages.iter().copied().filter(|page| *page > start && *page < unit.range.end);
        for end in inside.chain([unit.range.end]).collect::<Vec<_>>() {
            out.push(Unit { range: start..end, ..unit.clone() });
            start = end;
        }
    }
    out
}

#[cfg(test)]
mod tests;
