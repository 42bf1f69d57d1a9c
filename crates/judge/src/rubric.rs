//! What a judge judges by: criteria, the levels of each with an anchor, and what it is shown.

mod embedded;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use evalign_core::{Digest, ResponseField, ResponseFormat, ResponseValue};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::error::JudgeError;

/// The label of "this cannot be judged".
pub const ABSTAIN: &str = "N";
/// Name of the field in which a judge says why.
pub(crate) const EXPLANATION: &str = "explanation";
/// Name of the field with the verdict on two answers.
pub(crate) const VERDICT: &str = "verdict";
/// Where it is written down what a rubric holds.
const SCHEMA: &str = "rubrics/schema.json";
/// Longest explanation a rubric may ask for, in tokens.
const LONGEST_EXPLANATION: u32 = 2048;

/// A rubric by the name that finds it, or why it cannot be used.
pub type NamedRubric = (String, Result<Rubric, JudgeError>);

/// A rubric as its file says it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Rubric {
    /// Its name: lower-case letters, digits, `.`, `_` and `-`.
    #[serde(rename = "rubric")]
    pub name: String,
    /// Raised whenever a change can change a verdict.
    pub version: String,
    /// One sentence: what is judged.
    pub summary: String,
    /// Whether the judge is shown a right answer.
    #[serde(default)]
    pub reference: Shown,
    /// Whether the judge is shown the passages the answer was to be based on.
    #[serde(default)]
    pub context: Shown,
    /// Whether the judge may say that it cannot judge.
    #[serde(default)]
    pub abstain: bool,
    /// Longest explanation before the verdict, in tokens; 0 for none.
    pub explanation_tokens: u32,
    pub scale: Scale,
    pub criteria: Vec<Criterion>,
}

/// Whether something is part of the material.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Shown {
    /// Never, even where there is one.
    #[default]
    None,
    /// Where there is one.
    Optional,
    /// Without it nothing can be judged.
    Required,
}

/// The levels of every criterion, both ends included. One digit each, so that one position decides.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Scale {
    pub lowest: u8,
    pub highest: u8,
}

impl Scale {
    pub fn levels(self) -> std::ops::RangeInclusive<u8> {
        self.lowest..=self.highest
    }
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Criterion {
    /// Also the field of the verdict.
    pub name: String,
    /// Share of the score, relative to the other criteria.
    #[serde(default = "one")]
    pub weight: f64,
    /// What the judge asks itself.
    pub question: String,
    /// What an answer of each level is like: one anchor for every level of the scale.
    pub levels: BTreeMap<u8, String>,
}

fn one() -> f64 {
    1.0
}

impl Rubric {
    /// Reads a rubric; `name` is what errors call the text.
    ///
    /// # Errors
    /// [`JudgeError::Definition`], with the place, for what is no YAML, has an unknown field, or is not a
    /// rubric one can judge by: a level without anchor, a weight of nothing, a scale of one level.
    pub fn parse(name: &str, text: &str) -> Result<Self, JudgeError> {
        let rubric: Self = serde_saphyr::from_str(text).map_err(|error| {
            let plain = error.without_snippet();
            let at = plain.location().map_or_else(
                || name.to_owned(),
                |place| format!("{name}:{}:{}", place.line(), place.column()),
            );
            JudgeError::definition(SCHEMA, at, plain)
        })?;
        rubric.check().map_err(|(field, message)| {
            JudgeError::definition(SCHEMA, format!("{name}, field `{field}`"), message)
        })?;
        Ok(rubric)
    }

    /// Reads the rubric of a file.
    ///
    /// # Errors
    /// Also where the file cannot be read.
    pub fn read(path: &Path) -> Result<Self, JudgeError> {
        let text = fs_err::read_to_string(path)
            .map_err(|source| JudgeError::Read { path: path.to_owned(), source })?;
        Self::parse(&path.display().to_string(), &text)
    }

    /// The rubric a user means: a file, or a name among those in `rubrics/` of the include paths (the last
    /// one wins) and those that ship.
    ///
    /// # Errors
    /// [`JudgeError::Unknown`], or as [`Rubric::read`].
    pub fn find(wanted: &str, include_paths: &[PathBuf]) -> Result<Self, JudgeError> {
        if is_file_name(wanted) {
            return Self::read(Path::new(wanted));
        }
        for directory in include_paths.iter().rev() {
            let path = directory.join("rubrics").join(format!("{wanted}.yaml"));
            if is_id(wanted) && path.is_file() {
                return Self::read(&path);
            }
        }
        match embedded::RUBRICS.iter().find(|(name, _)| *name == wanted) {
            Some((name, text)) => Self::parse(&format!("rubrics/{name}.yaml"), text),
            None => Err(JudgeError::Unknown {
                what: "rubric",
                name: wanted.to_owned(),
                known: Self::shipped().map(str::to_owned).collect(),
            }),
        }
    }

    /// Every rubric that [`Rubric::find`] finds by its name, in the order of names: those of the include paths and those that
    /// ship. One that cannot be used hides no other.
    ///
    /// # Errors
    /// An include path cannot be read.
    pub fn all(include_paths: &[PathBuf]) -> Result<Vec<NamedRubric>, JudgeError> {
        let mut names: BTreeSet<String> = Self::shipped().map(str::to_owned).collect();
        for directory in include_paths.iter().map(|path| path.join("rubrics")).filter(|path| path.is_dir()) {
            let read = |source| JudgeError::Read { path: directory.clone(), source };
            for entry in fs_err::read_dir(&directory).map_err(read)? {
                let file = entry.map_err(read)?.file_name();
                let name = file.to_str().and_then(|file| file.strip_suffix(".yaml"));
                names.extend(name.filter(|name| is_id(name)).map(str::to_owned));
            }
        }
        Ok(names.into_iter().map(|name| (name.clone(), Self::find(&name, include_paths))).collect())
    }

    /// Names of the rubrics that ship.
    pub fn shipped() -> impl Iterator<Item = &'static str> {
        embedded::RUBRICS.iter().map(|(name, _)| *name)
    }

    fn check(&self) -> Result<(), (String, String)> {
        let fail = |field: &str, message: &str| Err((field.to_owned(), message.to_owned()));
        if !is_id(&self.name) {
            return fail(
                "rubric",
                "a name has only lower-case letters, digits, `.`, `_` and `-`, and at most 64",
            );
        }
        if self.scale.lowest >= self.scale.highest || self.scale.highest > 9 {
            return fail("scale", "`lowest` must be below `highest`, and both must be one digit");
        }
        if self.explanation_tokens > LONGEST_EXPLANATION {
            return fail("explanation_tokens", &format!("at most {LONGEST_EXPLANATION}"));
        }
        if self.criteria.is_empty() {
            return fail("criteria", "a rubric needs a criterion");
        }
        for (index, criterion) in self.criteria.iter().enumerate() {
            self.check_criterion(criterion)
                .map_err(|(field, message)| (format!("criteria[{index}].{field}"), message))?;
        }
        self.pointwise_format(None).check().map_err(|why| ("criteria".to_owned(), why))
    }

    fn check_criterion(&self, criterion: &Criterion) -> Result<(), (String, String)> {
        let name = &criterion.name;
        if !(criterion.weight.is_finite() && criterion.weight > 0.0) {
            let message = format!("the weight of `{name}` is {}, not more than 0", criterion.weight);
            return Err(("weight".to_owned(), message));
        }
        if name == EXPLANATION {
            return Err(("name".to_owned(), format!("`{EXPLANATION}` is the field of the explanation")));
        }
        let scale = self.scale;
        for level in scale.levels() {
            if criterion.levels.get(&level).is_none_or(|anchor| anchor.trim().is_empty()) {
                let message = format!(
                    "`{name}` does not say what level {level} of {}..={} is",
                    scale.lowest, scale.highest
                );
                return Err(("levels".to_owned(), message));
            }
        }
        match criterion.levels.keys().find(|level| !scale.levels().contains(level)) {
            Some(level) => {
                Err(("levels".to_owned(), format!("`{name}` has a level {level} outside of the scale")))
            }
            None => Ok(()),
        }
    }

    /// The form of a verdict on one answer: the explanation, then one level for each criterion.
    /// `explanation_tokens` replaces the rubric's own.
    #[must_use]
    pub fn pointwise_format(&self, explanation_tokens: Option<u32>) -> ResponseFormat {
        let labels = || {
            let levels = self.scale.levels().map(|level| level.to_string());
            levels.chain(self.abstain.then(|| ABSTAIN.to_owned())).collect()
        };
        let levels = self.criteria.iter().map(|criterion| ResponseField {
            name: criterion.name.clone(),
            value: ResponseValue::OneOf(labels()),
        });
        let fields = self.explanation_field(explanation_tokens).into_iter().chain(levels).collect();
        ResponseFormat { name: "judgment".to_owned(), fields }
    }

    /// The form of a verdict on two answers: the explanation, then `A`, `B`, or `C` for a tie.
    #[must_use]
    pub fn pairwise_format(&self, explanation_tokens: Option<u32>) -> ResponseFormat {
        let labels = ["A", "B", "C"].into_iter().chain(self.abstain.then_some(ABSTAIN));
        let verdict = ResponseField {
            name: VERDICT.to_owned(),
            value: ResponseValue::OneOf(labels.map(str::to_owned).collect()),
        };
        let fields = self.explanation_field(explanation_tokens).into_iter().chain([verdict]).collect();
        ResponseFormat { name: "comparison".to_owned(), fields }
    }

    fn explanation_field(&self, tokens: Option<u32>) -> Option<ResponseField> {
        let max_tokens = tokens.unwrap_or(self.explanation_tokens);
        (max_tokens > 0).then(|| ResponseField {
            name: EXPLANATION.to_owned(),
            value: ResponseValue::Text { max_tokens },
        })
    }

    /// SHA-256 of everything it says.
    #[must_use]
    pub fn digest(&self) -> Digest {
        Digest::of_json(&serde_json::json!(self))
    }

    /// The JSON Schema of rubric files.
    #[must_use]
    pub fn schema() -> serde_json::Value {
        serde_json::json!(schemars::schema_for!(Self))
    }
}

/// Names of rubrics and constitutions: nothing that leads out of a directory.
pub(crate) fn is_id(name: &str) -> bool {
    let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'.' | b'_' | b'-');
    let first = name.bytes().next();
    first.is_some_and(|b| b.is_ascii_lowercase() || b.is_ascii_digit())
        && name.len() <= 64
        && name.bytes().all(plain)
}

pub(crate) fn is_file_name(wanted: &str) -> bool {
    wanted.contains(['/', '\\']) || wanted.ends_with(".yaml") || wanted.ends_with(".yml")
}

#[cfg(test)]
mod tests;
