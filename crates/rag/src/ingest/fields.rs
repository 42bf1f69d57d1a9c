//! Which metadata a tenant's documents carry: what filters can ask for, and what the store indexes for them.

use std::collections::{BTreeMap, BTreeSet};

use evalign_store::{IndexedDocument, Store};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::Run;
use super::batch::Batch;
use super::weights::TenantStatistics;
use crate::metadata::{Fields, TYPED_PREFIX, ValueKind, name_of, path};
use crate::{CollectionSpec, Condition, FieldKind, Filter, RagError};

/// Names that a tenant's documents can have in an index, all together.
const MOST_NAMES: usize = 256;
/// Of these the store indexes the first; others are looked for in the payloads.
const MOST_INDEXED: usize = 32;
/// Fields of all tenants that a store indexes: they share the collection, and each index costs memory.
const MOST_INDEXED_TOGETHER: usize = 128;
/// How many names a message lists.
const SHOWN: usize = 20;

/// What a tenant's documents carry in an index.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct FieldStatistics {
    /// Documents of which metadata was looked for: those of earlier versions of this program are not among them.
    #[serde(default)]
    documents: u64,
    /// By name and kind of value, in how many documents.
    #[serde(default)]
    names: BTreeMap<String, BTreeMap<ValueKind, u64>>,
    /// What the store indexes.
    #[serde(default)]
    indexed: BTreeMap<String, FieldKind>,
}

impl FieldStatistics {
    pub(super) fn add(&mut self, fields: &Fields) {
        self.documents += 1;
        for (name, kinds) in fields {
            let counts = self.names.entry(name.clone()).or_default();
            kinds.iter().for_each(|kind| *counts.entry(*kind).or_default() += 1);
        }
    }

    pub(super) fn remove(&mut self, document: &IndexedDocument) {
        let Some(fields) = recorded(document) else { return };
        self.documents = self.documents.saturating_sub(1);
        for (name, kinds) in fields {
            let Some(counts) = self.names.get_mut(&name) else { continue };
            counts.retain(|kind, count| {
                *count -= u64::from(kinds.contains(kind)).min(*count);
                *count > 0
            });
            if counts.is_empty() {
                self.names.remove(&name);
            }
        }
    }

    /// What the tenant's documents have so far.
    pub(super) fn names(&self) -> BTreeSet<String> {
        self.names.keys().cloned().collect()
    }

    /// What no document carries any more takes no room among what is indexed.
    pub(super) fn forget_gone(&mut self) {
        self.indexed.retain(|name, _| self.names.contains_key(name));
    }

    /// What the batch carries and there is room to index.
    fn unindexed(&self, batch: &Batch) -> BTreeMap<String, FieldKind> {
        let mut new = BTreeMap::new();
        for (name, kinds) in batch.fields() {
            let room = self.indexed.len() + new.len() < MOST_INDEXED;
            if room && !self.indexed.contains_key(name) && !new.contains_key(name) {
                new.insert(name.clone(), indexed_as(kinds));
            }
        }
        new
    }

    /// `meta.author, meta.year`.
    fn listed(&self) -> String {
        let names =
            self.names.keys().take(SHOWN).map(|name| format!("{TYPED_PREFIX}{}", name.escape_debug()));
        let more = self.names.len().saturating_sub(SHOWN);
        let listed = names.collect::<Vec<_>>().join(", ");
        if more > 0 { format!("{listed} and {more} others") } else { listed }
    }
}

/// What a document was recorded to carry; `None` where nobody looked.
fn recorded(document: &IndexedDocument) -> Option<Fields> {
    serde_json::from_str(document.details.get("fields")?.as_str()?).ok()
}

/// As one text: every run reads the records of all documents.
pub(super) fn written(fields: &Fields) -> String {
    json!(fields).to_string()
}

/// Names that a run has room for beside those that are there, and what is left out.
pub(super) fn admitted(mut fields: Fields, known: &BTreeSet<String>) -> (Fields, Vec<String>) {
    let mut room = MOST_NAMES.saturating_sub(known.len());
    let mut left_out = Vec::new();
    fields.retain(|name, _| {
        let is_new = !known.contains(name);
        if is_new && room == 0 {
            left_out.push(name.clone());
            return false;
        }
        room -= usize::from(is_new);
        true
    });
    (fields, left_out)
}

/// Only these of what a chunk carries.
pub(super) fn only(carried: Map<String, Value>, fields: &Fields) -> Map<String, Value> {
    carried.into_iter().filter(|(name, _)| fields.contains_key(name)).collect()
}

impl Run<'_, '_> {
    /// Lets the store index what documents of the batch carry, before they are written; without one, what earlier runs
    /// found, which another store may not have indexed yet.
    pub(super) async fn index_fields(&mut self, batch: Option<&Batch>) -> Result<(), RagError> {
        let statistics = &mut self.statistics.fields;
        statistics.forget_gone();
        let mut new = match batch {
            None => std::mem::take(&mut statistics.indexed),
            Some(batch) => statistics.unindexed(batch),
        };
        if new.is_empty() {
            return Ok(());
        }
        let there = self.ingest.vectors.info(&self.request.index).await?.indexed_fields;
        let taken = there.iter().filter(|field| name_of(field).is_some()).count();
        let mut room = MOST_INDEXED_TOGETHER.saturating_sub(taken);
        new.retain(|name, _| {
            let is_there = there.contains(&path(name));
            let fits = is_there || room > 0;
            room -= usize::from(fits && !is_there);
            fits
        });
        let fields = new.iter().map(|(name, kind)| (path(name), *kind)).collect();
        let spec = CollectionSpec { indexed_fields: fields, ..self.request.settings.collection() };
        self.ingest.vectors.ensure(&self.request.index, &spec).await?;
        self.statistics.fields.indexed.extend(new);
        Ok(())
    }
}

/// A field has one index. What that does not serve is looked for in the payloads: a number among texts, for example.
fn indexed_as(kinds: &BTreeSet<ValueKind>) -> FieldKind {
    match kinds.first() {
        // Integers too: a range is a range, and equality is asked for as one.
        Some(ValueKind::Number) => FieldKind::Float,
        Some(ValueKind::Flag) => FieldKind::Bool,
        Some(ValueKind::Text) | None => FieldKind::Keyword,
    }
}

/// Holds a filter against what the tenant's documents carry: a name that nobody has would find nothing and say nothing.
/// Gives the filter to ask the store with, and what is told beside the hits, if there is something.
///
/// # Errors
/// [`RagError::Invalid`] with the fields that there are.
pub fn check_metadata(
    state: &Store,
    (index, tenant): (&str, &str),
    filter: &Filter,
) -> Result<(Filter, Option<String>), RagError> {
    let mut filter = filter.clone();
    if !filter.conditions().any(|condition| condition.key().and_then(name_of).is_some()) {
        return Ok((filter, None));
    }
    let statistics = TenantStatistics::recorded(state, (index, tenant))?.fields;
    for condition in filter.must.iter_mut().chain(&mut filter.must_not) {
        let Some(name) = condition.key().and_then(name_of) else { continue };
        let Some(kinds) = statistics.names.get(name) else { return Err(unknown(name, &statistics)) };
        if !fits(condition, kinds) {
            return Err(unlike(name, kinds));
        }
        narrow(condition, kinds);
    }
    let documents = state.index_size(index, tenant)?.documents;
    let untold = (statistics.documents < documents).then(|| {
        format!(
            "{} of {documents} documents were indexed before metadata was kept, so no filter finds them by it: index \
             them again",
            documents - statistics.documents
        )
    });
    Ok((filter, untold))
}

fn unknown(name: &str, statistics: &FieldStatistics) -> RagError {
    let what = format!("filter on `{TYPED_PREFIX}{}`", name.escape_debug());
    if statistics.names.is_empty() {
        return RagError::invalid(
            what,
            "no document of the index carries metadata",
            "columns of tables, fields of JSONL and YAML front matter of Markdown are kept; documents that were indexed \
             before that have to be indexed again: run `evalign rag index` on them",
        );
    }
    let message = format!("no document of the index carries it; there are {}", statistics.listed());
    RagError::invalid(
        what,
        message,
        "check how the name is written; documents that were indexed before metadata was kept have to be indexed again",
    )
}

/// Whether some value of these kinds could fit.
fn fits(condition: &Condition, kinds: &BTreeMap<ValueKind, u64>) -> bool {
    let of = |value: &Value| ValueKind::all_of(value).iter().any(|kind| kinds.contains_key(kind));
    match condition {
        Condition::Equals { value, .. } => of(value),
        Condition::AnyOf { values, .. } => values.iter().any(of),
        Condition::Range { .. } => kinds.contains_key(&ValueKind::Number),
        Condition::Exists { .. } | Condition::Ids(_) => true,
        Condition::Either(conditions) => conditions.iter().any(|condition| fits(condition, kinds)),
    }
}

/// Leaves out alternatives that no value fits: a field has one index, and what that does not serve is looked for in the
/// payloads of all.
fn narrow(condition: &mut Condition, kinds: &BTreeMap<ValueKind, u64>) {
    let Condition::Either(alternatives) = condition else { return };
    alternatives.retain(|alternative| fits(alternative, kinds));
    if alternatives.len() == 1 {
        *condition = alternatives.remove(0);
    }
}

fn unlike(name: &str, kinds: &BTreeMap<ValueKind, u64>) -> RagError {
    let field = format!("{TYPED_PREFIX}{}", name.escape_debug());
    let kind = |kind: &ValueKind| match kind {
        ValueKind::Text => "texts",
        ValueKind::Number => "numbers",
        ValueKind::Flag => "true or false",
    };
    let kinds_there = kinds.keys().map(kind).collect::<Vec<_>>().join(" and ");
    let example = match kinds.keys().next() {
        Some(ValueKind::Number) => format!("`{field}>=3` or `{field}=3`"),
        Some(ValueKind::Flag) => format!("`{field}=true`"),
        Some(ValueKind::Text) | None => format!("`{field}=\"Jane Doe\"`"),
    };
    RagError::invalid(
        format!("filter on `{field}`"),
        format!("its values are {kinds_there}, and none of these can fit"),
        format!("write for example {example}; `{field}=?` asks only whether it is there"),
    )
}
