//! What tokens cost.

use std::collections::BTreeMap;
use std::path::Path;

use evalign_core::Usage;
use serde::Deserialize;

use crate::error::ModelError;

const TOKENS_PER_PRICE: f64 = 1e6;

/// What a model's tokens cost, in USD per million.
#[derive(Clone, Copy, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Price {
    pub input: f64,
    /// Prompt tokens that the server had in its cache. Absent: as `input`.
    #[serde(default)]
    pub cached_input: Option<f64>,
    /// Generated tokens, reasoning included.
    pub output: f64,
}

impl Price {
    /// Of what is computed in this process.
    pub const FREE: Self = Self { input: 0.0, cached_input: None, output: 0.0 };

    #[must_use]
    pub fn usd(&self, usage: &Usage) -> f64 {
        let cached = usage.cached_prompt_tokens.min(usage.prompt_tokens);
        let fresh = usage.prompt_tokens - cached;
        let cached_input = self.cached_input.unwrap_or(self.input);
        (fresh as f64 * self.input
            + cached as f64 * cached_input
            + usage.generated_tokens as f64 * self.output)
            / TOKENS_PER_PRICE
    }
}

/// The prices of models, from a YAML or JSON file:
///
/// ```yaml
/// # USD per million tokens
/// models:
///   gpt-4o-mini: {input: 0.15, cached_input: 0.075, output: 0.60}
/// ```
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PriceTable {
    models: BTreeMap<String, Price>,
}

impl PriceTable {
    /// Reads a table.
    ///
    /// # Errors
    /// [`ModelError::Settings`] where the file cannot be read, is not a table, or a price is negative.
    pub fn read(path: &Path) -> Result<Self, ModelError> {
        let wrong = |detail: String| ModelError::Settings { path: path.to_owned(), detail };
        let text = fs_err::read_to_string(path).map_err(|error| wrong(error.to_string()))?;
        let table: Self = serde_saphyr::from_str(&text).map_err(|error| wrong(error.to_string()))?;
        for (model, price) in &table.models {
            let fields = [
                ("input", Some(price.input)),
                ("cached_input", price.cached_input),
                ("output", Some(price.output)),
            ];
            for (field, value) in fields {
                if let Some(value) = value.filter(|value| !(value.is_finite() && *value >= 0.0)) {
                    return Err(wrong(format!("models.{model}.{field}: {value} is not a price")));
                }
            }
        }
        Ok(table)
    }

    /// The price of a model by the name its server knows it by.
    #[must_use]
    pub fn of(&self, model: &str) -> Option<Price> {
        self.models.get(model).copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<PriceTable, ModelError> {
        let file = tempfile::NamedTempFile::new().unwrap();
        fs_err::write(file.path(), text).unwrap();
        PriceTable::read(file.path())
    }

    #[test]
    fn tokens_are_paid_by_kind() {
        let table =
            read("models:\n  a/b: {input: 2, cached_input: 0.5, output: 10}\n  c: {input: 1, output: 1}");
        let table = table.unwrap();
        let usage = Usage {
            prompt_tokens: 1000,
            cached_prompt_tokens: 400,
            generated_tokens: 100,
            reasoning_tokens: 90,
            ..Usage::default()
        };
        // 600 x 2 + 400 x 0.5 + 100 x 10 millionths; reasoning is part of what is generated.
        assert!((table.of("a/b").unwrap().usd(&usage) - 0.0024).abs() < 1e-15);
        assert!((table.of("c").unwrap().usd(&usage) - 0.0011).abs() < 1e-15);
        assert_eq!(table.of("b"), None);
    }

    #[test]
    fn json_is_read_too_and_mistakes_are_named() {
        assert!(read(r#"{"models": {"m": {"input": 1, "output": 2}}}"#).is_ok());
        for (text, part) in [
            ("models:\n  m: {input: -1, output: 2}", "models.m.input"),
            ("models:\n  m: {input: .nan, output: 2}", "models.m.input"),
            ("models:\n  m: {inputs: 1, output: 2}", "inputs"),
            ("models:\n  m: {input: 1}", "output"),
            ("prices: {}", "prices"),
        ] {
            let error = read(text).unwrap_err().to_string();
            assert!(error.contains(part), "{text}: {error}");
        }
    }
}
