use evalign_model::{LoadOptions, OpenAiOptions};
use evalign_rag::generate_tests::TestSource;

use super::open::vector_store;
use crate::Verdict;
use crate::args::RagGenerateTestsArgs;
use crate::commands::context::{load_model, open_store};
use crate::commands::progress::CountBar;
use crate::output::{Failure, Output};

pub(super) async fn generate(args: &RagGenerateTestsArgs, output: Output) -> Result<Verdict, Failure> {
    let state = open_store()?;
    let vectors = vector_store(args.place.store).await?;
    let openai = OpenAiOptions { base_url: args.base_url.clone(), ..OpenAiOptions::default() };
    let loading = LoadOptions { offline: args.offline, openai, ..LoadOptions::default() };
    let source = TestSource {
        state: &state,
        vectors: vectors.as_ref(),
        model: load_model(&args.model, &loading, output)?,
        index: &args.place.index,
        tenant: &args.place.tenant,
    };
    let bar = CountBar::new(output, args.count as u64);
    let made = source.generate(args.count, args.seed, &|_| bar.advance(1)).await;
    bar.finish();
    let made = made?;
    for (reason, count) in &made.refused {
        output.note(&format!("note: {count} thrown away: {reason}"));
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
        .map(serde_json::to_string)
        .collect::<Result<_, _>>()
        .map_err(anyhow::Error::from)?;
    output.file(&args.out, &lines.join("\n"))?;
    output.result(&format!("{} questions from {} chunks", made.questions.len(), made.asked))?;
    Ok(if made.questions.len() < args.count { Verdict::Failed } else { Verdict::Good })
}
