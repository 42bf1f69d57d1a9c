//! Answers that quote.
//!
//! ```text
//! question -> hits -> statements, weighed -> enough? -no-> abstained
//!     without a model: the best statements, as they stand
//!     with one:        packed chunks -> model -> claims -> each held against the statements, told as soon as it is
//!                      complete and stands in them
//! every quote verified against the document's text, or not shown
//! ```
//!
//! Documents are data. A statement that gives orders to its reader is reported and never quoted as an answer.

mod aloud;
mod generated;
mod holds;
mod places;

use generated::Writing;
pub(crate) use generated::{ask, ask_in_form, defused};
use places::Places;

use std::sync::Arc;

use evalign_model::Model;
use evalign_store::Store;
use serde::Serialize;

use crate::abstain::DEFAULT_THRESHOLD;
use crate::citation::{Citation, Sources};
use crate::evidence::{Evidence, weigh};
use crate::ingest::{check_metadata, check_presence, shown};
use crate::injection::gives_orders;
use crate::{
    Chunk, Embedder, Expansion, Filter, Hit, QueryPlan, RagError, Reranker, Scope, SearchOptions, Searcher,
    VectorStore, rerank,
};

/// Statements that a quoting answer gives at most.
const MOST_STATEMENTS: usize = 3;
/// A further statement is given where its score is at least this share of the best one's.
const NEXT_STATEMENT_SHARE: f64 = 0.88;

/// How to answer.
#[derive(Clone, Debug)]
pub struct AnswerOptions {
    pub search: SearchOptions,
    pub filter: Filter,
    /// Other ways to look for the answer, which the answerer's model thinks up.
    pub expansions: Vec<Expansion>,
    /// Below this score of the best statement nothing is answered.
    pub threshold: f64,
    /// Tokens of sources that a model is shown, counted by the embedder.
    pub context_tokens: usize,
    pub max_answer_tokens: u32,
}

impl Default for AnswerOptions {
    fn default() -> Self {
        Self {
            search: SearchOptions::recommended(),
            filter: Filter::default(),
            expansions: Vec::new(),
            threshold: DEFAULT_THRESHOLD,
            context_tokens: 1024,
            max_answer_tokens: 128,
        }
    }
}

/// One statement of an answer.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Claim {
    pub text: String,
    /// Whether what it says stands in what it cites.
    pub supported: bool,
    pub citations: Vec<Citation>,
}

/// Something in a source that the reader should know of.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Warning {
    pub message: String,
    pub citation: Citation,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Answer {
    pub question: String,
    /// Absent where nothing is answered.
    pub text: Option<String>,
    /// Why nothing is answered.
    pub abstained: Option<String>,
    pub claims: Vec<Claim>,
    /// Score of the best statement.
    pub confidence: f64,
    pub threshold: f64,
    pub warnings: Vec<Warning>,
    /// What did not come out as it was asked for.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub notes: Vec<String>,
    pub hits: Vec<Hit>,
}

impl Answer {
    /// Nothing is known yet.
    fn open(question: &str, threshold: f64, notes: Vec<String>) -> Self {
        Self {
            question: question.to_owned(),
            text: None,
            abstained: None,
            claims: Vec::new(),
            confidence: 0.0,
            threshold,
            warnings: Vec::new(),
            notes,
            hits: Vec::new(),
        }
    }
}

/// Hears of claims that the sources support while the model still writes.
pub type Hear<'a> = dyn FnMut(&Claim) + Send + 'a;

/// Answers questions from one tenant's part of an index.
pub struct Answerer<'a> {
    pub state: &'a Store,
    pub vectors: &'a dyn VectorStore,
    pub embedder: &'a dyn Embedder,
    /// Writes the answers; without one they are quotes.
    pub model: Option<Arc<dyn Model>>,
    /// Puts the hits in another order, and looks at the better half only.
    pub reranker: Option<Reranker>,
    pub index: &'a str,
    pub tenant: &'a str,
}

impl std::fmt::Debug for Answerer<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Answerer").field("index", &self.index).finish_non_exhaustive()
    }
}

impl Answerer<'_> {
    /// # Errors
    /// [`RagError::Invalid`] for expansions without a model and for filters on metadata that nothing carries; what the store, the embedder or the model report. Not
    /// knowing is no error, and neither is a question that holds nothing to look for ([`QueryPlan::check`] refuses it
    /// beforehand): one of them must not end an evaluation.
    pub async fn answer(&self, question: &str, options: &AnswerOptions) -> Result<Answer, RagError> {
        self.respond(question, options, None).await
    }

    /// As [`Self::answer`], and tells each claim of a text that is being written once it is complete and its quote
    /// verified. What is returned decides: a model that takes back at the end what it wrote answers nothing, and a server
    /// whose answer broke off may write another one.
    ///
    /// # Errors
    /// As [`Self::answer`].
    pub async fn answer_aloud(
        &self,
        question: &str,
        options: &AnswerOptions,
        hear: &mut Hear<'_>,
    ) -> Result<Answer, RagError> {
        self.respond(question, options, Some(hear)).await
    }

    async fn respond(
        &self,
        question: &str,
        options: &AnswerOptions,
        hear: Option<&mut Hear<'_>>,
    ) -> Result<Answer, RagError> {
        let searcher = Searcher::new(self.vectors, Some(self.embedder));
        let (filter, untold) = check_metadata(self.state, (self.index, self.tenant), &options.filter)?;
        let scope = Scope::of(self.tenant).visible(shown()).filter(filter);
        let (plan, mut notes) = self.plan(question, options).await?;
        notes.extend(untold);
        let mut answer = Answer::open(question, options.threshold, notes);
        if let Some((lack, _)) = plan.lack(options.search.mode) {
            answer.abstained = Some(format!("the question {lack}"));
            return Ok(answer);
        }
        let hits = searcher.search(self.index, &scope, &plan, &options.search).await?;
        if hits.is_empty() {
            check_presence(self.state, self.vectors, (self.index, self.tenant)).await?;
        }
        let hits = self.reranked(question, hits).await?;
        let places = self.places(question, &hits)?;
        let chunks: Vec<Chunk> = places.iter().map(|places| places.chunk.clone()).collect();
        let mut sources = Sources::new(self.state, self.index, self.tenant);
        let (orders, evidence): (Vec<Evidence>, Vec<Evidence>) = weigh(question, &chunks, self.embedder)
            .await?
            .into_iter()
            .map(|evidence| places[evidence.chunk].cited(evidence))
            .partition(|evidence| gives_orders(&evidence.citation.quote));
        answer.confidence = evidence.first().map_or(0.0, |best| best.score);
        answer.warnings = warnings(orders, &mut sources)?;
        answer.hits = hits;
        if answer.confidence < options.threshold {
            answer.abstained = Some(match evidence.is_empty() {
                true => "nothing was found".to_owned(),
                false => "what was found does not answer the question surely enough".to_owned(),
            });
            return Ok(answer);
        }
        match &self.model {
            None => self.quote(&mut answer, evidence, &mut sources)?,
            Some(model) => {
                let evidence = &evidence;
                let writing = Writing { chunks: &chunks, evidence, options, sources: &mut sources, hear };
                self.generate(model, &mut answer, writing).await?;
            }
        }
        Ok(answer)
    }

    /// Everything that the question is looked for by, and a note for each expansion that came to nothing; if the search
    /// is explained, also for each query that was added.
    async fn plan(
        &self,
        question: &str,
        options: &AnswerOptions,
    ) -> Result<(QueryPlan, Vec<String>), RagError> {
        let (plan, mut notes) = match &self.model {
            _ if options.expansions.is_empty() => (QueryPlan::of(question), Vec::new()),
            Some(model) => QueryPlan::expanded(question, &options.expansions, model).await?,
            None => {
                return Err(RagError::invalid(
                    "other ways to ask",
                    "are thought up by a model, and there is none",
                    "name one with `--model`",
                ));
            }
        };
        if options.search.explain {
            notes.extend(plan.added(options.search.mode));
        }
        Ok((plan, notes))
    }

    /// With a reranker its better half, in its order.
    async fn reranked(&self, question: &str, hits: Vec<Hit>) -> Result<Vec<Hit>, RagError> {
        let Some(reranker) = &self.reranker else { return Ok(hits) };
        let better = hits.len().div_ceil(2);
        rerank((self.index, self.tenant), question, reranker, hits, better).await
    }

    /// Where each hit stands.
    fn places(&self, question: &str, hits: &[Hit]) -> Result<Vec<Places>, RagError> {
        let places = |hit: &Hit| {
            let chunk = Chunk::from_payload(self.index, hit.id, self.tenant, &hit.payload)?;
            Ok(Places::of(question, chunk, &hit.copies))
        };
        hits.iter().map(places).collect()
    }

    /// The best statements as they stand. One whose quote cannot be verified is not given.
    fn quote(
        &self,
        answer: &mut Answer,
        evidence: Vec<Evidence>,
        sources: &mut Sources<'_>,
    ) -> Result<(), RagError> {
        let least = answer.confidence * NEXT_STATEMENT_SHARE;
        for evidence in evidence.into_iter().take_while(|evidence| evidence.score >= least) {
            let text = evidence.citation.quote.split_whitespace().collect::<Vec<_>>().join(" ");
            let place = answer.claims.iter().position(|claim| claim.text == text);
            if place.is_none() && answer.claims.len() == MOST_STATEMENTS {
                break;
            }
            let Some(citation) = sources.verified(evidence.citation)? else { continue };
            match place {
                // It may stand in other chunks too: one statement, with all its places.
                Some(place) => answer.claims[place].citations.push(citation),
                None => answer.claims.push(Claim { text, supported: true, citations: vec![citation] }),
            }
        }
        match answer.claims.is_empty() {
            true => answer.abstained = Some("no quote could be verified against its source".to_owned()),
            false => {
                let texts: Vec<&str> = answer.claims.iter().map(|claim| claim.text.as_str()).collect();
                answer.text = Some(texts.join("\n"));
            }
        }
        Ok(())
    }
}

fn warnings(orders: Vec<Evidence>, sources: &mut Sources<'_>) -> Result<Vec<Warning>, RagError> {
    let mut warnings = Vec::new();
    for order in orders {
        if let Some(citation) = sources.verified(order.citation)? {
            let message = format!(
                "`{}` holds a sentence that gives orders to whoever reads it; it was not followed",
                citation.document.0
            );
            warnings.push(Warning { message, citation });
        }
    }
    Ok(warnings)
}

#[cfg(test)]
mod tests;
