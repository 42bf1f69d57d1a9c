//! Questions made from an index's documents, and how well the index answers questions, as runs.

use std::io::Write as _;
use std::sync::Arc;

use evalign_bench::{
    ActiveRun, AnswerJudges, Answering, AnsweringRequest, Cancel, Cast, RunOfSteps as _, RunRequest,
    job_spec, quoting, verdicts_by,
};
use evalign_core::{Digest, ModelRef, RunStatus};
use evalign_model::{LoadOptions, Model};
use evalign_rag::answer::Answerer;
use evalign_rag::generate_tests::{GeneratedTests, TestSource};
use evalign_rag::quality::GoldQuestion;
use evalign_rag::{Embedder, Reranker, VectorStore};
use evalign_store::{Store, StoredFile, StoredRun};
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::{AnswersBody, Meter, Steps, TestsBody, Uploaded, check_spec, of_field};
use crate::app::App;
use crate::error::{ApiError, ApiResult, Code};
use crate::evidence::Wanted;
use crate::training::named_identity;
use crate::uploads;
use crate::work::asked;

/// Questions of one request.
const MOST_QUESTIONS: usize = 10_000;

/// Bytes of a file of questions: it is read into memory.
const MOST_BYTES: u64 = 64 << 20;

/// What a run that makes questions is asked for.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct TestsRequest {
    procedure: String,
    /// Its model writes them.
    run: RunRequest,
    index: String,
    count: usize,
    unanswerable: usize,
}

impl TestsRequest {
    pub(crate) const PROCEDURE: &'static str = "generate-tests";
}

impl App {
    fn written_by(&self, store: &Store, run: &RunRequest) -> ApiResult<Arc<dyn Model>> {
        self.measured_for(store, (&run.model, run), &run.load_options()?)
    }

    /// Creates the run that makes questions from the documents of an index.
    pub(crate) fn start_tests(&self, store: &Store, id: &str, body: &TestsBody) -> ApiResult<StoredRun> {
        let settings = self.index_settings(store, id)?.1;
        if !(1..=MOST_QUESTIONS).contains(&body.count) {
            return Err(of_field("count", format!("`count` is a number from 1 to {MOST_QUESTIONS}")));
        }
        if body.unanswerable > MOST_QUESTIONS {
            return Err(of_field("unanswerable", format!("`unanswerable` is at most {MOST_QUESTIONS}")));
        }
        let reference = self.reference(store, &body.model)?;
        let mut run = self.base_request(reference.clone(), Vec::new());
        run.seed = body.seed;
        let request = TestsRequest {
            procedure: TestsRequest::PROCEDURE.to_owned(),
            run,
            index: id.to_owned(),
            count: body.count,
            unanswerable: body.unanswerable,
        };
        let definition = json!([id, body.count, body.unanswerable, body.seed]);
        let data = (&Digest::of_json(&settings), body.count as u64);
        let spec = job_spec(named_identity(reference), TestsRequest::PROCEDURE, &definition, data);
        // The documents may have changed since.
        self.start_work(store, spec, &request, true)
    }

    /// Makes the questions. They are one of the tenant's files in the end; what is begun when it breaks off is lost.
    pub(crate) async fn drive_tests(
        self: &Arc<Self>,
        run: &ActiveRun,
        (store, stored): (&Store, &StoredRun),
        cancel: &Cancel,
    ) -> ApiResult<RunStatus> {
        let request: TestsRequest = asked(stored)?;
        let (index, _) = self.index_settings(store, &request.index)?;
        let source = TestSource {
            state: store,
            vectors: self.vectors().await?.as_ref(),
            model: self.metered_run((store, &run.id), self.written_by(store, &request.run)?),
            index: &index,
            tenant: store.tenant().as_str(),
        };
        let steps = Steps::new(self, store, run, request.count as u64);
        let advance = |_: usize| steps.advance(1);
        let counts = (request.count, request.unanswerable);
        let made = source.generate(counts, request.run.seed, &advance);
        let Some(made) = run.attended(cancel, made).await? else {
            return Ok(self.ended(store, RunStatus::Cancelled));
        };
        let made = made?;
        steps.end()?;
        if made.questions.is_empty() {
            let message = format!(
                "{} chunks gave no usable question: name a stronger model, or index more",
                made.asked
            );
            return Err(ApiError::new(Code::InvalidRequest, message));
        }
        let file = self.kept_questions(store, &request.index, &made)?;
        run.complete(&json!({
            "file": file.id,
            "questions": made.questions.len(),
            "unanswerable": made.unanswerable.len(),
            "asked": made.asked,
            "refused": made.refused,
        }))?;
        Ok(RunStatus::Completed)
    }

    fn kept_questions(&self, store: &Store, index: &str, made: &GeneratedTests) -> ApiResult<StoredFile> {
        let dir = uploads::partial(&self.home)?;
        let path = dir.path().join("questions");
        let mut file = fs_err::File::create(&path).map_err(ApiError::internal)?;
        for question in made.questions.iter().chain(&made.unanswerable) {
            let line = serde_json::to_string(question).map_err(ApiError::internal)?;
            writeln!(file, "{line}").map_err(ApiError::internal)?;
        }
        drop(file);
        uploads::keep(self, store, &path, (&format!("{index}-questions.jsonl"), "dataset"))
    }

    /// What a client wants an index asked.
    fn answering_request(&self, store: &Store, id: &str, body: &AnswersBody) -> ApiResult<AnsweringRequest> {
        let file = uploads::found(store, &body.questions, "questions")?;
        if file.bytes > MOST_BYTES {
            let message = format!("a file of questions has at most {MOST_BYTES} bytes");
            return Err(ApiError::new(Code::TooLarge, message).about("questions"));
        }
        let reference = |name: &Option<String>, field: &str| {
            let name = name.as_ref();
            name.map(|name| self.reference(store, name).map_err(|error| error.about(field))).transpose()
        };
        let writer = reference(&body.model, "model")?.unwrap_or_else(quoting);
        let rerank = body.rerank.as_ref().map(|name| self.rerank_reference(store, name, "rerank"));
        let Wanted { options, expansions, .. } = body.wanted()?;
        Ok(AnsweringRequest {
            procedure: AnsweringRequest::PROCEDURE.to_owned(),
            run: self.base_request(writer, Vec::new()),
            questions: Uploaded { ids: vec![file.id], name: file.name }.as_place(),
            index: id.to_owned(),
            tenant: store.tenant().to_string(),
            store: self.vector_store_name().to_owned(),
            judge: reference(&body.judge, "judge")?,
            top_k: options.limit,
            search: Some(options),
            filters: body.search.filters.clone(),
            expansions,
            rerank: rerank.transpose()?,
            min_confidence: body.min_confidence()?,
            threads: None,
            offline: self.settings.offline,
        })
    }

    /// Creates the run that measures how well an index answers.
    pub(crate) async fn start_answers(
        &self,
        store: &Store,
        id: &str,
        body: &AnswersBody,
    ) -> ApiResult<StoredRun> {
        let (index, _) = self.index_settings(store, id)?;
        let request = self.answering_request(store, id, body)?;
        let mut parts = self.answer_parts(store, &request, &|model| model).await?;
        let reranker = parts.reranker.take();
        let answerer = parts.answerer(store, (&index, self.vectors().await?.as_ref()), reranker);
        let options = request.options()?;
        let (questions, judges) = (&parts.questions, parts.judges.as_ref());
        let new = Answering::new(&request, questions, (&answerer, &options), judges, body.fork)?;
        self.create_and_queue(store, new.new_run())
    }

    /// Asks what is open of it.
    pub(crate) async fn drive_answers(
        self: &Arc<Self>,
        run: &ActiveRun,
        (store, stored): (&Store, &StoredRun),
        cancel: &Cancel,
    ) -> ApiResult<RunStatus> {
        let request: AnsweringRequest = asked(stored)?;
        let (index, _) = self.index_settings(store, &request.index)?;
        let meter = |model| self.metered_run((store, &run.id), model);
        let mut parts = self.answer_parts(store, &request, &meter).await?;
        let reranker = parts.reranker.take();
        let answerer = parts.answerer(store, (&index, self.vectors().await?.as_ref()), reranker);
        let options = request.options()?;
        let (questions, judges) = (&parts.questions, parts.judges.as_ref());
        let answering = Answering::new(&request, questions, (&answerer, &options), judges, false)?;
        check_spec(stored, &answering.new_run().spec)?;
        let steps = Steps::new(self, store, run, questions.len() as u64);
        let status = answering.drive(run, store, cancel, &|more| steps.advance(more)).await?;
        steps.end()?;
        Ok(self.ended(store, status))
    }

    async fn answer_parts(
        &self,
        store: &Store,
        request: &AnsweringRequest,
        meter: Meter<'_>,
    ) -> ApiResult<Parts> {
        let Uploaded { ids, .. } = Uploaded::of_place(&request.questions)?;
        let file = uploads::found(store, &ids.concat(), "questions")?;
        let place = uploads::named_place(&self.home, &file)?;
        let questions =
            GoldQuestion::read_all(&place).map_err(|error| ApiError::from(error).about("questions"))?;
        let (index, settings) = self.index_settings(store, &request.index)?;
        let writer = (request.run.model != quoting()).then(|| self.written_by(store, &request.run));
        let rerank = request.rerank.as_ref();
        let reranker = rerank.map(|name| self.reranker(store, (name, &request.run), meter));
        Ok(Parts {
            questions,
            embedder: self.embedder_of(&index, &settings).await?,
            model: writer.transpose()?.map(meter),
            reranker: reranker.transpose()?,
            judges: self.answer_judges(store, request, meter)?,
        })
    }

    fn answer_judges(
        &self,
        store: &Store,
        request: &AnsweringRequest,
        meter: Meter<'_>,
    ) -> ApiResult<Option<AnswerJudges>> {
        let Some(judge) = &request.judge else { return Ok(None) };
        let mut parts = Vec::new();
        for rubric in AnswerJudges::RUBRICS {
            parts.push((judge, verdicts_by(rubric, &request.run)?));
        }
        let load = |reference: &ModelRef, options: &LoadOptions| -> ApiResult<_> {
            Ok(meter(self.measured_for(store, (reference, &request.run), options)?))
        };
        let cast = Cast::load(&parts, &request.run, store, load)?;
        Ok(Some(AnswerJudges::of(&cast, judge, &request.run)?))
    }
}

/// What answers, as a run holds it.
struct Parts {
    questions: Vec<GoldQuestion>,
    embedder: Arc<dyn Embedder>,
    model: Option<Arc<dyn Model>>,
    reranker: Option<Reranker>,
    judges: Option<AnswerJudges>,
}

impl Parts {
    fn answerer<'a>(
        &'a self,
        store: &'a Store,
        (index, vectors): (&'a str, &'a dyn VectorStore),
        reranker: Option<Reranker>,
    ) -> Answerer<'a> {
        Answerer {
            state: store,
            vectors,
            embedder: self.embedder.as_ref(),
            model: self.model.clone(),
            reranker,
            index,
            tenant: store.tenant().as_str(),
        }
    }
}
