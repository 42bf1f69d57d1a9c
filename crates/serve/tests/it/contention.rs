//! Who wants a run that somebody else has for a moment, and who asks for too much of one.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use evalign_bench::{Ballot, Vote, Votes};
use evalign_core::{Digest, RunId, RunStatus, Tenant};
use evalign_serve::{BLOCKING_THREADS, Layer, begin, mint_key};
use evalign_store::{IndexCommit, IndexedDocument, JobState, KeyLimits, KeyScope, NewRun, SampleFilter};
use futures::executor::block_on;
use futures::future::join_all;
use http::{Method, StatusCode};
use serde_json::{Value, json};

use crate::common::{Service, request, settings_with, small_run};
use crate::indexes::{empty_index, settings_of_nobody};
use crate::pages::{browse, log_in};
use crate::stored::{arena, training};

const TTL: Duration = Duration::from_secs(60);

/// Long enough to be met, far below what is waited for.
const MOMENT: Duration = Duration::from_millis(300);

async fn prompts(service: &Service) -> String {
    let rows = "{\"prompt\": \"Name a colour.\"}\n{\"prompt\": \"Name a tree.\"}\n";
    service.upload("prompts.jsonl", "preferences", rows).await
}

async fn posted(service: &Service, path: &str, body: &Value) -> RunId {
    let answer = service.post(path, body).await;
    assert_eq!(answer.status, StatusCode::ACCEPTED, "{}", answer.text());
    answer.json()["id"].as_str().unwrap().parse().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_waits_for_who_creates_the_same_run_once_more() {
    let service = Service::new();
    let rows = "{\"prompt\": \"Name a colour.\", \"answer\": \"Red.\"}\n";
    let file = service.upload("rows.jsonl", "dataset", rows).await;
    let body = json!({"judges": ["small"], "file": file});
    let run = posted(&service, "/v1/judgments", &body).await;
    let lease = service.store.lease(&run, "who asks once more", TTL).unwrap();
    let listening = service.listening().await;
    let store = &listening.service.store;
    listening.until(run.as_str(), "running").await;
    tokio::time::sleep(MOMENT).await;
    store.release(lease).unwrap();
    listening.until(run.as_str(), "completed").await;
    listening.end().await;
}

/// As on the command line: what is recorded as running goes on only while somebody works on it.
#[tokio::test(flavor = "multi_thread")]
async fn a_run_whose_process_is_gone_is_said_to_be_interrupted() {
    let listening = Service::new().listening().await;
    let service = &listening.service;
    let run = posted(service, "/v1/runs", &small_run()).await;
    listening.until(run.as_str(), "completed").await;
    let lease = service.store.lease(&run, "a process of the command line", TTL).unwrap();
    service.store.set_status(&lease, RunStatus::Running).unwrap();
    let status = async || service.get(&format!("/v1/runs/{run}")).await.json()["status"].clone();
    assert_eq!(status().await, "running");
    service.store.release(lease).unwrap();
    assert_eq!(status().await, "interrupted");
    assert_eq!(service.get("/v1/runs").await.json()["data"][0]["status"], "interrupted");
    let listed = async |status: &str| {
        let list = service.get(&format!("/v1/runs?status={status}")).await.json();
        list["data"].as_array().unwrap().len()
    };
    assert_eq!((listed("interrupted").await, listed("running").await), (1, 0));
    listening.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_vote_is_counted_whoever_counts_another_one_meanwhile() {
    let listening = Service::trainable(Layer::default()).listening().await;
    let service = &listening.service;
    let body =
        json!({"models": ["small", "tiny"], "prompts": prompts(service).await, "texts": {"max_tokens": 24}});
    let arena = posted(service, "/v1/judgments", &body).await;
    listening.until(arena.as_str(), "completed").await;
    let store = service.store.clone();
    let lease = store.lease(&arena, "another voter", TTL).unwrap();
    let counted = std::thread::spawn({
        let (store, arena) = (store.clone(), arena.clone());
        move || {
            let votes = Votes::open(&store, &arena, "eva", "test").unwrap();
            votes.cast_one(&votes.questions()[0], Vote::First).unwrap();
            votes.close("test").unwrap()
        }
    });
    tokio::time::sleep(MOMENT).await;
    store.release(lease).unwrap();
    assert!(counted.join().unwrap(), "the arena is completed: nobody counts it later");
    assert_eq!(store.run(&arena).unwrap().results.unwrap()["votes"], 1);
    listening.end().await;
}

/// An arena that is answered further has more questions, so that the votes of the same person are another run.
#[tokio::test(flavor = "multi_thread")]
async fn nobody_votes_on_an_arena_that_goes_on_and_nobody_counts_twice() {
    let listening = Service::new().listening().await;
    let service = &listening.service;
    let run = posted(service, "/v1/runs", &small_run()).await;
    listening.until(run.as_str(), "completed").await;
    let store = &service.store;
    let arena: RunId = arena(store, run.as_str(), ["one", "other"]).parse().unwrap();
    let vote = |vote: Vote| {
        let votes = Votes::open(store, &arena, "eva", "test").unwrap();
        votes.cast_one(&votes.questions()[0], vote).unwrap();
        let id = votes.run().clone();
        votes.close("test").unwrap();
        id
    };
    let (cookie, path) = (log_in(service).await, format!("/runs/{arena}"));
    let page = async || browse(service, Method::GET, &path, Some(&cookie), "").await.text();
    assert!(page().await.contains("Vote on answers"));
    let first = vote(Vote::First);
    // The same person's votes, asked by another specification.
    let earlier = store.run(&first).unwrap();
    let mut spec = earlier.spec;
    spec.seed += 7;
    let new = NewRun { spec, request: earlier.request, samples_total: 9, fork: false };
    let again = store.create_run(&new).unwrap().id;
    let lease = store.lease(&again, "test", TTL).unwrap();
    let record = store.samples(&first, SampleFilter::default()).unwrap().next().unwrap().unwrap();
    block_on(store.commit_sample(&lease, &record)).unwrap();
    store.release(lease).unwrap();
    let votes = Votes::cast(store, &arena).unwrap();
    assert_eq!(votes.values().map(Vec::len).sum::<usize>(), 1, "{votes:?}");

    let lease = store.lease(&arena, "test", TTL).unwrap();
    store.set_status(&lease, RunStatus::Running).unwrap();
    store.release(lease).unwrap();
    assert!(Ballot::of(store, &arena, "eva").unwrap_err().to_string().contains("not completed"));
    let body = json!({"question": "0-0", "vote": "tie"});
    let refused = service.post(&format!("/v1/judgments/{arena}/votes"), &body).await;
    assert_eq!(refused.status, StatusCode::BAD_REQUEST, "{}", refused.text());
    assert!(!page().await.contains("Vote on answers"));
    listening.end().await;
}

/// Such a number is a memory or a processor taken by one request.
#[tokio::test]
async fn no_request_asks_for_any_number_of_steps() {
    let service = Service::new();
    let rows = "{\"prompt\": \"q\", \"answer\": \"a\"}\n";
    let rows = service.upload("rows.jsonl", "dataset", rows).await;
    let prompts = prompts(&service).await;
    for many in [65, u32::MAX] {
        let critique = json!({"model": "small", "prompts": prompts, "rounds": many});
        let judgment = json!({"judges": ["small"], "file": rows, "repeats": many});
        for (path, body) in [("/v1/critiques", critique), ("/v1/judgments", judgment)] {
            let refused = service.post(path, &body).await;
            assert_eq!(refused.status, StatusCode::BAD_REQUEST, "{path}: {}", refused.text());
            assert!(refused.text().contains(&many.to_string()), "{path}: {}", refused.text());
        }
    }
    assert!(service.store.runs(100).unwrap().is_empty(), "nothing was stored");
}

/// A job that ends the process would end each one after it.
#[tokio::test]
async fn a_run_that_ended_three_servers_is_failed_at_the_next_start() {
    let service = Service::new();
    let run = posted(&service, "/v1/runs", &small_run()).await;
    let settings = settings_with(service.home.path(), &json!({"seed": 1}), Layer::default());
    let start = || begin(service.home.path(), &service.store, &settings).unwrap().taken_over;
    for taken_over in [1, 1, 0] {
        assert!(service.store.claim("worker", TTL).unwrap().is_some());
        assert_eq!(start(), taken_over);
    }
    assert_eq!(service.store.run(&run).unwrap().status, RunStatus::Failed);
    let told = service.get(&format!("/v1/runs/{run}")).await;
    assert!(told.text().contains("the server ended 3 times"), "{}", told.text());
}

/// A model that takes long to load holds who plans runs on it, and nobody else. The file of this one is a pipe: it is
/// read to its end when the test says so.
#[test]
fn who_waits_for_a_model_keeps_nobody_from_reading() {
    let mut threads = tokio::runtime::Builder::new_multi_thread();
    // The posts alone could take all of them.
    let threads = threads.worker_threads(2).max_blocking_threads(8).enable_all().build().unwrap();
    threads.block_on(async {
        let service = Service::new();
        let script = service.home.path().join("model.json");
        fs_err::remove_file(&script).unwrap();
        assert!(std::process::Command::new("mkfifo").arg(&script).status().unwrap().success());
        let post = async |seed: u64| {
            let mut body = small_run();
            body["seed"] = json!(seed);
            service.post("/v1/runs", &body).await.status
        };
        let read = async {
            tokio::time::sleep(MOMENT).await;
            let read = tokio::time::timeout(Duration::from_secs(30), service.get("/v1/runs")).await;
            std::thread::spawn(move || fs_err::write(script, json!({"seed": 1}).to_string()));
            read
        };
        let (posted, read) = tokio::join!(join_all((0..16).map(post)), read);
        assert_eq!(read.unwrap().status, StatusCode::OK);
        assert_eq!(posted, [StatusCode::ACCEPTED; 16]);
    });
}

/// Another process holds the database: who wants to change something waits for it, each on a thread, but never on all of
/// them; who waits too long is told to come again.
#[test]
fn who_waits_for_a_locked_database_keeps_nobody_from_reading() {
    let mut threads = tokio::runtime::Builder::new_multi_thread();
    let threads = threads.worker_threads(2).max_blocking_threads(BLOCKING_THREADS).enable_all().build();
    threads.unwrap().block_on(async {
        let service = Service::new();
        empty_index(&service).await;
        let other = rusqlite::Connection::open(service.home.path().join("evalign.db")).unwrap();
        other.execute_batch("BEGIN IMMEDIATE").unwrap();
        let refused = AtomicUsize::new(0);
        let upload = async || {
            let path = "/v1/files?name=a.jsonl&purpose=dataset";
            let answer = service.send(request(Method::POST, path, &service.run, Some(&json!(1)))).await;
            if answer.status == StatusCode::SERVICE_UNAVAILABLE {
                assert_eq!(answer.headers["retry-after"], "5", "{}", answer.text());
                refused.fetch_add(1, Ordering::Relaxed);
            }
            answer.status
        };
        let read = async {
            tokio::time::sleep(MOMENT).await;
            // Who asks for something reads, too.
            let body = json!({"query": "lamp", "search": {"mode": "bm25"}});
            let read = async {
                let found = service.post("/v1/indexes/docs/query", &body).await;
                assert_eq!(found.status, StatusCode::OK, "{}", found.text());
                service.get("/v1/files").await
            };
            let files = tokio::time::timeout(Duration::from_secs(20), read).await;
            while refused.load(Ordering::Relaxed) == 0 {
                tokio::time::sleep(MOMENT).await;
            }
            other.execute_batch("ROLLBACK").unwrap();
            files
        };
        let uploads = join_all((0..BLOCKING_THREADS + 16).map(|_| upload()));
        let (posted, files) = tokio::join!(uploads, read);
        assert_eq!(files.unwrap().json()["data"], json!([]));
        let stored = posted.iter().filter(|status| **status == StatusCode::CREATED).count();
        assert!(stored > 0 && stored + refused.load(Ordering::Relaxed) == posted.len(), "{posted:?}");
        assert_eq!(upload().await, StatusCode::CREATED, "nobody keeps a turn");
    });
}

/// The server was killed between the end of a run and its telling so, and the run was the last that its key could pay.
#[tokio::test(flavor = "multi_thread")]
async fn a_run_that_is_done_stays_done_when_its_key_is_used_up() {
    let listening = Service::new().listening().await;
    let service = &listening.service;
    let run = posted(service, "/v1/runs", &small_run()).await;
    listening.until(run.as_str(), "completed").await;
    let mut key = mint_key(Tenant::default(), "used up", KeyScope::Run, None).unwrap();
    key.record.limits = KeyLimits { tokens_per_day: Some(0), ..KeyLimits::default() };
    service.store.create_key(&key.record).unwrap();
    let store = service.store.on_behalf_of(&key.record.id);
    store.enqueue(&run, &json!({}), 10).unwrap();
    listening.until(run.as_str(), "completed").await;
    assert_eq!(service.store.job_of(&run).unwrap().unwrap().state, JobState::Done);
    listening.end().await;
}

/// Version 5 noted nothing of what trainings and indexes take, and nobody notes what a job has left whose server was
/// killed for the last time.
#[tokio::test(flavor = "multi_thread")]
async fn what_tenants_keep_and_nobody_noted_is_noted_at_the_next_start() {
    let service = Service::new();
    let run = posted(&service, "/v1/runs", &small_run()).await;
    let job = training(&service, run.as_str());
    service.store.put_index("manuals", &json!(settings_of_nobody())).unwrap();
    let document = IndexedDocument {
        document: "a".to_owned(),
        root: "/docs".to_owned(),
        revision: Digest::of("a"),
        version: Digest::of("a 1"),
        text: Some(Digest::of("text")),
        chunks: 3,
        duplicate_of: None,
        details: json!({}),
    };
    let texts = vec![(Digest::of("text"), "text".to_owned())];
    let commit = IndexCommit { indexed: vec![document], texts, ..IndexCommit::default() };
    service.store.commit_documents("manuals", "default", commit).unwrap();
    assert_eq!(service.store.file_bytes().unwrap(), 0);
    let nobodys = service.home.path().join("training").join(RunId::new().as_str());
    fs_err::create_dir_all(&nobodys).unwrap();
    fs_err::write(nobodys.join("large"), [0; 1000]).unwrap();
    let listening = service.listening().await;
    let service = &listening.service;
    let place = service.home.path().join("training").join(&job).join("metrics.jsonl");
    let index = service.get("/v1/indexes/manuals").await.json()["bytes"].as_u64().unwrap();
    let expected = fs_err::metadata(place).unwrap().len() + index;
    for _ in 0..600 {
        if service.store.file_bytes().unwrap() == expected {
            break;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(service.store.file_bytes().unwrap(), expected);
    assert!(index > 0);
    listening.end().await;
}
