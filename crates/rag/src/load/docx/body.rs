use std::collections::BTreeMap;

use super::outline_level;
use super::package::Piece;
use crate::load::{DocumentKind, Heading, LoadedText};

/// Elements whose text a reader does not see: what was deleted or moved away, field codes, and the other form of a
/// drawing that is there already.
const UNSEEN: [&str; 4] = ["del", "moveFrom", "instrText", "Fallback"];
/// Elements that hold what properties were before a tracked change of the formatting.
const FORMER: [&str; 2] = ["rPrChange", "pPrChange"];
/// What stands between the cells of a row.
const BETWEEN_CELLS: &str = " | ";

/// The text that elements make.
pub(super) struct Body<'a> {
    loaded: LoadedText,
    levels: &'a BTreeMap<String, u8>,
    /// Paragraphs that are open, those of text boxes inside others: where they begin, and their level as headings.
    paragraphs: Vec<(usize, Option<u8>)>,
    /// Runs that are open: whether they are hidden.
    runs: Vec<bool>,
    /// Whether any of them hid text.
    hid: bool,
    /// Elements of these kinds that are open.
    texts: usize,
    cells: usize,
    unseen: usize,
    former: usize,
    paragraph_properties: usize,
}

impl<'a> Body<'a> {
    pub(super) fn new(levels: &'a BTreeMap<String, u8>) -> Self {
        Self {
            loaded: LoadedText::new(String::new(), DocumentKind::Docx, None),
            levels,
            paragraphs: Vec::new(),
            runs: Vec::new(),
            hid: false,
            texts: 0,
            cells: 0,
            unseen: 0,
            former: 0,
            paragraph_properties: 0,
        }
    }

    pub(super) fn take(&mut self, piece: Piece<'_>) {
        match piece {
            Piece::Open { name, attributes } => self.open(name, &|| attributes.get("val")),
            Piece::Close { name } => self.close(name),
            Piece::Text(text) if self.texts > 0 && self.unseen == 0 => match self.runs.last() {
                Some(true) => self.hid = true,
                _ => self.loaded.text.push_str(text),
            },
            Piece::Text(_) => {}
        }
    }

    pub(super) fn loaded(mut self) -> LoadedText {
        if self.hid {
            self.loaded.notes.push("text that Word hides was left out".to_owned());
        }
        if self.loaded.text.trim().is_empty() {
            self.loaded.notes.push("no text: it may hold pictures only".to_owned());
        }
        self.loaded.title = self.loaded.headings.first().map(|heading| heading.title.clone());
        self.loaded
    }

    fn open(&mut self, name: &str, value: &dyn Fn() -> Option<String>) {
        if FORMER.contains(&name) {
            self.former += 1;
        }
        if self.former > 0 {
            return;
        }
        if UNSEEN.contains(&name) {
            self.unseen += 1;
        }
        match name {
            "p" => self.paragraphs.push((self.loaded.text.len(), None)),
            "r" => self.runs.push(false),
            "t" => self.texts += 1,
            "tc" => self.cells += 1,
            "pPr" => self.paragraph_properties += 1,
            "pStyle" => {
                let level = value().and_then(|style| self.levels.get(&style).copied());
                self.set_level(level);
            }
            "outlineLvl" => self.set_level(value().and_then(|value| outline_level(&value))),
            // Without a value it is so. That of a paragraph is about its mark, not about a run that it stands in, as the
            // paragraph of a text box does.
            "vanish" if self.paragraph_properties == 0 => {
                let hides = !matches!(value().as_deref(), Some("0" | "false" | "off"));
                if let Some(hidden) = self.runs.last_mut() {
                    *hidden = hides;
                }
            }
            // Outside of runs these are settings.
            "tab" if self.shows() => self.loaded.text.push('\t'),
            "br" | "cr" if self.shows() => self.loaded.text.push('\n'),
            "noBreakHyphen" if self.shows() => self.loaded.text.push('-'),
            _ => {}
        }
    }

    fn shows(&self) -> bool {
        self.unseen == 0 && self.runs.last() == Some(&false)
    }

    fn set_level(&mut self, level: Option<u8>) {
        if let (Some(level), Some(paragraph)) = (level, self.paragraphs.last_mut()) {
            paragraph.1 = Some(level);
        }
    }

    fn close(&mut self, name: &str) {
        if self.former > 0 {
            self.former -= usize::from(FORMER.contains(&name));
            return;
        }
        if UNSEEN.contains(&name) {
            self.unseen = self.unseen.saturating_sub(1);
        }
        match name {
            "p" => self.end_paragraph(),
            "r" => drop(self.runs.pop()),
            "t" => self.texts = self.texts.saturating_sub(1),
            "pPr" => self.paragraph_properties = self.paragraph_properties.saturating_sub(1),
            "tc" => {
                self.cells = self.cells.saturating_sub(1);
                self.trim_end();
                self.loaded.text.push_str(BETWEEN_CELLS);
            }
            "tr" => {
                if let Some(row) = self.loaded.text.strip_suffix(BETWEEN_CELLS) {
                    let length = row.len();
                    self.loaded.text.truncate(length);
                }
                self.loaded.text.push('\n');
            }
            "tbl" => self.loaded.text.push('\n'),
            _ => {}
        }
    }

    fn end_paragraph(&mut self) {
        let Some((start, level)) = self.paragraphs.pop() else { return };
        let text = self.loaded.text.get(start..).unwrap_or_default();
        if text.trim().is_empty() {
            self.loaded.text.truncate(start);
            return;
        }
        if self.cells > 0 {
            self.loaded.text.push(' ');
            return;
        }
        if let Some(level) = level {
            let title = text.split_whitespace().collect::<Vec<_>>().join(" ");
            self.loaded.headings.push(Heading { start, level, title });
        }
        self.loaded.text.push_str("\n\n");
    }

    fn trim_end(&mut self) {
        let length = self.loaded.text.trim_end_matches(' ').len();
        self.loaded.text.truncate(length);
    }
}
