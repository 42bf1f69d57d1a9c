//! Hits that say the same, shown once.

use evalign_core::Digest;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use uuid::Uuid;

use super::Hit;
use crate::{Chunk, DocumentId, RecordPlace};

/// Another place where the text of a hit stands, under the same headings: in a copy of its document, for example.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct HitCopy {
    pub id: Uuid,
    pub document: DocumentId,
    /// Digest of the document's bytes.
    pub revision: Digest,
    /// Of the text within the document's text, end exclusive.
    pub start_byte: u64,
    pub end_byte: u64,
    /// As [`Chunk::record`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub record: Option<RecordPlace>,
    /// Counts from 1; only for paged formats.
    pub page: Option<u32>,
}

impl HitCopy {
    /// `None` where no indexer wrote the hit.
    fn of(hit: &Hit) -> Option<Self> {
        let mut fields: Map<String, Value> = hit.payload.clone();
        fields.insert("id".to_owned(), Value::from(hit.id.to_string()));
        serde_json::from_value(Value::Object(fields)).ok()
    }

    /// The chunk of this place, given that of the hit.
    pub(crate) fn chunk(&self, of_hit: &Chunk) -> Chunk {
        Chunk {
            id: self.id,
            document: self.document.clone(),
            revision: self.revision.clone(),
            start_byte: self.start_byte,
            end_byte: self.end_byte,
            record: self.record,
            page: self.page,
            ..of_hit.clone()
        }
    }
}

/// Adds hits to a list. One that says what another says becomes a copy of that.
pub(super) fn fold(list: &mut Vec<Hit>, more: Vec<Hit>) {
    for hit in more {
        let first = list.iter_mut().find(|first| says_the_same(first, &hit));
        match (first, HitCopy::of(&hit)) {
            (Some(first), Some(copy)) => first.copies.push(copy),
            (Some(_) | None, _) => list.push(hit),
        }
    }
}

/// Under other headings the same words may say something else.
fn says_the_same(a: &Hit, b: &Hit) -> bool {
    let alike = |field: &str| a.payload.get(field) == b.payload.get(field);
    a.payload.contains_key("text") && alike("text") && alike("section")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn hit(number: u128, document: &str, section: &[&str], text: &str) -> Hit {
        let payload = json!({
            "document": document, "revision": Digest::of(document), "start_byte": 0, "end_byte": text.len(),
            "page": null, "section": section, "text": text, "prefix": null, "metadata": {},
        });
        let payload = payload.as_object().unwrap().clone();
        let (legs, terms, copies) = (Vec::new(), Vec::new(), Vec::new());
        Hit { id: Uuid::from_u128(number), rank: 0, score: 1.0, legs, terms, rerank: None, copies, payload }
    }

    #[test]
    fn the_first_of_equal_texts_names_the_others() {
        let mut hits = Vec::new();
        fold(&mut hits, vec![hit(1, "a.md", &["North"], "Closed."), hit(2, "b.md", &["North"], "Closed.")]);
        // The same words of another gate, and a point that nobody here has written.
        let foreign = Hit { payload: Map::new(), ..hit(5, "", &[], "") };
        let more =
            [hit(3, "a.md", &["South"], "Closed."), hit(4, "c.md", &["North"], "Closed."), foreign.clone()];
        fold(&mut hits, more.into_iter().chain([foreign]).collect());
        let ids = |ids: &mut dyn Iterator<Item = Uuid>| ids.map(|id| id.as_u128()).collect::<Vec<_>>();
        assert_eq!(ids(&mut hits.iter().map(|hit| hit.id)), [1, 3, 5, 5]);
        assert_eq!(ids(&mut hits[0].copies.iter().map(|copy| copy.id)), [2, 4]);
        assert_eq!(hits[0].copies[1].document.0, "c.md");
    }
}
