//! What a model wants before a text.

use std::collections::BTreeMap;
use std::path::Path;

use serde::Deserialize;

use crate::RagError;

/// Of a question, and of a passage.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Prefixes {
    pub(super) query: String,
    pub(super) passage: String,
}

/// sentence-transformers' own file, which some models have; the cards of the others say it in prose.
const FILE: &str = "config_sentence_transformers.json";

#[derive(Deserialize)]
struct SentenceTransformers {
    #[serde(default)]
    prompts: BTreeMap<String, String>,
}

#[derive(Deserialize)]
struct Config {
    /// What the weights were when they were saved.
    #[serde(default, rename = "_name_or_path")]
    name_or_path: String,
}

impl Prefixes {
    /// Of a model in a directory: what it says of itself, else what is known of models of the name that the user, or
    /// whoever saved it, gave it.
    ///
    /// # Errors
    /// [`RagError::File`] for a configuration that cannot be read.
    pub(super) fn of_directory(name: &str, directory: &Path) -> Result<Self, RagError> {
        let said: Option<SentenceTransformers> = read(&directory.join(FILE))?;
        let prompts = said.map(|said| said.prompts).unwrap_or_default();
        // Newer versions write empty ones for models that say nothing.
        let said = |name: &&str| prompts.get(*name).filter(|prompt| !prompt.is_empty());
        let prompt = |names: &[&str]| names.iter().find_map(said).cloned();
        let (query, passage) = (prompt(&["query"]), prompt(&["document", "passage", "corpus"]));
        if query.is_some() || passage.is_some() {
            return Ok(Self { query: query.unwrap_or_default(), passage: passage.unwrap_or_default() });
        }
        let known = Self::of_name(name);
        if known != Self::default() {
            return Ok(known);
        }
        let saved: Option<Config> = read(&directory.join("config.json"))?;
        Ok(saved.map(|saved| Self::of_name(&saved.name_or_path)).unwrap_or_default())
    }

    /// By the last part of a name, as the cards of these models say it.
    pub(super) fn of_name(name: &str) -> Self {
        let last = name.trim_end_matches('/').rsplit('/').next().unwrap_or_default().to_ascii_lowercase();
        let has = |part: &str| last.split(['-', '_', '.']).any(|word| word == part);
        let prefixes =
            |query: &str, passage: &str| Self { query: query.to_owned(), passage: passage.to_owned() };
        if has("bge") && has("en") {
            prefixes("Represent this sentence for searching relevant passages: ", "")
        } else if has("e5") && !has("instruct") {
            prefixes("query: ", "passage: ")
        } else if has("nomic") && has("embed") {
            prefixes("search_query: ", "search_document: ")
        } else {
            Self::default()
        }
    }
}

/// `None` where there is no such file.
fn read<T: serde::de::DeserializeOwned>(path: &Path) -> Result<Option<T>, RagError> {
    if !path.is_file() {
        return Ok(None);
    }
    let bytes = fs_err::read(path).map_err(|error| RagError::file(path, error))?;
    serde_json::from_slice(&bytes).map(Some).map_err(|error| RagError::file(path, error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_counts_by_its_last_part() {
        let e5 = Prefixes { query: "query: ".to_owned(), passage: "passage: ".to_owned() };
        for name in ["intfloat/multilingual-e5-small", "e5-base-v2", "./models/E5-large/"] {
            assert_eq!(Prefixes::of_name(name), e5, "{name}");
        }
        for name in ["/home/e5-team/minilm", "bge-m3", "llame5-x", "multilingual-e5-large-instruct", ""] {
            assert_eq!(Prefixes::of_name(name), Prefixes::default(), "{name}");
        }
        assert!(Prefixes::of_name("Xenova/bge-small-en-v1.5").query.starts_with("Represent"));
        assert_eq!(Prefixes::of_name("nomic-embed-text").passage, "search_document: ");
    }

    #[test]
    fn a_model_says_it_itself_or_is_known_by_the_name_it_was_saved_under() {
        let directory = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| fs_err::write(directory.path().join(name), text).unwrap();
        let of = |name: &str| Prefixes::of_directory(name, directory.path());
        assert_eq!(of("encoder").unwrap(), Prefixes::default());
        write("config.json", r#"{"model_type": "bert", "_name_or_path": "BAAI/bge-small-en-v1.5"}"#);
        write(FILE, r#"{"prompts": {}, "default_prompt_name": null}"#);
        assert!(of("encoder").unwrap().query.starts_with("Represent"));
        write(FILE, r#"{"prompts": {"query": "q: ", "document": "d: "}}"#);
        let said = Prefixes { query: "q: ".to_owned(), passage: "d: ".to_owned() };
        assert_eq!(of("e5-base").unwrap(), said);
        write(FILE, r#"{"prompts": {"query": "", "document": ""}}"#);
        assert_eq!(of("e5-base").unwrap().query, "query: ");
        write(FILE, "{broken");
        assert!(of("e5-base").unwrap_err().to_string().contains(FILE));
    }
}
