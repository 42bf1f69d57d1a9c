//! Constitutions: lists of principles, each with the request for a critique and the request for a revision
//! (Bai et al. 2022, arXiv 2212.08073, section 3.1).

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use evalign_core::Digest;
use evalign_stats::SplitMix64;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::error::JudgeError;
use crate::rubric::{Criterion, Rubric, Scale, Shown, is_file_name, is_id};

/// Where it is written down what a constitution holds.
const SCHEMA: &str = "rubrics/constitutions/schema.json";
/// Name and text of those that ship inside the binary. A test compares the list with the directory.
const SHIPPED: &[(&str, &str)] =
    &[("everyday", include_str!("../../../rubrics/constitutions/everyday.yaml"))];

/// A constitution as its file says it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Constitution {
    /// Its name: lower-case letters, digits, `.`, `_` and `-`.
    #[serde(rename = "constitution")]
    pub name: String,
    /// Raised whenever a change can change a critique.
    pub version: String,
    pub summary: String,
    /// Where its principles come from.
    pub source: String,
    pub principles: Vec<Principle>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Principle {
    pub id: String,
    /// What a good answer does, as behaviour that can be seen in the text.
    pub principle: String,
    /// Asks what about an answer is not so.
    pub critique: String,
    /// Asks for an answer that is so.
    pub revision: String,
}

impl Constitution {
    /// Reads a constitution; `name` is what errors call the text.
    ///
    /// # Errors
    /// [`JudgeError::Definition`], with the place, for what is no YAML, has a missing or unknown field, no
    /// principles, or two of the same id.
    pub fn parse(name: &str, text: &str) -> Result<Self, JudgeError> {
        let constitution: Self = serde_saphyr::from_str(text).map_err(|error| {
            let plain = error.without_snippet();
            let place = plain.location().map(|place| format!(":{}:{}", place.line(), place.column()));
            JudgeError::definition(SCHEMA, format!("{name}{}", place.unwrap_or_default()), plain)
        })?;
        constitution.check().map_err(|(field, message)| {
            JudgeError::definition(SCHEMA, format!("{name}, field `{field}`"), message)
        })?;
        Ok(constitution)
    }

    /// The constitution a user means: a file, or a name among those in `rubrics/constitutions/` of the include
    /// paths (the last one wins) and those that ship.
    ///
    /// # Errors
    /// [`JudgeError::Unknown`], a file that cannot be read, or as [`Constitution::parse`].
    pub fn find(wanted: &str, include_paths: &[PathBuf]) -> Result<Self, JudgeError> {
        if is_file_name(wanted) {
            return Self::read(Path::new(wanted));
        }
        for directory in include_paths.iter().rev() {
            let path = directory.join("rubrics").join("constitutions").join(format!("{wanted}.yaml"));
            if is_id(wanted) && path.is_file() {
                return Self::read(&path);
            }
        }
        match SHIPPED.iter().find(|(name, _)| *name == wanted) {
            Some((name, text)) => Self::parse(&format!("rubrics/constitutions/{name}.yaml"), text),
            None => Err(JudgeError::Unknown {
                what: "constitution",
                name: wanted.to_owned(),
                known: SHIPPED.iter().map(|(name, _)| (*name).to_owned()).collect(),
            }),
        }
    }

    fn read(path: &Path) -> Result<Self, JudgeError> {
        let text = fs_err::read_to_string(path)
            .map_err(|source| JudgeError::Read { path: path.to_owned(), source })?;
        Self::parse(&path.display().to_string(), &text)
    }

    fn check(&self) -> Result<(), (String, String)> {
        let mut seen = BTreeSet::new();
        if self.principles.is_empty() {
            return Err(("principles".to_owned(), "there are none".to_owned()));
        }
        for (index, principle) in self.principles.iter().enumerate() {
            let texts = [
                ("id", &principle.id),
                ("principle", &principle.principle),
                ("critique", &principle.critique),
                ("revision", &principle.revision),
            ];
            if let Some((field, _)) = texts.iter().find(|(_, text)| text.trim().is_empty()) {
                return Err((format!("principles[{index}].{field}"), "is empty".to_owned()));
            }
            if !seen.insert(&principle.id) {
                let message = format!("another principle is called `{}` too", principle.id);
                return Err((format!("principles[{index}].id"), message));
            }
        }
        Ok(())
    }

    /// The JSON Schema of constitution files.
    #[must_use]
    pub fn schema() -> serde_json::Value {
        serde_json::json!(schemars::schema_for!(Self))
    }

    /// SHA-256 of what it says; comments and layout do not count.
    #[must_use]
    pub fn digest(&self) -> Digest {
        Digest::of_json(&serde_json::to_value(self).unwrap_or_default())
    }

    /// The principle of a prompt's round: drawn at random, none twice before all were drawn.
    #[must_use]
    pub fn drawn(&self, seed: u64, prompt: u64, round: u32) -> Option<&Principle> {
        let count = self.principles.len();
        let turn = round as usize / count.max(1);
        // Prompts have streams of their own: neither order nor concurrency changes what is drawn.
        let stream = format!("constitution {} {seed} {prompt} {turn}", self.name);
        let mut random = SplitMix64::new(first_bits(&Digest::of(stream)));
        let mut order: Vec<usize> = (0..count).collect();
        for last in (1..count).rev() {
            order.swap(last, random.below(last as u64 + 1) as usize);
        }
        self.principles.get(*order.get(round as usize % count.max(1))?)
    }
}

fn first_bits(digest: &Digest) -> u64 {
    digest.as_str().get(..16).and_then(|hex| u64::from_str_radix(hex, 16).ok()).unwrap_or(0)
}

impl Principle {
    /// The principle as the only thing answers are judged by: its verdicts are labels of reinforcement learning
    /// from AI feedback (section 4.1 of the paper), soft where the judge gives probabilities.
    #[must_use]
    pub fn rubric(&self) -> Rubric {
        Rubric {
            name: format!("principle.{}", self.id),
            version: "1".to_owned(),
            summary: "Only this principle counts.".to_owned(),
            reference: Shown::None,
            context: Shown::None,
            abstain: false,
            explanation_tokens: 0,
            scale: Scale { lowest: 1, highest: 3 },
            criteria: vec![Criterion {
                name: self.id.clone(),
                weight: 1.0,
                question: self.principle.clone(),
                levels: [
                    (1, "The answer does not do this.".to_owned()),
                    (2, "The answer does this in part.".to_owned()),
                    (3, "The answer does this throughout.".to_owned()),
                ]
                .into(),
            }],
        }
    }
}

#[cfg(test)]
mod tests {
    use evalign_core::Hint;

    use super::*;

    #[test]
    fn those_that_ship_are_read_and_embedded() {
        let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../rubrics/constitutions");
        let mut found: Vec<String> = fs_err::read_dir(directory)
            .unwrap()
            .filter_map(|entry| entry.unwrap().file_name().to_str()?.strip_suffix(".yaml").map(str::to_owned))
            .collect();
        found.sort();
        assert_eq!(found, SHIPPED.iter().map(|(name, _)| *name).collect::<Vec<_>>());
        let everyday = Constitution::find("everyday", &[]).unwrap();
        assert_eq!(everyday.principles.len(), 16);
        for principle in &everyday.principles {
            // Said as what an answer does, not as what it must not do.
            assert!(!principle.principle.to_lowercase().contains(" not "), "{}", principle.id);
            assert!(!principle.rubric().criteria.is_empty());
        }
    }

    #[test]
    fn the_shipped_schema_is_the_one_of_the_type_and_the_hint_names_it() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").join(SCHEMA);
        let ours = serde_json::to_string_pretty(&Constitution::schema()).unwrap() + "\n";
        if std::env::var_os("EVALIGN_WRITE_SCHEMA").is_some() {
            fs_err::write(&path, &ours).unwrap();
        }
        assert_eq!(fs_err::read_to_string(&path).unwrap(), ours, "write it anew with EVALIGN_WRITE_SCHEMA=1");
        let hint = Constitution::parse("c.yaml", "constitution: c").unwrap_err().hint().unwrap();
        assert!(hint.contains(SCHEMA), "{hint}");
        let hint = Rubric::parse("r.yaml", "rubric: r").unwrap_err().hint().unwrap();
        assert!(hint.contains("rubrics/schema.json"), "{hint}");
    }

    /// A name leads out of no directory; a file may have either ending.
    #[test]
    fn names_are_names_and_files_are_files() {
        let dir = tempfile::tempdir().unwrap();
        fs_err::create_dir_all(dir.path().join("rubrics/constitutions")).unwrap();
        let text = "constitution: own\nversion: '1'\nsummary: s\nsource: x\n\
                    principles:\n  - {id: a, principle: p, critique: c, revision: r}\n";
        for place in ["rubrics/constitutions/own.yaml", "rubrics/Own.yaml", "own.yml"] {
            fs_err::write(dir.path().join(place), text).unwrap();
        }
        let include = [dir.path().to_owned()];
        assert_eq!(Constitution::find("own", &include).unwrap().name, "own");
        let file = dir.path().join("own.yml").display().to_string();
        assert_eq!(Constitution::find(&file, &[]).unwrap().name, "own");
        assert!(matches!(Constitution::find("Own", &include), Err(JudgeError::Unknown { .. })));
    }

    #[test]
    fn what_is_wrong_is_said_with_its_place() {
        let file = |principles: &str| {
            format!("constitution: c\nversion: '1'\nsummary: s\nsource: x\nprinciples:\n{principles}")
        };
        for (principles, place, said) in [
            ("  - {id: a, principle: p, critique: c}\n", "c.yaml:6", "revision"),
            ("  - {id: a, principle: p, critique: c, revision: ' '}\n", "principles[0].revision", "empty"),
            ("  - {id: a, principle: p, critique: c, revision: r, tone: x}\n", "c.yaml:6", "tone"),
            (
                "  - {id: a, principle: p, critique: c, revision: r}\n  - {id: a, principle: p, critique: c, revision: r}\n",
                "principles[1].id",
                "`a` too",
            ),
            ("  []\n", "principles", "none"),
        ] {
            let error = Constitution::parse("c.yaml", &file(principles)).unwrap_err().to_string();
            assert!(error.contains(place) && error.contains(said), "{error}");
        }
        assert!(matches!(Constitution::find("nothing", &[]), Err(JudgeError::Unknown { .. })));
        assert!(matches!(Constitution::find("no/such.yaml", &[]), Err(JudgeError::Read { .. })));
    }

    #[test]
    fn rounds_draw_fresh_principles_and_prompts_draw_their_own() {
        let everyday = Constitution::find("everyday", &[]).unwrap();
        let ids = |seed, prompt| -> Vec<&str> {
            (0..32).map(|round| everyday.drawn(seed, prompt, round).unwrap().id.as_str()).collect()
        };
        let first = ids(1, 0);
        assert_eq!(first[..16].iter().collect::<BTreeSet<_>>().len(), 16);
        assert_eq!(first[16..].iter().collect::<BTreeSet<_>>().len(), 16);
        assert_eq!(first, ids(1, 0));
        assert_ne!(first, ids(1, 1));
        assert_ne!(first, ids(2, 0));
        // No principle is preferred: 16 expected among 256 prompts.
        let mut counts = std::collections::BTreeMap::new();
        for prompt in 0..256 {
            *counts.entry(&everyday.drawn(9, prompt, 0).unwrap().id).or_insert(0) += 1;
        }
        assert!(counts.len() == 16 && counts.values().all(|count| (3..=36).contains(count)), "{counts:?}");
    }
}
