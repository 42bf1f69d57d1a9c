//! Runs that are put into the store as they would be after they ran.

use std::path::Path;
use std::time::Duration;

use evalign_core::{FinishReason, Output, RunId, RunStatus, SampleKey, SampleRecord};
use evalign_fetch::silent;
use evalign_rag::EdgeStore;
use evalign_rag::chunker::{ChunkSettings, Strategy};
use evalign_rag::embed::{EmbedOptions, open_embedder};
use evalign_rag::ingest::{IndexSettings, Ingest, IngestProgress, IngestRequest};
use evalign_store::{NewRun, SampleFilter, Store};
use futures::executor::block_on;
use serde_json::json;

use crate::common::Service;

const TTL: Duration = Duration::from_secs(60);

/// Gives some samples of a run the scores that `change` makes of their own.
pub(crate) fn rescore(store: &Store, run: &str, change: impl Fn(&mut SampleRecord)) {
    let run: RunId = run.parse().unwrap();
    let lease = store.lease(&run, "test", TTL).unwrap();
    let records = store.samples(&run, SampleFilter::default()).unwrap();
    let scores = records.map(|record| {
        let mut record = record.unwrap();
        change(&mut record);
        (record.key, record.scores)
    });
    let scores = scores.collect();
    store.replace_scores(&lease, scores, None).unwrap();
    store.release(lease).unwrap();
}

/// An arena of two models over two prompts, all of it answered. It takes model and settings from another run.
pub(crate) fn arena(store: &Store, like: &str, [first, second]: [&str; 2]) -> String {
    let like: RunId = like.parse().unwrap();
    let of = store.run(&like).unwrap();
    let request = json!({
        "procedure": "arena", "run": of.request, "competitors": ["scripted/one", "scripted/two"],
        "judges": [], "asked": null, "prompts": "/prompts.jsonl", "weights": [],
    });
    let mut spec = of.spec;
    spec.seed += 1;
    let new = NewRun { spec, request, samples_total: 4, fork: false };
    let run = store.create_run(&new).unwrap().id;
    let lease = store.lease(&run, "test", TTL).unwrap();
    let sample = store.samples(&like, SampleFilter::default()).unwrap().next().unwrap().unwrap();
    for doc in 0..2 {
        for (repeat, text) in [(0, first), (1, second)] {
            let key = SampleKey { task: "arena/answer".to_owned(), doc, repeat };
            let mut record = sample.clone();
            record.request.key = key.clone();
            record.key = key;
            record.doc = json!({"prompt": format!("Question {doc} <b>")});
            record.output = Some(Output::Text {
                text: text.to_owned(),
                finish: FinishReason::Stop,
                logprobs: None,
                reasoning: None,
            });
            record.scores.clear();
            block_on(store.commit_sample(&lease, &record)).unwrap();
        }
    }
    store.set_status(&lease, RunStatus::Completed).unwrap();
    store.release(lease).unwrap();
    run.to_string()
}

/// An index of one document with markup in its name and text, made by this embedding model; the vectors lie where the
/// service looks for them.
pub(crate) async fn index(service: &Service, embedder: &Path) {
    let file = service.home.path().join("handbook.md");
    fs_err::write(&file, HANDBOOK).unwrap();
    let (name, options) = (embedder.display().to_string(), EmbedOptions::default());
    let embedder = open_embedder(&name, &options, None, &silent).await.unwrap();
    let request = IngestRequest {
        index: "manuals".to_owned(),
        tenant: "default".to_owned(),
        inputs: Vec::new(),
        named: vec![("hand<b>book&.md".to_owned(), file)],
        allow_urls: false,
        settings: IndexSettings {
            embedder: embedder.identity().clone(),
            chunking: ChunkSettings {
                strategy: Strategy::Auto,
                max_tokens: 64,
                overlap_tokens: 0,
                prefix: false,
            },
            scalar_quantisation: false,
        },
        delete_missing: false,
    };
    let vectors = EdgeStore::new(service.home.path().join("vectors"));
    let quiet = |_: IngestProgress| {};
    Ingest::new(&service.store, &vectors, embedder, &quiet).run(&request).await.unwrap();
}

const HANDBOOK: &str = "# Battery\n\nThe battery of the lamp lasts nine hours. <script>alert(1)</script>\n\n\
    # Cleaning\n\nWipe the lamp with a dry cloth. Never use water on the \"lens\" & housing.\n";

/// A training job that has logged some updates.
pub(crate) fn training(service: &Service, like: &str) -> String {
    let like: RunId = like.parse().unwrap();
    let of = service.store.run(&like).unwrap();
    let request = json!({
        "procedure": "train", "run": of.request, "kind": "dpo", "file": "file_<b>", "evaluation_file": null,
        "settings": {"learning_rate": 0.0001},
    });
    let mut spec = of.spec;
    spec.seed += 2;
    let new = NewRun { spec, request, samples_total: 0, fork: false };
    let run = service.store.create_run(&new).unwrap().id;
    let place = service.home.path().join("training").join(run.as_str());
    fs_err::create_dir_all(&place).unwrap();
    let line = |step: u32| {
        let (at, noise) = (f64::from(step) / 40.0, f64::from(step * 7 % 5) / 50.0);
        let alarm = json!({"step": step, "alarm": "gradient_spike", "message": "<img src=x> norm"});
        let logged = json!({
            "step": step, "loss": 0.69 - 0.4 * at + noise, "rewards/chosen": 0.8 * at - noise,
            "rewards/rejected": -at + noise, "rewards/margins": 1.8 * at, "rewards/accuracies": 0.5 + 0.45 * at,
            "kl": 0.1 * at + noise, "grad_norm": 3.0 - at + 10.0 * noise, "learning_rate": 1e-4 * (1.0 - at),
        });
        if step == 20 { format!("{logged}\n{alarm}\n") } else { format!("{logged}\n") }
    };
    fs_err::write(place.join("metrics.jsonl"), (1..=40).map(line).collect::<String>()).unwrap();
    run.to_string()
}

/// One that is completed.
pub(crate) fn trained(service: &Service, like: &str) -> String {
    let job = training(service, like);
    let lease = service.store.lease(&job.parse().unwrap(), "test", TTL).unwrap();
    service.store.set_status(&lease, RunStatus::Completed).unwrap();
    service.store.release(lease).unwrap();
    job
}
