//! `evalign rag`.

mod answers;
mod evaluate;
mod index;
mod manage;
mod open;
mod query;
mod questions;
mod search;
mod tune;

use evalign_bench::{AnsweringRequest, RetrievalRequest};

use crate::Verdict;
use crate::args::RagCommand;
use crate::output::{Failure, Output};

/// Goes on with an evaluation of search.
pub(super) fn evaluate_stored(
    request: &RetrievalRequest,
    json: bool,
    output: Output,
) -> Result<Verdict, Failure> {
    runtime()?.block_on(evaluate::run_request(request, evaluate::Anew::Never, json, output))
}

/// Goes on with an evaluation of answers.
pub(super) fn answer_stored(
    request: &AnsweringRequest,
    json: bool,
    output: Output,
) -> Result<Verdict, Failure> {
    runtime()?.block_on(answers::run_request(request, false, json, output))
}

fn runtime() -> Result<tokio::runtime::Runtime, Failure> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    Ok(runtime.map_err(anyhow::Error::from)?)
}

pub(super) fn rag(command: RagCommand, output: Output) -> Result<Verdict, Failure> {
    runtime()?.block_on(async {
        match command {
            RagCommand::Index(args) => index::index(&args, output).await,
            RagCommand::Query(args) => query::query(&args, output).await,
            RagCommand::Search(args) => search::search(&args, output).await,
            RagCommand::Eval(args) => evaluate::eval(&args, output).await,
            RagCommand::EvalAnswers(args) => answers::eval(&args, output).await,
            RagCommand::GenerateTests(args) => questions::generate(&args, output).await,
            RagCommand::Diff(args) => evaluate::diff(&args, output),
            RagCommand::Tune(args) => tune::tune(&args, output).await,
            RagCommand::List(args) => manage::list(&args, output).await,
            RagCommand::Gc(args) => manage::gc(&args, output).await,
            RagCommand::ServeQdrant(args) => manage::serve(&args, output).await,
            RagCommand::ReadPdf => index::read_pdf(output),
        }
    })
}
