//! What indexes are asked: for chunks, and for answers.

use std::sync::Arc;

use evalign_model::Model;
use evalign_rag::answer::{Answer, AnswerOptions, Answerer};
use evalign_rag::{Expansion, Filter, Hit, LookedUp, Lookup, Reranker, SearchMode, SearchOptions, Searcher};
use evalign_store::Store;

use super::body::check_text;
use super::{AnswerBody, Found, SearchBody};
use crate::app::App;
use crate::error::{ApiError, ApiResult};
use crate::evidence::{NamedExpansion, filter};

/// What of a search can be said without its index.
struct Asked<'a> {
    options: SearchOptions,
    filter: Filter,
    expansions: Vec<Expansion>,
    /// A model's name, and how many hits it judges.
    rerank: Option<(&'a String, usize)>,
}

impl<'a> Asked<'a> {
    fn of(body: &'a SearchBody) -> ApiResult<Self> {
        let rerank = body.rerank.as_ref();
        let rerank = rerank.map(|rerank| Ok::<_, ApiError>((&rerank.model, rerank.depth()?)));
        Ok(Self {
            options: body.options()?,
            filter: filter(&body.filters)?,
            expansions: NamedExpansion::all(&body.expand, body.model.is_some())?,
            rerank: rerank.transpose()?,
        })
    }
}

impl App {
    /// Chunks that fit a query, with what they come from.
    pub(crate) async fn search_index(
        self: &Arc<Self>,
        store: &Store,
        id: &str,
        body: &SearchBody,
    ) -> ApiResult<Vec<Hit>> {
        check_text(&body.query, "query")?;
        let asked = Asked::of(body)?;
        let found = self.found(store, id).await?;
        self.placeless(self.hits(store, &found, body, asked)).await
    }

    async fn hits(
        self: &Arc<Self>,
        store: &Store,
        found: &Found,
        body: &SearchBody,
        asked: Asked<'_>,
    ) -> ApiResult<Vec<Hit>> {
        let Asked { options, filter, expansions, rerank } = asked;
        let Found { stored, settings } = found;
        let embedder = match options.mode {
            SearchMode::Bm25 => None,
            SearchMode::Dense | SearchMode::Hybrid => Some(self.embedder_of(stored, settings).await?),
        };
        let model = body.model.as_ref().filter(|_| !expansions.is_empty());
        let model = self.talker(store, model, "model").await?;
        let reranker = self.judge_of_hits(store, rerank.map(|(name, _)| name), "rerank.model").await?;
        let lookup = Lookup {
            state: store,
            searcher: Searcher::new(self.vectors().await?.as_ref(), embedder.as_deref()),
            index: stored,
            tenant: store.tenant().as_str(),
            filter,
            expansions: &expansions,
            model: model.as_ref(),
            rerank: reranker.as_ref().zip(rerank.map(|(_, depth)| depth)),
        };
        let LookedUp { hits, notes, .. } = lookup.hits(&body.query, &options).await?;
        for note in notes {
            tracing::info!(index = %stored, %note, "a search goes on without");
        }
        Ok(hits)
    }

    /// An answer from an index, with quotes that were verified against its documents.
    pub(crate) async fn answer_from_index(
        self: &Arc<Self>,
        store: &Store,
        id: &str,
        body: &AnswerBody,
    ) -> ApiResult<Answer> {
        check_text(&body.question, "question")?;
        let options = body.options()?;
        let found = self.found(store, id).await?;
        self.placeless(self.answered(store, &found, body, options)).await
    }

    async fn answered(
        self: &Arc<Self>,
        store: &Store,
        found: &Found,
        body: &AnswerBody,
        options: AnswerOptions,
    ) -> ApiResult<Answer> {
        let Found { stored, settings } = found;
        let model = self.talker(store, body.model.as_ref(), "model").await?;
        let reranker = self.judge_of_hits(store, body.rerank.as_ref(), "rerank").await?;
        let embedder = self.embedder_of(stored, settings).await?;
        let answerer = Answerer {
            state: store,
            vectors: self.vectors().await?.as_ref(),
            embedder: embedder.as_ref(),
            model,
            reranker,
            index: stored,
            tenant: store.tenant().as_str(),
        };
        Ok(answerer.answer(&body.question, &options).await?)
    }

    /// A model that answers while a request waits. What it reads and writes counts for the key.
    async fn talker(
        self: &Arc<Self>,
        store: &Store,
        name: Option<&String>,
        field: &str,
    ) -> ApiResult<Option<Arc<dyn Model>>> {
        let Some(name) = name else { return Ok(None) };
        let served = self.served(store, name).await.map_err(|error| error.about(field))?;
        Ok(Some(self.metered(store, served.model.clone())))
    }

    /// What judges hits again while a request waits.
    async fn judge_of_hits(
        self: &Arc<Self>,
        store: &Store,
        name: Option<&String>,
        field: &str,
    ) -> ApiResult<Option<Reranker>> {
        let model = self.talker(store, name, field).await?;
        Ok(model.map(Reranker::language_model).transpose()?)
    }
}
