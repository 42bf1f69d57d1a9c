//! Other harnesses on the same work.

use std::process::Command;

use evalign_testkit::openai_server::ScriptedServer;

use super::process::{Measured, measure};
use super::work::Work;

/// lm-evaluation-harness's `local-completions` with so many requests at once, on the rows of `work`.
pub(crate) fn lm_eval(python: &str, work: &Work, server: &ScriptedServer, concurrent: usize) -> Measured {
    let rows = work.sandbox.path().join("tasks/rows.jsonl");
    let task = format!(
        "task: short_lm_eval\ndataset_path: json\ndataset_kwargs: {{data_files: {{test: {}}}}}\n\
         test_split: test\noutput_type: generate_until\ndoc_to_text: \"{{{{q}}}}\"\ndoc_to_target: \"{{{{a}}}}\"\n\
         generation_kwargs: {{until: [\"\\n\"], max_gen_toks: 16, do_sample: false, temperature: 0}}\n\
         metric_list: [{{metric: exact_match, aggregation: mean, higher_is_better: true}}]\n\
         metadata: {{version: 1}}\n",
        rows.display()
    );
    work.sandbox.write("lm_eval/short_lm_eval.yaml", task);
    let model = format!(
        "model=scripted,base_url={}/completions,num_concurrent={concurrent},max_retries=3,tokenizer_backend=None,tokenized_requests=False",
        server.base_url()
    );
    let mut command = Command::new(python);
    command
        .args(["-m", "lm_eval", "--model", "local-completions", "--model_args", &model])
        .args(["--tasks", "short_lm_eval", "--include_path", "lm_eval", "--batch_size", "1"])
        .current_dir(work.sandbox.path())
        .env("OPENAI_API_KEY", "sk-bench")
        .env("HF_HOME", work.sandbox.path().join("hf"))
        .env("HF_DATASETS_OFFLINE", "1")
        .env("HF_HUB_OFFLINE", "1");
    measure(&mut command)
}
