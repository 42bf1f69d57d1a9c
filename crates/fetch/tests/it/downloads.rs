use std::path::Path;
use std::time::{Duration, Instant};

use evalign_core::Digest;
use evalign_fetch::{Event, FetchError, Repo, RepoPath, Revision, silent};

use crate::server::{COMMIT, Fault, TestHub, bytes};

const MEBIBYTE: usize = 1 << 20;

fn gguf() -> RepoPath {
    RepoPath::new("m.gguf").unwrap()
}

async fn hub_with_model() -> (TestHub, tempfile::TempDir, Vec<u8>) {
    let server = TestHub::start().await;
    let content = bytes(1, MEBIBYTE);
    server.put("models/org/m", "m.gguf", content.clone(), true);
    (server, tempfile::tempdir().unwrap(), content)
}

async fn fetch(server: &TestHub, cache: &Path) -> Result<evalign_fetch::HubFile, FetchError> {
    server.hub(cache).file(&Repo::model("org/m").unwrap(), &Revision::default(), &gguf(), &silent).await
}

fn blob(cache: &Path, content: &[u8]) -> std::path::PathBuf {
    cache.join("models--org--m/blobs").join(Digest::of(content).as_str())
}

#[tokio::test]
async fn a_file_arrives_in_pythons_layout_and_is_not_fetched_twice() {
    let (server, cache, content) = hub_with_model().await;
    let file = fetch(&server, cache.path()).await.unwrap();
    let repo = cache.path().join("models--org--m");
    assert_eq!(file.path, repo.join("snapshots").join(COMMIT).join("m.gguf"));
    assert_eq!(fs_err::read(&file.path).unwrap(), content);
    assert_eq!((file.bytes, file.sha256), (content.len() as u64, Some(Digest::of(&content))));
    let link = fs_err::read_link(&file.path).unwrap();
    assert_eq!(link, Path::new("../../blobs").join(Digest::of(&content).as_str()));
    assert_eq!(fs_err::read_to_string(repo.join("refs/main")).unwrap(), COMMIT);
    assert!(!repo.join("blobs").join(format!("{}.incomplete", Digest::of(&content))).exists());

    server.forget();
    fetch(&server, cache.path()).await.unwrap();
    assert!(server.gets("storage").is_empty(), "{:?}", server.seen());
}

#[tokio::test]
async fn the_token_goes_to_the_hub_and_not_to_the_storage() {
    let (server, cache, _) = hub_with_model().await;
    fetch(&server, cache.path()).await.unwrap();
    assert!(
        server.seen().iter().all(|seen| seen.authorized == (seen.server == "hub")),
        "{:?}",
        server.seen()
    );
    assert!(server.seen().iter().any(|seen| seen.server == "storage"));
}

#[tokio::test]
async fn a_cut_download_continues_where_it_stopped() {
    let (server, cache, content) = hub_with_model().await;
    server.fault("GET storage", Fault::Cut(300_000));
    server.fault("GET storage", Fault::Cut(200_000));
    let file = fetch(&server, cache.path()).await.unwrap();
    assert_eq!(fs_err::read(file.path).unwrap(), content);
    let ranges: Vec<Option<String>> = server.gets("storage").into_iter().map(|seen| seen.range).collect();
    assert_eq!(ranges, [None, Some("bytes=300000-".to_owned()), Some("bytes=500000-".to_owned())]);
}

#[tokio::test]
async fn cuts_that_make_progress_do_not_use_up_the_retries() {
    let (server, cache, content) = hub_with_model().await;
    for _ in 0..8 {
        server.fault("GET storage", Fault::Cut(100_000));
    }
    let file = fetch(&server, cache.path()).await.unwrap();
    assert_eq!(fs_err::read(file.path).unwrap(), content);
}

#[tokio::test]
async fn a_body_that_never_gets_further_ends_in_an_error_and_keeps_what_came() {
    let (server, cache, content) = hub_with_model().await;
    server.fault("GET storage", Fault::Cut(1000));
    for _ in 0..3 {
        server.fault("GET storage", Fault::Cut(0));
    }
    let error = fetch(&server, cache.path()).await.unwrap_err().to_string();
    assert!(error.contains("(tried 3 times)"), "{error}");
    let part = blob(cache.path(), &content).with_extension("incomplete");
    assert_eq!(fs_err::metadata(&part).unwrap().len(), 1000);
    assert!(!blob(cache.path(), &content).exists());
    server.forget();
    fetch(&server, cache.path()).await.unwrap();
    assert_eq!(server.gets("storage")[0].range.as_deref(), Some("bytes=1000-"));
    assert!(!part.exists());
}

#[tokio::test]
async fn a_server_without_ranges_is_started_over() {
    let (server, cache, content) = hub_with_model().await;
    server.fault("GET storage", Fault::Cut(300_000));
    server.fault("GET storage", Fault::IgnoreRange);
    let file = fetch(&server, cache.path()).await.unwrap();
    assert_eq!(fs_err::read(file.path).unwrap(), content);
}

#[tokio::test]
async fn a_bad_beginning_left_by_someone_is_thrown_away() {
    let (server, cache, content) = hub_with_model().await;
    let part = blob(cache.path(), &content).with_extension("incomplete");
    fs_err::create_dir_all(part.parent().unwrap()).unwrap();
    for length in [1000, MEBIBYTE, MEBIBYTE + 5] {
        fs_err::write(&part, bytes(9, length)).unwrap();
        let file = fetch(&server, cache.path()).await.unwrap();
        assert_eq!(fs_err::read(&file.path).unwrap(), content);
        fs_err::remove_file(blob(cache.path(), &content)).unwrap();
    }
}

#[tokio::test]
async fn wrong_content_is_named_and_never_kept() {
    let (server, cache, content) = hub_with_model().await;
    server.fault("GET storage", Fault::Garble);
    let error = fetch(&server, cache.path()).await.unwrap_err();
    assert!(matches!(error, FetchError::Corrupt { .. }), "{error}");
    let text = error.to_string();
    assert!(text.contains("m.gguf") && text.contains(Digest::of(&content).as_str()), "{text}");
    assert_eq!(fs_err::read_dir(cache.path().join("models--org--m/blobs")).unwrap().count(), 0);
    assert!(!cache.path().join("models--org--m/refs").exists());
    server.fault("GET storage", Fault::TooLong);
    let error = fetch(&server, cache.path()).await.unwrap_err().to_string();
    assert!(error.contains("offers 1048584 bytes, not 1048576"), "{error}");
}

#[tokio::test]
async fn a_damaged_file_in_the_cache_is_replaced() {
    let (server, cache, content) = hub_with_model().await;
    fetch(&server, cache.path()).await.unwrap();
    for damage in [bytes(3, MEBIBYTE), bytes(1, 1000)] {
        fs_err::write(blob(cache.path(), &content), damage).unwrap();
        let file = fetch(&server, cache.path()).await.unwrap();
        assert_eq!(fs_err::read(file.path).unwrap(), content);
    }
}

#[tokio::test]
async fn a_stalled_server_ends_in_an_error() {
    let (server, cache, _) = hub_with_model().await;
    for _ in 0..3 {
        server.fault("GET storage", Fault::Stall(0));
    }
    let began = Instant::now();
    let error = fetch(&server, cache.path()).await.unwrap_err();
    assert!(matches!(error, FetchError::Network { .. }), "{error}");
    assert!(began.elapsed() < Duration::from_secs(5));
}

#[tokio::test]
async fn concurrent_fetches_download_once() {
    let (server, cache, content) = hub_with_model().await;
    server.fault("GET storage", Fault::Cut(400_000));
    let results = futures::future::join_all((0..4).map(|_| fetch(&server, cache.path()))).await;
    for file in results {
        assert_eq!(fs_err::read(file.unwrap().path).unwrap(), content);
    }
    assert_eq!(server.gets("storage").len(), 2, "one download, cut once: {:?}", server.seen());
}

#[tokio::test]
async fn progress_reaches_the_end() {
    let (server, cache, content) = hub_with_model().await;
    let events = std::sync::Mutex::new(Vec::new());
    let note = |event: Event<'_>| match event {
        Event::Started { done, total, .. } => events.lock().unwrap().push(("started", done, total)),
        Event::Advanced { done, total, .. } => events.lock().unwrap().push(("advanced", done, total)),
        Event::Finished { bytes, .. } => events.lock().unwrap().push(("finished", bytes, None)),
        _ => {}
    };
    let hub = server.hub(cache.path());
    hub.file(&Repo::model("org/m").unwrap(), &Revision::default(), &gguf(), &note).await.unwrap();
    let events = events.into_inner().unwrap();
    let total = content.len() as u64;
    assert_eq!(events.first(), Some(&("started", 0, Some(total))));
    assert_eq!(events.last(), Some(&("finished", total, None)));
    assert!(events.len() >= 3, "{events:?}");
}

/// Runs in a process of its own, which the next test kills.
#[tokio::test]
#[ignore = "the child process of `a_killed_process_loses_only_what_was_in_flight`"]
async fn child_that_is_killed() {
    let (Ok(endpoint), Ok(cache)) = (std::env::var("TEST_ENDPOINT"), std::env::var("TEST_CACHE")) else {
        return;
    };
    let config = evalign_fetch::HubConfig::from_lookup(|name| match name {
        "HF_ENDPOINT" => Some(endpoint.clone()),
        "HF_HUB_CACHE" => Some(cache.clone()),
        _ => None,
    });
    let hub = evalign_fetch::Hub::new(config.unwrap());
    hub.file(&Repo::model("org/m").unwrap(), &Revision::default(), &gguf(), &silent).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_process_loses_only_what_was_in_flight() {
    let (server, cache, content) = hub_with_model().await;
    server.fault("GET storage", Fault::Stall(700_000));
    let mut child = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "downloads::child_that_is_killed", "--ignored"])
        .env("TEST_ENDPOINT", &server.endpoint)
        .env("TEST_CACHE", cache.path())
        .stdout(std::process::Stdio::null())
        .spawn()
        .unwrap();
    let part = blob(cache.path(), &content).with_extension("incomplete");
    let began = Instant::now();
    // It writes in steps, so the last of the 700,000 bytes may still be in its memory.
    while std::fs::metadata(&part).map_or(0, |meta| meta.len()) < 400_000 {
        assert!(began.elapsed() < Duration::from_secs(20), "the child did not get going");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(!blob(cache.path(), &content).exists());
    server.forget();
    let file = fetch(&server, cache.path()).await.unwrap();
    assert_eq!(fs_err::read(file.path).unwrap(), content);
    let range = server.gets("storage")[0].range.clone().unwrap();
    let start: u64 = range.trim_start_matches("bytes=").trim_end_matches('-').parse().unwrap();
    assert!(start >= 400_000, "{range}");
}
