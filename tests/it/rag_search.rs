//! `evalign rag eval`, `diff`, `gc` and `serve-qdrant` as a user runs them.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use evalign_core::RunStatus;
use evalign_rag::{CollectionSpec, EdgeStore, VectorStore};
use evalign_store::Store;
use evalign_testkit::openai_server::{Behaviour, ScriptedServer};
use evalign_testkit::{Ran, Sandbox, embedding_model, shared, skipped};
use serde_json::{Value, json};

/// Twelve documents of which every other one is about wings, and queries that ask for them.
fn collection(sandbox: &Sandbox, name: &str) {
    let document = |n: usize| {
        let words = ["wing lift drag", "tide harbour keeper"][n % 2];
        format!("{{\"_id\": \"d{n}\", \"title\": \"\", \"text\": \"{words} number{n}\"}}\n")
    };
    sandbox.write(&format!("{name}/corpus.jsonl"), (0..12).map(document).collect::<String>());
    let query = |n: usize| format!("{{\"_id\": \"q{n}\", \"text\": \"number{n} lift\"}}\n");
    sandbox.write(&format!("{name}/queries.jsonl"), (0..12).map(query).collect::<String>());
    let judged = |n: usize| format!("q{n}\td{n}\t1\n");
    let qrels = (0..12).map(judged).collect::<String>();
    sandbox.write(&format!("{name}/qrels/test.tsv"), format!("query-id\tcorpus-id\tscore\n{qrels}"));
}

const EVAL: [&str; 7] = ["rag", "eval", "--beir", "beir", "--mode", "bm25", "--json"];

struct Server(Child);

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// `serve-qdrant` on a free port; the address is on stderr.
fn serve(sandbox: &Sandbox) -> (Server, String) {
    let mut command = sandbox.command(&["rag", "serve-qdrant", "--listen", "127.0.0.1:0"]);
    let mut child = command.stderr(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
    let said = lines.next().unwrap().unwrap();
    let url = said.split_whitespace().find(|word| word.starts_with("http://")).unwrap().to_owned();
    std::thread::spawn(move || lines.for_each(drop));
    (Server(child), url)
}

fn on_server(sandbox: &Sandbox, url: &str, arguments: &[&str]) -> Ran {
    let mut command: Command = sandbox.command(arguments);
    command.env("QDRANT_URL", url).output().unwrap().into()
}

#[test]
fn an_evaluation_says_what_each_query_is_worth_and_leaves_nothing_behind() {
    let sandbox = Sandbox::new();
    collection(&sandbox, "beir");
    let report = sandbox.ok(&EVAL).json();
    assert_eq!(report["metrics"]["ndcg@10"], 1.0);
    assert_eq!((&report["n_queries"], &report["store"]), (&Value::from(12), &Value::from("edge")));
    assert_eq!(report["per_query"].as_object().unwrap().len(), 12);
    assert_eq!(report["per_query"]["q3"]["mrr@10"], 1.0);
    assert!(report["seconds"]["ingest"].as_f64().unwrap() > 0.0);
    assert!(report["seconds"]["queries"].as_f64().unwrap() > 0.0);
    let left = sandbox.ok(&["rag", "gc", "--json"]).json();
    assert_eq!(left["dropped"], serde_json::json!([]));
    let table = sandbox.ok(&EVAL[..6]).stdout;
    assert!(table.contains("ndcg@10") && table.contains("12 queries"), "{table}");
}

#[test]
fn an_evaluation_is_a_run_like_any_other() {
    let sandbox = Sandbox::new();
    collection(&sandbox, "beir");
    let first = sandbox.ok(&EVAL).json();
    let other = sandbox.ok(&[&EVAL[..], &["--depth", "2000"]].concat()).json();
    // The same once more is measured once more.
    let anew = sandbox.ok(&EVAL).json();
    assert_eq!(anew["per_query"], first["per_query"]);
    let id = |report: &Value| report["run_id"].as_str().unwrap().to_owned();
    assert_eq!(sandbox.ok(&["resume", &id(&first), "--json"]).json(), first);
    let runs = sandbox.ok(&["runs", "--json"]).json();
    let listed: Vec<&str> =
        runs.as_array().unwrap().iter().map(|run| run["run_id"].as_str().unwrap()).collect();
    assert_eq!(listed, [id(&anew), id(&other), id(&first)]);
    let board = sandbox.ok(&["leaderboard", "--task", "retrieval/beir", "--format", "json"]).json();
    let of_metric = |block: &&Value| block["metric"] == "ndcg@10";
    let block = board.as_array().unwrap().iter().find(of_metric).unwrap();
    assert_eq!(block["rows"].as_array().unwrap().len(), 2, "{block}");
    let compared = sandbox.ok(&["compare", &id(&first), &id(&other), "--json"]).json();
    assert_eq!(compared["comparisons"][0]["difference"], 0.0, "{compared}");
    assert_eq!(sandbox.run(&["rag", "diff", &id(&first), &id(&other)]).status, 0);
    let shown = sandbox.ok(&["show", &id(&first), "--samples", "--json"]).json();
    assert!(shown[3]["output"]["text"]["text"].as_str().unwrap().starts_with("d3\t"), "{shown}");
    // What is recorded as running goes on only while somebody works on it.
    let store = Store::open(&sandbox.home()).unwrap();
    let run = store.find_run(&id(&anew)).unwrap();
    let lease = store.lease(&run, "a test", Duration::from_secs(600)).unwrap();
    store.set_status(&lease, RunStatus::Running).unwrap();
    let status = || sandbox.ok(&["runs", "--json"]).json()[0]["status"].clone();
    assert_eq!(status(), "running");
    store.release(lease).unwrap();
    assert_eq!(status(), "interrupted");
}

#[test]
fn vectors_that_could_not_be_collected_are_a_failure() {
    let sandbox = Sandbox::new();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let spec = CollectionSpec { dimension: Some(2), indexed_fields: Vec::new(), scalar_quantisation: false };
    let vectors = EdgeStore::new(sandbox.home().join("vectors"));
    for name in ["damaged", "of-another-home"] {
        runtime.block_on(vectors.ensure(name, &spec)).unwrap();
    }
    Store::open(&sandbox.home()).unwrap().put_index("damaged", &json!({})).unwrap();
    drop((vectors, runtime));
    let ran = sandbox.run(&["rag", "gc"]);
    assert!(ran.status == 1 && ran.stderr.contains("settings are damaged"), "{ran:?}");
    assert!(!ran.stdout.contains("vectors"), "{ran:?}");
    // Nobody knows what embedder it was made with: none is fetched to find out.
    let ran = sandbox.run(&["rag", "search", "x", "--index", "of-another-home", "--embedder", "./nowhere"]);
    assert!(ran.status == 2 && ran.stderr.contains("there is no such index"), "{ran:?}");
}

#[test]
fn a_worse_configuration_is_found_out() {
    let sandbox = Sandbox::new();
    collection(&sandbox, "beir");
    let good = sandbox.ok(&EVAL).json();
    let mut bad = good.clone();
    for query in bad["per_query"].as_object_mut().unwrap().values_mut() {
        query["ndcg@10"] = Value::from(0.4);
    }
    sandbox.write("good.json", good.to_string());
    sandbox.write("bad.json", bad.to_string());
    let diff = |a: &str, b: &str| sandbox.run(&["rag", "diff", a, b, "--json"]);
    assert_eq!(diff("good.json", "good.json").status, 0);
    assert_eq!(diff("bad.json", "good.json").status, 0);
    let worse = diff("good.json", "bad.json");
    assert_eq!(worse.status, 1, "{worse:?}");
    let found = &worse.json()[0];
    assert_eq!((&found["metric"], &found["n"], &found["worse"]), (&"ndcg@10".into(), &12.into(), &12.into()));
    assert!(found["p"].as_f64().unwrap() < 0.001);
    let mut elsewhere = good.clone();
    elsewhere["dataset"] = Value::from("0".repeat(64));
    sandbox.write("elsewhere.json", elsewhere.to_string());
    let refused = diff("good.json", "elsewhere.json");
    assert!(refused.status == 2 && refused.stderr.contains("different collections"), "{refused:?}");
    let none = sandbox.run(&["rag", "diff", "good.json", "0a0a"]);
    assert!(none.status == 2 && none.stderr.contains("0a0a"), "{none:?}");
    let unknown = sandbox.run(&["rag", "diff", "good.json", "good.json", "--metric", "f1"]);
    assert_eq!(unknown.status, 2);
    assert!(unknown.stderr.contains("hint: one of ndcg@10"), "{unknown:?}");
}

#[test]
fn a_server_of_our_own_gives_the_same_rankings() {
    let sandbox = Sandbox::new();
    collection(&sandbox, "beir");
    let (_server, url) = serve(&sandbox);
    // The collections of the server's process are its own: another directory for the embedded store.
    let alone = Sandbox::new();
    collection(&alone, "beir");
    let served = on_server(&sandbox, &url, &EVAL);
    assert_eq!(served.status, 0, "{served:?}");
    let (served, embedded) = (served.json(), alone.ok(&EVAL).json());
    assert_eq!(served["per_query"], embedded["per_query"]);
    assert_eq!(served["store"], "qdrant");
}

#[test]
fn what_is_wrong_is_said_with_a_hint() {
    let sandbox = Sandbox::new();
    collection(&sandbox, "beir");
    let cases: [(&[&str], &str); 8] = [
        (&["rag", "eval", "--beir", "nowhere", "--mode", "bm25"], "corpus.jsonl"),
        (&["rag", "eval", "--beir", "beir", "--mode", "bm25", "--split", "dev"], "dev.tsv"),
        (&["rag", "eval", "--beir", "beir", "--mode", "bm25", "--store", "qdrant"], "set QDRANT_URL"),
        (&["rag", "search", "x", "--mode", "bm25"], "there is no such index"),
        // Before an embedder is looked for.
        (&["rag", "search", "x", "--embedder", "./nowhere"], "there is no such index"),
        (&["rag", "generate-tests", "--model", "local/nowhere", "--out", "q"], "there is no such index"),
        (&["rag", "search", "x", "--mode", "bm25", "--fusion", "dbsf"], "hint: leave it out"),
        (&["rag", "search", "x", "--mode", "bm25", "--filter", "kind"], "hint: write for example"),
    ];
    for (arguments, wanted) in cases {
        let ran = sandbox.run(arguments);
        assert_eq!(ran.status, 2, "{arguments:?}: {ran:?}");
        assert!(ran.stderr.contains(wanted), "{arguments:?}: {ran:?}");
    }
    let gone = on_server(&sandbox, "http://127.0.0.1:1", &EVAL);
    assert_eq!(gone.status, 2);
    assert!(gone.stderr.contains("QDRANT_URL"), "{gone:?}");
}

#[test]
fn a_text_that_stands_in_several_documents_is_one_hit_with_all_its_places() {
    let server = ScriptedServer::start(Behaviour::default());
    let sandbox = Sandbox::new();
    let said = "The gate closes at 18:30.";
    for name in ["handbook", "copy", "print"] {
        sandbox.write(&format!("docs/{name}.md"), said);
    }
    sandbox.write("docs/paint.md", "The gate is painted green.");
    sandbox.write("docs/key.md", "The key of the gate hangs in the office.");
    let run = |arguments: &[&str]| {
        let ran = with_embedders(&sandbox, &server, arguments);
        assert_eq!(ran.status, 0, "{arguments:?}: {ran:?}");
        ran
    };
    run(&["rag", "index", "docs", "--embedder", "openai/scripted"]);
    let search = ["rag", "search", "the gate closes", "--mode", "bm25", "--top-k", "3"];
    let hits = run(&[&search[..], &["--json"]].concat()).json();
    let copies = |hit: &Value| hit["copies"].as_array().map_or(0, Vec::len);
    let found: Vec<(u64, usize)> =
        hits.as_array().unwrap().iter().map(|hit| (hit["rank"].as_u64().unwrap(), copies(hit))).collect();
    assert_eq!(found, [(1, 2), (2, 0), (3, 0)], "{hits:#}");
    assert_eq!(run(&search).stdout.matches("also in ").count(), 2);
    // Only they hold one of its words.
    let query =
        ["rag", "query", "When does it close, by the print?", "--mode", "bm25", "--min-confidence", "0"];
    let answer = run(&[&query[..], &["--json"]].concat()).json();
    let cited = &answer["claims"][0]["citations"];
    assert_eq!(cited.as_array().unwrap().len(), 1, "{answer:#}");
    // The one that the question names, and the others are as good.
    assert!(cited[0]["document"].as_str().unwrap().ends_with("print.md"), "{answer:#}");
    let places = cited[0]["copies"].as_array().unwrap();
    assert_eq!(places.len(), 2, "{answer:#}");
    for place in places.iter().chain([&cited[0]]) {
        let name = Path::new(place["document"].as_str().unwrap()).file_name().unwrap();
        let text = std::fs::read_to_string(sandbox.path().join("docs").join(name)).unwrap();
        let start = place["file_start_byte"].as_u64().unwrap() as usize;
        assert_eq!(text[start..start + said.len()], *said);
        assert_eq!(place["quote"], said);
    }
    assert_eq!(run(&query).stdout.matches("also in ").count(), 2);
}

/// Runs with the embedders of a server.
fn with_embedders(sandbox: &Sandbox, server: &ScriptedServer, arguments: &[&str]) -> Ran {
    let mut command = sandbox.command(arguments);
    command.env("OPENAI_BASE_URL", server.base_url()).env("OPENAI_API_KEY", "any").output().unwrap().into()
}

/// A server that never computes the same vector twice. With another seed it has another model.
fn rounding(seed: u64) -> Behaviour {
    Behaviour { seed, embedding_noise: 1e-4, ..Behaviour::default() }
}

#[test]
fn kept_vectors_are_found_again_though_the_server_computes_otherwise_each_time() {
    let server = ScriptedServer::start(rounding(0));
    let sandbox = Sandbox::new();
    collection(&sandbox, "beir");
    let tune = ["rag", "tune", "--beir", "beir", "--chunk-tokens", "0", "--embedder", "openai/scripted"];
    let eval = ["rag", "eval", "--beir", "beir", "--reuse-vectors", "--embedder", "openai/scripted"];
    // How many documents it is asked for; all of them hold one of two words that no query has.
    let documents_asked = |arguments: &[&str]| {
        server.forget();
        let ran = with_embedders(&sandbox, &server, arguments);
        assert_eq!(ran.status, 0, "{arguments:?}: {ran:?}");
        let asked = server.requests().entries.iter().map(|request| request.json()["input"].clone()).collect();
        let asked: Vec<Value> = asked;
        let texts = asked.iter().filter_map(Value::as_array).flatten().filter_map(Value::as_str);
        texts.filter(|text| text.contains("drag") || text.contains("harbour")).count()
    };
    assert_eq!(documents_asked(&eval), 12);
    assert_eq!(documents_asked(&[&eval[..], &["--mode", "dense"]].concat()), 0);
    assert_eq!(documents_asked(&tune), 0);
    server.behave(rounding(1));
    assert_eq!(documents_asked(&tune), 12, "another model has vectors of its own");
    assert_eq!(documents_asked(&tune), 0);
    server.behave(rounding(0));
    assert_eq!(documents_asked(&tune), 0, "those of the first are still there");
}

#[test]
fn an_evaluation_goes_on_only_with_the_model_that_it_was_begun_with() {
    let server = ScriptedServer::start(rounding(0));
    let sandbox = Sandbox::new();
    collection(&sandbox, "beir");
    let eval =
        ["rag", "eval", "--beir", "beir", "--mode", "dense", "--embedder", "openai/scripted", "--json"];
    let run = |arguments: &[&str]| with_embedders(&sandbox, &server, arguments);
    let first = run(&eval).json();
    let id = first["run_id"].as_str().unwrap().to_owned();
    let interrupt = || {
        let store = Store::open(&sandbox.home()).unwrap();
        let run = store.find_run(&id).unwrap();
        let lease = store.lease(&run, "a test", Duration::from_secs(600)).unwrap();
        store.set_status(&lease, RunStatus::Running).unwrap();
        store.release(lease).unwrap();
    };
    interrupt();
    assert_eq!(run(&eval).json()["run_id"], id.as_str(), "it rounds otherwise and is the same model");
    server.behave(rounding(1));
    let refused = |arguments: &[&str]| {
        let ran = run(arguments);
        assert_eq!(ran.status, 2, "{arguments:?}: {ran:?}");
        for part in ["model behind openai/scripted", "(cosine ", "`--again`"] {
            assert!(ran.stderr.contains(part), "{arguments:?}: {ran:?}");
        }
    };
    // Its figures are not today's.
    refused(&["resume", &id]);
    interrupt();
    refused(&eval);
    refused(&["resume", &id]);
    let anew = run(&[&eval[..], &["--again"]].concat()).json();
    assert_ne!(anew["run_id"], id.as_str());
    server.behave(rounding(0));
    assert_eq!(run(&eval).json()["per_query"], first["per_query"], "the first goes on with its own");
}

/// The published figures through the real binary.
#[test]
fn cranfield_by_words_is_as_published() {
    let Some(root) = shared("cranfield_by_words_is_as_published") else { return };
    let sandbox = Sandbox::new();
    let directory = root.join("data/retrieval/cranfield").display().to_string();
    let report = sandbox.ok(&["rag", "eval", "--beir", &directory, "--mode", "bm25", "--json"]).json();
    for (metric, published) in
        [("ndcg@10", 0.3854), ("recall@100", 0.7354), ("map", 0.3068), ("mrr@10", 0.5334)]
    {
        let value = report["metrics"][metric].as_f64().unwrap();
        assert!((value - published).abs() <= 0.0005, "{metric}: {value}, published {published}");
    }
}

/// Killed in the middle, resumed, and the same as if nothing had happened.
#[test]
fn an_evaluation_that_was_killed_goes_on() {
    let Some(root) = shared("an_evaluation_that_was_killed_goes_on") else { return };
    let directory = root.join("data/retrieval/cranfield").display().to_string();
    let eval = ["rag", "eval", "--beir", &directory, "--mode", "bm25", "--json"];
    let sandbox = Sandbox::new();
    let mut child = sandbox.command(&eval).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let run = loop {
        let runs = sandbox.run(&["runs", "--json"]);
        let run = if runs.status == 0 { runs.json()[0].clone() } else { Value::Null };
        if run["samples_done"].as_u64() > Some(10) {
            break run["run_id"].as_str().unwrap().to_owned();
        }
        assert!(child.try_wait().unwrap().is_none(), "it ended before it could be killed");
    };
    child.kill().unwrap();
    child.wait().unwrap();
    // What it wrote is known to be its own; a user's index is not touched, whatever its name.
    let left = sandbox.ok(&["rag", "gc", "--dry-run", "--json"]).json();
    assert_eq!(left["dropped"], serde_json::json!([format!("evaluation-{run}")]));
    let resumed = sandbox.ok(&["resume", &run, "--json"]).json();
    let whole = Sandbox::new().ok(&eval).json();
    assert_eq!(resumed["run_id"], run.as_str());
    assert_eq!((&resumed["per_query"], &resumed["metrics"]), (&whole["per_query"], &whole["metrics"]));
}

/// Skipped, visibly, where `EVALIGN_TEST_PYTHON` (else `python3`) has no qdrant-client.
#[test]
fn qdrants_own_python_client_is_at_home() {
    let python = std::env::var("EVALIGN_TEST_PYTHON").unwrap_or_else(|_| "python3".to_owned());
    let has = Command::new(&python).args(["-c", "import qdrant_client"]).output();
    if !has.is_ok_and(|output| output.status.success()) {
        return skipped("qdrants_own_python_client_is_at_home", "there is no qdrant-client");
    }
    let sandbox = Sandbox::new();
    let (_server, url) = serve(&sandbox);
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/peers/qdrant.py");
    let output = Command::new(python).args([script, url.as_str()]).output().unwrap();
    let [told, log] = [&output.stdout, &output.stderr].map(|bytes| String::from_utf8_lossy(bytes));
    assert!(output.status.success(), "{told}\n{log}");
}

#[test]
fn an_address_that_is_taken_is_told_with_a_way_out() {
    let sandbox = Sandbox::new();
    let (_server, url) = serve(&sandbox);
    let taken = url.trim_start_matches("http://");
    let ran = sandbox.run(&["rag", "serve-qdrant", "--listen", taken]);
    assert_eq!(ran.status, 2, "{ran:?}");
    assert!(ran.stderr.contains(taken) && ran.stderr.contains("hint: choose another"), "{ran:?}");
}

/// On the embedded store, and through `serve-qdrant` as on a server.
#[test]
fn filters_go_by_what_documents_carry() {
    let Some(embedder) = embedding_model("filters_go_by_what_documents_carry") else { return };
    let embedder = embedder.display().to_string();
    let sandbox = Sandbox::new();
    sandbox.write(
        "docs/pump.md",
        "---\nauthor: Jane Doe\nyear: 2001\ntags: [a=b, old]\n---\n# Pump\nA pump for water.",
    );
    sandbox.write("docs/parts.csv", "name,price\nPump wheel,3\nPump seal,1.50\n");
    sandbox.write("docs/plain.md", "# Pump\nAnother pump.");
    let indexed = sandbox.ok(&["rag", "index", "docs", "--embedder", &embedder, "--json"]).json();
    assert_eq!((&indexed["added"], &indexed["notes"]), (&json!(3), &json!([])), "{indexed}");
    let names = |ran: Ran| -> Vec<String> {
        let hits = ran.json();
        let name = |hit: &Value| -> String {
            let payload = &hit["payload"];
            payload["meta"]["name"].as_str().or(payload["document"].as_str()).unwrap().to_owned()
        };
        let mut names: Vec<String> = hits.as_array().unwrap().iter().map(name).collect();
        names.sort();
        names.dedup();
        names
    };
    let cases = [
        ("meta.author=\"Jane Doe\"", &["docs/pump.md"][..]),
        ("meta.tags=a=b", &["docs/pump.md"]),
        ("meta.year>=2001", &["docs/pump.md"]),
        ("meta.price<3", &["Pump seal"]),
        ("meta.name=Pump wheel,Pump seal", &["Pump seal", "Pump wheel"]),
        ("meta.author=Li", &[]),
    ];
    let check = |run: &dyn Fn(&[&str]) -> Ran| {
        for (condition, expected) in cases {
            let arguments = ["rag", "search", "pump", "--mode", "bm25", "--json", "--filter", condition];
            assert_eq!(names(run(&arguments)), expected, "{condition}");
        }
    };
    check(&|arguments| sandbox.ok(arguments));
    let refused = sandbox.run(&["rag", "query", "pump?", "--filter", "meta.autor=Li"]);
    assert!(refused.status == 2 && refused.stderr.contains("meta.author, meta.name"), "{refused:?}");
    let (server, url) = serve(&sandbox);
    check(&|arguments| on_server(&sandbox, &url, &[arguments, &["--store", "qdrant"]].concat()));
    drop(server);
}
