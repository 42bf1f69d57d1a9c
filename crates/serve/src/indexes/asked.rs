//! What indexes are asked: for chunks, and for answers.

use std::sync::Arc;

use evalign_model::Model;
use evalign_rag::answer::{Answer, AnswerOptions, Answerer, Hear};
use evalign_rag::{Embedder, LookedUp, Lookup, Reranker, SearchMode, Searcher, VectorStore};
use evalign_store::Store;

use super::{AnswerBody, Found, SearchBody};
use crate::app::App;
use crate::error::{ApiError, ApiResult};
use crate::evidence::Wanted;

/// A question to an index, with everything that answers it.
pub(super) struct Question {
    store: Store,
    stored: String,
    vectors: Arc<dyn VectorStore>,
    embedder: Arc<dyn Embedder>,
    model: Option<Arc<dyn Model>>,
    reranker: Option<Reranker>,
    text: String,
    options: AnswerOptions,
}

impl Question {
    /// Answers it. `hear` is told claims while they are written ([`Answerer::answer_aloud`]).
    pub(super) async fn answered(self, hear: Option<&mut Hear<'_>>) -> ApiResult<Answer> {
        let Self { store, stored, vectors, embedder, model, reranker, text, options } = self;
        let answerer = Answerer {
            state: &store,
            vectors: vectors.as_ref(),
            embedder: embedder.as_ref(),
            model,
            reranker,
            index: &stored,
            tenant: store.tenant().as_str(),
        };
        Ok(match hear {
            Some(hear) => answerer.answer_aloud(&text, &options, hear).await?,
            None => answerer.answer(&text, &options).await?,
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
    ) -> ApiResult<LookedUp> {
        let wanted = body.wanted()?;
        let rerank = body.rerank.as_ref();
        let rerank = rerank.map(|rerank| Ok::<_, ApiError>((&rerank.model, rerank.depth()?)));
        let rerank = rerank.transpose()?;
        let found = self.found(store, id).await?;
        self.placeless(self.looked_up(store, &found, (body, wanted), rerank)).await
    }

    /// `rerank` is a model's name, and how many hits it judges.
    async fn looked_up(
        self: &Arc<Self>,
        store: &Store,
        found: &Found,
        (body, wanted): (&SearchBody, Wanted),
        rerank: Option<(&String, usize)>,
    ) -> ApiResult<LookedUp> {
        let Wanted { options, filter, expansions } = wanted;
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
        Ok(lookup.hits(&body.query, &options).await?)
    }

    /// An answer from an index, with quotes that were verified against its documents.
    pub(crate) async fn answer_from_index(
        self: &Arc<Self>,
        store: &Store,
        id: &str,
        body: &AnswerBody,
    ) -> ApiResult<Answer> {
        let question = self.question(store, id, body).await?;
        self.placeless(question.answered(None)).await
    }

    /// Opens what answers a question: whatever a client got wrong is said before anything of an answer is.
    pub(super) async fn question(
        self: &Arc<Self>,
        store: &Store,
        id: &str,
        body: &AnswerBody,
    ) -> ApiResult<Question> {
        let options = body.options()?;
        let found = self.found(store, id).await?;
        self.placeless(self.opened(store, found, (body, options))).await
    }

    async fn opened(
        self: &Arc<Self>,
        store: &Store,
        found: Found,
        (body, options): (&AnswerBody, AnswerOptions),
    ) -> ApiResult<Question> {
        let Found { stored, settings } = found;
        Ok(Question {
            model: self.talker(store, body.model.as_ref(), "model").await?,
            reranker: self.judge_of_hits(store, body.rerank.as_ref(), "rerank").await?,
            embedder: self.embedder_of(&stored, &settings).await?,
            vectors: self.vectors().await?.clone(),
            store: store.clone(),
            stored,
            text: body.question.clone(),
            options,
        })
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
