use evalign_data::Row;
use serde_json::{Map, Value};

use super::{Unkept, Untold, as_written, front_matter, kept};

/// What a document carries: all of it, or each of its rows.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Carried {
    of_document: Map<String, Value>,
    /// As JSON, in the order of the rows: a table may have a million.
    of_rows: Vec<Box<str>>,
    unkept: Unkept,
    unread: Option<String>,
}

impl Carried {
    /// Takes a YAML block between two lines `---`, the lines included.
    pub(crate) fn read_front_matter(&mut self, block: &str) {
        match front_matter(block) {
            Ok(fields) => self.of_document = kept(fields, &mut self.unkept),
            Err(error) => self.unread = Some(error),
        }
    }

    /// Takes the next row. `is_text`: a file of this kind has nothing but texts, whatever they look like.
    pub(crate) fn push_row(&mut self, row: &Row, is_text: bool) {
        let value = |value: &Value| match value {
            Value::String(text) if is_text => as_written(text.trim()),
            value => value.clone(),
        };
        let fields = row.iter().map(|(name, cell)| (name.clone(), value(cell)));
        let kept = kept(fields, &mut self.unkept);
        self.of_rows.push(Value::Object(kept).to_string().into_boxed_str());
    }

    pub(crate) fn of_document(&self) -> &Map<String, Value> {
        &self.of_document
    }

    /// Empty where there is no such row.
    pub(crate) fn of_row(&self, number: usize) -> Map<String, Value> {
        let json = self.of_rows.get(number);
        json.and_then(|json| serde_json::from_str(json).ok()).unwrap_or_default()
    }

    /// What the user should know of what is not kept.
    pub(crate) fn notes(&self) -> impl Iterator<Item = Untold> {
        let unread = self.unread.as_ref().map(|error| {
            ("front matter", format!("its front matter is not read, so no filter finds it: {error}"))
        });
        unread.into_iter().chain(self.unkept.notes())
    }
}
