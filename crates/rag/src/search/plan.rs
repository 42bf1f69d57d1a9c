use serde::{Deserialize, Serialize};

use super::{SearchMode, SearchOptions};
use crate::{Analyzer, Embedder, Leg, RagError, TextRole};

/// What a leg compares.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LegKind {
    Bm25,
    Dense,
}

/// A text whose vector is looked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DenseText {
    pub text: String,
    /// [`TextRole::Passage`] for a made-up answer (HyDE: Gao et al. 2023, arXiv 2212.10496).
    pub role: TextRole,
}

/// Everything that one question is looked for by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QueryPlan {
    pub words: Vec<String>,
    pub vectors: Vec<DenseText>,
}

impl QueryPlan {
    /// The question as it is.
    #[must_use]
    pub fn of(question: &str) -> Self {
        let vector = DenseText { text: question.to_owned(), role: TextRole::Query };
        Self { words: vec![question.to_owned()], vectors: vec![vector] }
    }

    /// Refuses what cannot be looked for: there every order of the hits would be as good as any other.
    ///
    /// # Errors
    /// [`RagError::Invalid`] for a plan without a letter or digit, and one for words alone that has only words of one
    /// character and such as stand everywhere.
    pub fn check(&self, mode: SearchMode) -> Result<(), RagError> {
        match self.lack(mode) {
            None => Ok(()),
            Some((message, hint)) => Err(RagError::invalid("the query", message, hint)),
        }
    }

    /// Why there is nothing to look for, and what helps.
    pub(crate) fn lack(&self, mode: SearchMode) -> Option<(&'static str, &'static str)> {
        let texts = self.words.iter().chain(self.vectors.iter().map(|vector| &vector.text));
        let is_empty = !texts.flat_map(|text| text.chars()).any(char::is_alphanumeric);
        let analyzer = Analyzer::english();
        let is_common = || self.words.iter().all(|text| analyzer.query(text).indices.is_empty());
        if is_empty {
            Some(("holds no word", "say what to look for"))
        } else if mode == SearchMode::Bm25 && is_common() {
            Some((
                "holds only words that are too common or too short to be looked for",
                "use others, or `--mode dense`",
            ))
        } else {
            None
        }
    }

    /// The legs in the order in which they are asked: their kind and which query of that kind.
    pub(super) fn legs(&self, mode: SearchMode) -> Vec<(LegKind, usize)> {
        let words = (0..self.words.len()).map(|query| (LegKind::Bm25, query));
        let vectors = (0..self.vectors.len()).map(|query| (LegKind::Dense, query));
        match mode {
            SearchMode::Bm25 => words.collect(),
            SearchMode::Dense => vectors.collect(),
            SearchMode::Hybrid => words.chain(vectors).collect(),
        }
    }

    /// What is looked for beside the question, under the numbers that [`super::LegShare::query`] has.
    pub(crate) fn added(&self, mode: SearchMode) -> Vec<String> {
        let text = |(leg, query): (LegKind, usize)| match leg {
            LegKind::Bm25 => format!("query {query} of bm25: {}", self.words[query]),
            LegKind::Dense => format!("query {query} of dense: {}", self.vectors[query].text),
        };
        self.legs(mode).into_iter().filter(|(_, query)| *query > 0).map(text).collect()
    }

    /// The legs of words as requests to a store, without their limits.
    pub(super) fn word_legs(&self, options: &SearchOptions, analyzer: &Analyzer) -> Vec<Leg> {
        if options.mode == SearchMode::Dense {
            return Vec::new();
        }
        self.words.iter().map(|text| Leg::Sparse { vector: analyzer.query(text), limit: 0 }).collect()
    }

    /// The same of vectors.
    pub(super) async fn vector_legs(
        &self,
        options: &SearchOptions,
        embedder: Option<&dyn Embedder>,
    ) -> Result<Vec<Leg>, RagError> {
        if options.mode == SearchMode::Bm25 {
            return Ok(Vec::new());
        }
        let embedder = embedder.ok_or_else(|| {
            RagError::invalid(
                "search mode",
                "needs vectors, and there is no embedder",
                "use `--mode bm25`, or name one with `--embedder`",
            )
        })?;
        let vectors = self.embedded(embedder).await?.into_iter();
        Ok(vectors.map(|vector| Leg::Dense { vector, limit: 0, exact: options.exact }).collect())
    }

    /// In the order of `vectors`; texts of one role are embedded together.
    async fn embedded(&self, embedder: &dyn Embedder) -> Result<Vec<Vec<f32>>, RagError> {
        let mut vectors = vec![Vec::new(); self.vectors.len()];
        for role in [TextRole::Query, TextRole::Passage] {
            let of_role = || self.vectors.iter().enumerate().filter(|(_, text)| text.role == role);
            let texts: Vec<String> = of_role().map(|(_, text)| text.text.clone()).collect();
            if texts.is_empty() {
                continue;
            }
            let embedded = embedder.embed(&texts, role).await?;
            for ((position, _), vector) in of_role().zip(embedded) {
                vectors[position] = vector;
            }
        }
        Ok(vectors)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_added_has_the_numbers_of_the_legs() {
        let mut plan = QueryPlan::of("the question");
        assert!(plan.added(SearchMode::Hybrid).is_empty());
        plan.words.push("other words".to_owned());
        plan.vectors.push(DenseText { text: "an answer".to_owned(), role: TextRole::Passage });
        let added = ["query 1 of bm25: other words", "query 1 of dense: an answer"];
        assert_eq!(plan.added(SearchMode::Hybrid), added);
        assert_eq!(plan.added(SearchMode::Dense), added[1..]);
        let numbered = plan.legs(SearchMode::Hybrid).into_iter().filter(|(_, query)| *query == 1).count();
        assert_eq!(numbered, added.len());
    }
}
