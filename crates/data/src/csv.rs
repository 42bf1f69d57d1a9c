//! CSV as RFC 4180 has it: a header, cells apart by commas, cells in quotes may hold commas, line ends and
//! doubled quotes. TSV is the same with tabs instead of commas, as spreadsheets write it.
//!
//! Every cell is text, exactly as it is written: `007` and `1.10` stay what they are, whatever stands in other
//! rows. A cell with nothing in it is null; `""` is the empty text. A template that needs a number converts it
//! (`{{ score | float }}`).

use std::ops::Range;
use std::path::Path;

use serde_json::Value;

use crate::jsonl::{TOO_LARGE, check_field};
use crate::{DataError, Limits, Row, lines};

/// Where in a record its reader is; what continues from line to line.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum State {
    #[default]
    CellStart,
    Plain,
    Quoted,
    /// Behind a quote that ends the cell, or is the first of two.
    Quote,
}

impl State {
    pub(crate) fn after(self, bytes: &[u8], separator: char) -> Self {
        let separator = separator as u32;
        bytes.iter().fold(self, |state, byte| match (state, byte) {
            (Self::CellStart | Self::Quote, b'"') => Self::Quoted,
            (Self::Quoted, b'"') => Self::Quote,
            (Self::Quoted, _) => Self::Quoted,
            (_, other) if u32::from(*other) == separator => Self::CellStart,
            (Self::CellStart | Self::Plain, _) => Self::Plain,
            // Text behind the end of a cell: `cells` says so.
            (Self::Quote, _) => Self::Quote,
        })
    }
}

/// A cell of a record.
pub(crate) struct Cell {
    /// `None` where there is nothing in it.
    text: Option<String>,
    /// As it is written, with its quotes: bytes of the record.
    pub(crate) written: Range<usize>,
}

pub(crate) fn cells(record: &[u8], separator: char, place: (&Path, u64)) -> Result<Vec<Cell>, DataError> {
    const QUOTES: &str = "put the whole cell in quotes and double each quote that belongs to it";
    let text = lines::text(record, place)?;
    let text = text.strip_suffix('\n').map_or(text, |line| line.strip_suffix('\r').unwrap_or(line));
    let mut cells = Vec::new();
    let mut cell = String::new();
    let (mut state, mut was_quoted, mut start) = (State::CellStart, false, 0);
    for (at, character) in text.char_indices() {
        match (state, character) {
            (State::CellStart, '"') => (state, was_quoted) = (State::Quoted, true),
            (State::Quoted, '"') => state = State::Quote,
            (State::Quote, '"') => {
                cell.push('"');
                state = State::Quoted;
            }
            (State::CellStart | State::Plain | State::Quote, other) if other == separator => {
                let text = (was_quoted || !cell.is_empty()).then(|| std::mem::take(&mut cell));
                cells.push(Cell { text, written: start..at });
                (state, was_quoted, start) = (State::CellStart, false, at + 1);
            }
            (State::Quote, _) => {
                return Err(lines::error(place, "a cell goes on behind its closing quote", QUOTES));
            }
            (State::CellStart | State::Plain, '\r') => {
                let message = "a carriage return outside of quotes";
                return Err(lines::error(
                    place,
                    message,
                    "end lines with a line feed, as `dos2unix -c mac` does",
                ));
            }
            (State::CellStart | State::Plain, _) => {
                cell.push(character);
                state = State::Plain;
            }
            (State::Quoted, _) => cell.push(character),
        }
    }
    if state == State::Quoted {
        let mend = format!("{QUOTES}; or the file was cut off in this cell while it was copied");
        return Err(lines::error(place, "a quote is never closed", mend));
    }
    let last = (was_quoted || !cell.is_empty()).then_some(cell);
    cells.push(Cell { text: last, written: start..text.len() });
    Ok(cells)
}

/// The names in the first record.
pub(crate) fn header(record: &[u8], separator: char, path: &Path) -> Result<Vec<String>, DataError> {
    let record = record.strip_prefix(lines::UTF8_MARK).unwrap_or(record);
    let cells = cells(record, separator, (path, 1))?.into_iter();
    let names: Vec<String> = cells.map(|cell| cell.text.unwrap_or_default()).collect();
    match (1..names.len()).find(|at| names[..*at].contains(&names[*at])) {
        Some(at) => {
            let message = format!("two columns are called `{}`", names[at]);
            Err(lines::error((path, 1), message, "give each column a name of its own"))
        }
        None => Ok(names),
    }
}

/// The row that a record holds.
pub(crate) fn parse(
    record: &[u8],
    (header, separator): (&[String], char),
    place: (&Path, u64),
    limits: &Limits,
) -> Result<Row, DataError> {
    let cells = cells(record, separator, place)?;
    if cells.len() != header.len() {
        let message = format!("{} cells, the header has {}", cells.len(), header.len());
        let named = if separator == '\t' { "tab" } else { "comma" };
        let mend = format!(
            "put cells that hold {named}s in quotes, and leave a {named} for each cell that is empty"
        );
        return Err(lines::error(place, message, mend));
    }
    let mut row = Row::with_capacity(cells.len());
    for (name, cell) in header.iter().zip(cells) {
        let value = cell.text.map_or(Value::Null, Value::String);
        check_field(&value, limits).map_err(|message| DataError::Row {
            path: place.0.to_owned(),
            unit: "line",
            row: place.1,
            field: Some(name.clone()),
            message,
            mend: Some(TOO_LARGE.to_owned()),
        })?;
        row.insert(name.clone(), value);
    }
    Ok(row)
}
