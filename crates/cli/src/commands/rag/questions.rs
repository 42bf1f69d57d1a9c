use evalign_model::LoadOptions;
use evalign_rag::generate_tests::TestSource;

use super::open::{check_index, openai_options, vector_store};
use crate::Verdict;
use crate::args::RagGenerateTestsArgs;
use crate::commands::context::{load_model, open_store};
use crate::commands::progress::CountBar;
use crate::output::{Failure, Output};

pub(super) async fn generate(args: &RagGenerateTestsArgs, output: Output) -> Result<Verdict, Failure> {
    let state = open_store()?;
    let vectors = vector_store(args.place.store).await?;
    check_index(&state, vectors.as_ref(), (&args.place.index, &args.place.tenant), output).await?;
    let openai = openai_options(args.base_url.clone());
    let loading = LoadOptions { offline: args.offline, openai, ..LoadOptions::default() };
    let source = TestSource {
        state: &state,
        vectors: vectors.as_ref(),
        model: load_model(&args.model, &loading, output)?,
        index: &args.place.index,
        tenant: &args.place.tenant,
    };
    let bar = CountBar::new(output, args.count as u64);
    let made = source.generate((args.count, args.unanswerable), args.seed, &|_| bar.advance(1)).await;
    bar.finish();
    let made = made?;
    for (reason, count) in &made.refused {
        output.note(&format!("note: {count} thrown away: {reason}"));
    }
    if made.asked == 0 {
        return Err(Failure::new(
            "no chunk of the index is long enough to ask about",
            "index longer documents, or with larger chunks",
        ));
    }
    if made.questions.is_empty() {
        return Err(Failure::new(
            format!("{} chunks gave no usable question", made.asked),
            "name a stronger model, or index more",
        ));
    }
    let lines: Vec<String> = made
        .questions
        .iter()
        .chain(&made.unanswerable)
        .map(serde_json::to_string)
        .collect::<Result<_, _>>()
        .map_err(anyhow::Error::from)?;
    output.file(&args.out, &lines.join("\n"))?;
    let (answerable, others) = (made.questions.len(), made.unanswerable.len());
    output.result(&format!(
        "{answerable} questions from {} chunks, and {others} that no document answers",
        made.asked
    ))?;
    let short = answerable < args.count || others < args.unanswerable;
    Ok(if short { Verdict::Failed } else { Verdict::Good })
}
