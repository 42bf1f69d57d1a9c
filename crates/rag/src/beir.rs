//! A collection with judged queries in the layout of BEIR (Thakur et al. 2021, arXiv 2104.08663).

mod evaluate;
mod qrels;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use evalign_core::Digest;
use evalign_data::{Limits, read_jsonl};
use serde_json::{Map, Value, json};

pub(crate) use evaluate::reorder;
pub use evaluate::{BeirAnswer, BeirEvaluation, BeirMeasured, BeirReport, BeirSeconds, PerQuery};

use crate::RagError;
use crate::chunker::{ChunkSettings, Strategy};
use crate::metrics::Judgements;
use qrels::judgements;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BeirDocument {
    pub id: String,
    /// Empty where there is none.
    pub title: String,
    /// Title and text with a space between, or the text alone where there is no title.
    pub text: String,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BeirQuery {
    pub id: String,
    pub text: String,
}

/// `corpus.jsonl`, `queries.jsonl` and `qrels/SPLIT.tsv` of a directory.
#[derive(Clone, Debug)]
pub struct BeirCollection {
    /// In the order of the file: that is the order of ties.
    pub documents: Vec<BeirDocument>,
    /// Those with at least one relevant document, in the order of the file.
    pub queries: Vec<BeirQuery>,
    /// By query id.
    pub judgements: BTreeMap<String, Judgements>,
}

impl BeirCollection {
    /// Files may be packed (`corpus.jsonl.gz`, `.zst`). Ids may be numbers; two rows of one id are one where they
    /// say the same.
    ///
    /// # Errors
    /// [`RagError::Data`] and [`RagError::Row`] name file, line and field; [`RagError::File`] where nothing
    /// can be evaluated.
    pub fn open(directory: &Path, split: &str) -> Result<Self, RagError> {
        let corpus = packed(directory.join("corpus.jsonl"));
        let mut documents = Vec::new();
        let mut known = BTreeMap::new();
        for object in objects(&corpus)? {
            let title = object.optional_text("title")?;
            let text = object.text_or_null("text")?;
            let text = if title.is_empty() { text } else { format!("{title} {text}") };
            let id = object.id()?;
            if object.is_new(&mut known, &id, &text)? {
                documents.push(BeirDocument { id, title, text });
            }
        }
        let qrels = qrels::find(directory, split)?;
        let judgements = judgements(&qrels)?;
        let relevant =
            |id: &str| judgements.get(id).is_some_and(|judged| judged.values().any(|grade| *grade > 0));
        let asked = packed(directory.join("queries.jsonl"));
        let mut queries = Vec::new();
        let mut known = BTreeMap::new();
        for object in objects(&asked)? {
            let id = object.id()?;
            if relevant(&id) {
                let text = object.text_or_null("text")?;
                if object.is_new(&mut known, &id, &text)? {
                    queries.push(BeirQuery { id, text });
                }
            }
        }
        if documents.is_empty() || queries.is_empty() {
            let (path, what) = if documents.is_empty() {
                (corpus, "holds no document")
            } else {
                (qrels, "judges no document relevant for any query of queries.jsonl")
            };
            return Err(RagError::file(&path, what));
        }
        Ok(Self { documents, queries, judgements })
    }
}

/// The file, or, where it is not there, its packed form.
fn packed(path: PathBuf) -> PathBuf {
    let with = |ending: &str| {
        let mut name = path.as_os_str().to_owned();
        name.push(ending);
        PathBuf::from(name)
    };
    [".gz", ".zst"].into_iter().map(with).find(|other| !path.exists() && other.exists()).unwrap_or(path)
}

impl BeirCollection {
    /// How its documents are cut, which have no structure of their own. `prefix`: each chunk is searched together with
    /// the document's title.
    #[must_use]
    pub fn chunks(max_tokens: usize, overlap_tokens: usize, prefix: bool) -> ChunkSettings {
        ChunkSettings { strategy: Strategy::Recursive, max_tokens, overlap_tokens, prefix }
    }

    /// Each number of tokens with each overlap, without titles and, with `prefix`, with them too.
    #[must_use]
    pub fn cuts(max_tokens: &[usize], overlap_tokens: &[usize], prefix: bool) -> Vec<ChunkSettings> {
        let mut cuts = Vec::new();
        for tokens in max_tokens {
            for overlap in overlap_tokens {
                cuts.push(Self::chunks(*tokens, *overlap, false));
                cuts.extend(prefix.then(|| Self::chunks(*tokens, *overlap, true)));
            }
        }
        cuts
    }

    /// # Errors
    /// As [`ChunkSettings::check`]; [`RagError::Invalid`] where titles are asked for and there are none.
    pub fn check_cut(&self, chunking: ChunkSettings, embedder_tokens: usize) -> Result<(), RagError> {
        if chunking.prefix && self.documents.iter().all(|document| document.title.is_empty()) {
            return Err(RagError::invalid(
                "--prefix",
                "no document of this collection has a title to search its chunks with",
                "leave it out",
            ));
        }
        chunking.check(embedder_tokens)
    }

    /// The same documents, and so many of the queries: those with the least digests, which says nothing of what they ask,
    /// in their old order.
    #[must_use]
    pub fn with_queries(mut self, most: usize) -> Self {
        let digest = |query: &BeirQuery| Digest::of(&query.id);
        let mut digests: Vec<Digest> = self.queries.iter().map(digest).collect();
        digests.sort_unstable();
        if let Some(first_left_out) = digests.get(most) {
            self.queries.retain(|query| digest(query) < *first_left_out);
        }
        self
    }

    /// SHA-256 of the titles, which decide a metric only where chunks are searched with them.
    #[must_use]
    pub fn titles_digest(&self) -> Digest {
        let titles: Vec<&str> = self.documents.iter().map(|document| document.title.as_str()).collect();
        Digest::of_json(&json!(titles))
    }

    /// SHA-256 of everything else that decides a metric: texts, their order, judgements.
    #[must_use]
    pub fn digest(&self) -> Digest {
        let documents: Vec<_> =
            self.documents.iter().map(|document| (&document.id, &document.text)).collect();
        let queries: Vec<_> = self.queries.iter().map(|query| (&query.id, &query.text)).collect();
        Digest::of_json(&json!([documents, queries, self.judgements]))
    }
}

/// An object of a JSONL file and where it stands.
struct Object<'a> {
    path: &'a Path,
    line: u64,
    fields: Map<String, Value>,
}

impl Object<'_> {
    fn error(&self, field: &str, message: &str) -> RagError {
        RagError::Row {
            path: self.path.to_owned(),
            line: self.line,
            field: Some(field.to_owned()),
            message: message.to_owned(),
        }
    }

    fn text(&self, field: &str) -> Result<String, RagError> {
        match self.fields.get(field) {
            Some(Value::String(text)) => Ok(text.clone()),
            Some(_) => Err(self.error(field, "is not a string")),
            None => Err(self.error(field, "is missing")),
        }
    }

    /// A string, or an integer as it is written.
    fn id(&self) -> Result<String, RagError> {
        match self.fields.get("_id") {
            Some(Value::Number(number)) if !number.is_f64() => Ok(number.to_string()),
            _ => self.text("_id"),
        }
    }

    /// Whether this id was not there before.
    fn is_new(&self, known: &mut BTreeMap<String, Digest>, id: &str, text: &str) -> Result<bool, RagError> {
        let digest = Digest::of(text);
        match known.get(id) {
            None => {
                known.insert(id.to_owned(), digest);
                Ok(true)
            }
            Some(before) if *before == digest => Ok(false),
            Some(_) => Err(self.error("_id", &format!("{id:?} occurs twice, with different texts"))),
        }
    }

    /// Some collections write an empty text as `null`.
    fn text_or_null(&self, field: &str) -> Result<String, RagError> {
        match self.fields.get(field) {
            Some(Value::Null) => Ok(String::new()),
            _ => self.text(field),
        }
    }

    fn optional_text(&self, field: &str) -> Result<String, RagError> {
        match self.fields.get(field) {
            None | Some(Value::Null) => Ok(String::new()),
            Some(_) => self.text(field),
        }
    }
}

fn objects(path: &Path) -> Result<Vec<Object<'_>>, RagError> {
    let mut rows = read_jsonl(path, &Limits::default())?;
    let mut objects = Vec::new();
    while let Some(row) = rows.next() {
        objects.push(Object { path, fields: row?, line: rows.line() });
    }
    Ok(objects)
}

#[cfg(test)]
mod tests;
