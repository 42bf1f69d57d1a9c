use std::sync::Arc;

use evalign_core::{Message, Prompt, Role};
use evalign_model::Model;
use minijinja::{Environment, context};
use serde::{Deserialize, Serialize};

use super::{DenseText, QueryPlan};
use crate::answer::{ask, defused};
use crate::{RagError, TextRole};

const PARAPHRASE: &str = include_str!("../../../../prompts/rag/paraphrase.j2");
const DECOMPOSE: &str = include_str!("../../../../prompts/rag/decompose.j2");
const HYPOTHETICAL: &str = include_str!("../../../../prompts/rag/hypothetical.j2");

/// Tokens that a model may write for an expansion.
const MAX_TOKENS: u32 = 200;
/// A line longer than this is no query.
const MAX_QUERY_BYTES: usize = 500;

/// Another way to look for the answer to a question, which a model thinks up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Expansion {
    /// The question in this many other words (Rackauckas 2024, arXiv 2402.03367).
    MultiQuery(usize),
    /// At most this many simple questions that the question is made of (Press et al. 2023, arXiv 2210.03350).
    Decompose(usize),
    /// A made-up answer, whose vector lies nearer to those of real answers (HyDE: Gao et al. 2023, arXiv
    /// 2212.10496).
    Hyde,
}

impl Expansion {
    /// Queries that are added where nothing else is said.
    pub const QUERIES: usize = 3;
}

impl QueryPlan {
    /// The question, and what the model makes of it; and a note for each expansion that came to nothing. The
    /// question itself is always looked for, so a model that writes nonsense can add hits but hide none.
    ///
    /// # Errors
    /// What the model reports.
    pub async fn expanded(
        question: &str,
        expansions: &[Expansion],
        model: &Arc<dyn Model>,
    ) -> Result<(Self, Vec<String>), RagError> {
        let mut plan = Self::of(question);
        let mut notes = Vec::new();
        for expansion in expansions {
            let written = ask(model, prompt(question, *expansion, model)?, MAX_TOKENS).await?;
            if !plan.take(*expansion, &written) {
                notes.push(format!("the model wrote nothing usable for {expansion:?}"));
            }
        }
        Ok((plan, notes))
    }

    /// Whether anything in what was written is new.
    fn take(&mut self, expansion: Expansion, written: &str) -> bool {
        let before = (self.words.len(), self.vectors.len());
        match expansion {
            Expansion::MultiQuery(count) | Expansion::Decompose(count) => {
                for query in queries(written).take(count) {
                    if !self.words.contains(&query) {
                        self.words.push(query.clone());
                        self.vectors.push(DenseText { text: query, role: TextRole::Query });
                    }
                }
            }
            Expansion::Hyde => {
                let text = written.trim().to_owned();
                if !text.is_empty() {
                    self.vectors.push(DenseText { text, role: TextRole::Passage });
                }
            }
        }
        before != (self.words.len(), self.vectors.len())
    }
}

/// One per line, without the numbers and dashes that models put before them.
fn queries(written: &str) -> impl Iterator<Item = String> + '_ {
    written
        .lines()
        .map(|line| {
            let line = line.trim().trim_start_matches(['-', '*', '•']).trim_start();
            let rest = line.trim_start_matches(|char: char| char.is_ascii_digit());
            let numbered = rest.len() < line.len() && rest.starts_with(['.', ')', ':']);
            let line = if numbered { rest[1..].trim() } else { line };
            line.trim_matches('"').to_owned()
        })
        .filter(|line| !line.is_empty() && line.len() <= MAX_QUERY_BYTES)
}

fn prompt(question: &str, expansion: Expansion, model: &Arc<dyn Model>) -> Result<Prompt, RagError> {
    let (template, count) = match expansion {
        Expansion::MultiQuery(count) => (PARAPHRASE, count),
        Expansion::Decompose(count) => (DECOMPOSE, count),
        Expansion::Hyde => (HYPOTHETICAL, 0),
    };
    let question = defused(question, &model.special_tokens());
    let content = Environment::new().render_str(template, context! { question, count }).map_err(|error| {
        RagError::invalid("the template of an expansion", error.to_string(), "report it as a bug")
    })?;
    Ok(Prompt::Chat(vec![Message { role: Role::User, content }]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_become_queries_without_their_marks() {
        let written = "1. What is lift?\n2) \"How do wings work?\"\n\n- 747 wings\n* 3D flow\nWhat is lift?";
        let found: Vec<String> = queries(written).collect();
        assert_eq!(found, ["What is lift?", "How do wings work?", "747 wings", "3D flow", "What is lift?"]);
        assert_eq!(queries(&"x".repeat(600)).count(), 0);
    }

    #[test]
    fn the_question_stays_and_copies_of_it_add_nothing() {
        let mut plan = QueryPlan::of("What is lift?");
        assert!(!plan.take(Expansion::MultiQuery(3), "What is lift?\n\n"));
        assert!(!plan.take(Expansion::Hyde, "  "));
        assert_eq!(plan, QueryPlan::of("What is lift?"));
        assert!(plan.take(Expansion::Decompose(2), "a b\nc d\ne f"));
        assert!(plan.take(Expansion::Hyde, "Lift is a force."));
        assert_eq!(plan.words, ["What is lift?", "a b", "c d"]);
        assert_eq!(plan.vectors.len(), 4);
        assert_eq!(plan.vectors[3].role, TextRole::Passage);
    }
}
