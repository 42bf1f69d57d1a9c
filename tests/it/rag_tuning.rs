//! `evalign rag eval --prefix` and `evalign rag tune` with a reranker as a user runs them.

use evalign_testkit::openai_server::{Behaviour, ScriptedServer};
use evalign_testkit::{Ran, Sandbox};
use serde_json::{Value, json};

/// Sixteen documents of three paragraphs, each a chunk of its own: the first names the document as its title does, the
/// second speaks of another one, the third has what queries ask for.
fn collection(sandbox: &Sandbox, name: &str, is_titled: bool) {
    let row = |value: Value| format!("{value}\n");
    let document = |n: usize| {
        let (title, next) = (format!("pump{n}"), (n + 1) % 16);
        let text = format!(
            "has a hull of steel plates.\n\nBeside pump{next} stands pump{next} in the harbour.\n\nIt is emptied by \
             turning the lever."
        );
        let text = if is_titled { text } else { format!("{title} {text}") };
        row(json!({"_id": format!("d{n}"), "title": if is_titled { &title } else { "" }, "text": text}))
    };
    sandbox.write(&format!("{name}/corpus.jsonl"), (0..16).map(document).collect::<String>());
    let query = |n: usize| row(json!({"_id": format!("q{n}"), "text": format!("lever pump{n}")}));
    sandbox.write(&format!("{name}/queries.jsonl"), (0..16).map(query).collect::<String>());
    let judged = |n: usize| format!("q{n}\td{n}\t1\n");
    let qrels = (0..16).map(judged).collect::<String>();
    sandbox.write(&format!("{name}/qrels/test.tsv"), format!("query-id\tcorpus-id\tscore\n{qrels}"));
}

/// A sandbox and a server of embeddings.
struct Here {
    sandbox: Sandbox,
    server: ScriptedServer,
}

impl Here {
    fn new() -> Self {
        Self { sandbox: Sandbox::new(), server: ScriptedServer::start(Behaviour::default()) }
    }

    /// `rag COMMAND` with chunks of a paragraph.
    fn run(&self, command: &str, arguments: &[&str]) -> Ran {
        let chunks = ["--chunk-tokens", "22", "--embedder", "openai/scripted", "--json"];
        let arguments = [&["rag", command, "--beir"], arguments, &chunks].concat();
        let mut command = self.sandbox.command(&arguments);
        let server = self.server.base_url();
        command.env("OPENAI_BASE_URL", server).env("OPENAI_API_KEY", "any").output().unwrap().into()
    }

    fn ok(&self, command: &str, arguments: &[&str]) -> Value {
        let ran = self.run(command, arguments);
        assert_eq!(ran.status, 0, "{arguments:?}: {ran:?}");
        ran.json()
    }
}

#[test]
fn chunks_with_their_documents_title_are_another_way_of_searching() {
    let here = Here::new();
    collection(&here.sandbox, "beir", true);
    let without = here.ok("eval", &["beir", "--mode", "bm25"]);
    let with = here.ok("eval", &["beir", "--mode", "bm25", "--prefix"]);
    assert_eq!((&without["metrics"]["mrr@10"], &with["metrics"]["mrr@10"]), (&json!(0.5), &json!(1.0)));
    assert_eq!((&without["chunking"]["prefix"], &with["chunking"]["prefix"]), (&json!(false), &json!(true)));
    let id = |report: &Value| report["run_id"].as_str().unwrap().to_owned();
    // They are two rows of the leaderboard, each under a name that says what it is.
    let board = here.sandbox.ok(&["leaderboard", "--task", "retrieval/beir", "--format", "json"]).stdout;
    assert!(board.contains("bm25-chunks22:") && board.contains("bm25-chunks22-prefix:"), "{board}");
    let better = here.sandbox.ok(&["rag", "diff", &id(&without), &id(&with), "--json"]).json();
    assert!(better[0]["difference"].as_f64().unwrap() > 0.3 && better[0]["n"] == 16, "{better}");
    assert!(better[0]["p"].as_f64().unwrap() < 0.001, "{better}");
    assert_eq!(here.sandbox.run(&["rag", "diff", &id(&with), &id(&without)]).status, 1);

    collection(&here.sandbox, "untitled", false);
    let refused = here.run("eval", &["untitled", "--mode", "bm25", "--prefix"]);
    assert!(refused.status == 2 && refused.stderr.contains("has a title"), "{refused:?}");
    assert!(refused.stderr.contains("hint: leave it out"), "{refused:?}");
    let whole = here.sandbox.run(&["rag", "eval", "--beir", "beir", "--mode", "bm25", "--prefix"]);
    assert!(whole.status == 2 && whole.stderr.contains("--chunk-tokens"), "{whole:?}");
}

#[test]
fn a_sweep_judges_a_hit_once_and_shows_what_each_part_gains() {
    let here = Here::new();
    collection(&here.sandbox, "beir", true);
    let script = json!({
        "rules": [{"match": "lever", "log_likelihoods": [-0.1, -5.0]}], "count_file": "asked.txt",
    });
    let path = here.sandbox.write("judge.json", script.to_string());
    let judge = format!("scripted/{}", path.display());
    let sweep = |depths: &str| {
        here.ok(
            "tune",
            &["beir", "--prefix", "--queries", "10", "--rerank", &judge, "--rerank-depth", depths],
        )
    };
    let asked = || std::fs::read_to_string(here.sandbox.path().join("asked.txt")).unwrap();
    let report = sweep("2,4");
    let queries = report["n_tuned"].as_u64().unwrap() + report["n_held_out"].as_u64().unwrap();
    assert_eq!(queries, 10, "{report}");
    let parts: Vec<&str> =
        report["parts"].as_array().unwrap().iter().map(|part| part["part"].as_str().unwrap()).collect();
    assert_eq!(parts, ["fusion", "chunks", "prefix", "rerank"]);
    assert_eq!(report["parts"][2]["chunking"]["prefix"], true);
    let depths: Vec<Option<u64>> = (report["candidates"].as_array().unwrap().iter())
        .map(|candidate| candidate["rerank_depth"].as_u64())
        .filter(Option::is_some)
        .collect();
    assert!(depths.contains(&Some(2)) && depths.contains(&Some(4)), "{depths:?}");
    let first = asked();
    let different: std::collections::BTreeSet<&str> = first.lines().collect();
    assert_eq!(different.len(), first.lines().count(), "a hit was judged twice");
    // Of the first two, nothing is new.
    sweep("2");
    assert_eq!(asked(), first);
}
