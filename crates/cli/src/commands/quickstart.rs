use evalign_bench::{Catalog, RunRequest, draft};
use evalign_core::ModelRef;

use crate::Verdict;
use crate::args::{QuickstartArgs, Tolerance};
use crate::commands::context::{DEFAULT_MODEL, load_model, load_options, open_store, roots};
use crate::commands::leaderboard;
use crate::commands::session::{Session, Start};
use crate::commands::spending::Spending;
use crate::output::{Failure, Output};

/// The suite that ships with evalign.
const SUITE: &str = "samples";

pub(super) fn quickstart(args: &QuickstartArgs, output: Output) -> Result<Verdict, Failure> {
    let model: ModelRef = DEFAULT_MODEL.parse()?;
    let mut request = RunRequest::new(model, vec![SUITE.to_owned()]);
    request.limit = args.limit;
    request.dtype = args.engine.dtype;
    request.device.clone_from(&args.engine.device);
    request.memory_gib = args.engine.memory_gib;
    request.deterministic = args.engine.deterministic;
    request.offline = args.offline;
    let catalog = Catalog::load(&[])?;
    let draft = draft(&request, &catalog, &roots(&request)?)?;
    let store = open_store()?;
    output.note(&format!(
        "getting the model {DEFAULT_MODEL} (98 MB, once) and measuring it on the suite `{SUITE}`"
    ));
    let model = load_model(&request.model, &load_options(&request)?, output)?;
    let plan = draft.bind(&*model)?;
    let session = Session {
        command: "quickstart",
        request: &request,
        catalog: &catalog,
        store: &store,
        start: Start::BySpec,
        json: false,
        tolerance: Tolerance::Samples(0),
        spending: Spending::default(),
        no_cache: false,
        retry_errors: false,
    };
    let (verdict, results) = session.run(&plan, &model, output)?;
    if verdict == Verdict::Interrupted {
        return Ok(verdict);
    }
    output.result("\nleaderboard")?;
    output.result(&leaderboard::of_run(&store, &results.run_id)?)?;
    output.result(&next_steps(&results.run_id))?;
    Ok(verdict)
}

fn next_steps(run: &evalign_core::RunId) -> String {
    format!(
        "\nwhat to do next\n\
         \x20 evalign show {run} --samples --outcome wrong     read what it got wrong\n\
         \x20 evalign tasks list                               see all tasks\n\
         \x20 evalign eval mmlu --shots 5 --limit 5 --model {DEFAULT_MODEL}\n\
         \x20 evalign eval gsm8k --model local/ORG/REPO        measure another model from the hub\n\
         \x20 evalign leaderboard                              compare all runs"
    )
}
