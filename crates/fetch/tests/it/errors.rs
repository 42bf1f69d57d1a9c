use std::time::{Duration, Instant};

use evalign_core::Hint;
use evalign_fetch::{FetchError, Hub, HubFile, Repo, RepoPath, Revision, silent};

use crate::server::{Fault, TestHub, bytes};

async fn server() -> (TestHub, tempfile::TempDir) {
    let server = TestHub::start().await;
    server.put("models/org/m", "config.json", "{}", false);
    server.put("models/org/m", "tokenizer.json", bytes(2, 5000), false);
    (server, tempfile::tempdir().unwrap())
}

async fn get(hub: &Hub, file: &str) -> Result<HubFile, FetchError> {
    hub.file(&Repo::model("org/m").unwrap(), &Revision::default(), &RepoPath::new(file).unwrap(), &silent)
        .await
}

#[tokio::test]
async fn gated_and_unauthorised_say_what_to_do() {
    let (server, cache) = server().await;
    let detail = ("x-error-message", "Access to model org/m is restricted".to_owned());
    for (status, token, expected) in [(401, false, "set HF_TOKEN"), (403, true, "the token in use")] {
        server.fault("HEAD hub", Fault::Status(status, vec![detail.clone()]));
        let mut config = server.config(cache.path());
        config.token = config.token.filter(|_| token);
        let error = get(&Hub::new(config), "config.json").await.unwrap_err();
        assert!(
            error.to_string().contains("config.json") && error.to_string().contains("restricted"),
            "{error}"
        );
        assert!(error.hint().unwrap().contains(expected), "{:?}", error.hint());
    }
    assert_eq!(server.seen().len(), 2, "a refusal is not retried");
}

#[tokio::test]
async fn a_missing_file_names_the_nearest() {
    let (server, cache) = server().await;
    let error = get(&server.hub(cache.path()), "tokeniser.json").await.unwrap_err();
    assert!(error.to_string().contains("`tokeniser.json` of `org/m@main`"), "{error}");
    assert_eq!(error.hint().as_deref(), Some("did you mean `tokenizer.json`?"));
    let error = server
        .hub(cache.path())
        .info(&Repo::model("org/n").unwrap(), &Revision::default())
        .await
        .unwrap_err();
    assert!(error.to_string().contains("the repository of `org/n@main` does not exist"), "{error}");
}

#[tokio::test]
async fn retry_after_is_waited_for_in_both_forms() {
    let (server, cache) = server().await;
    server.fault("HEAD hub", Fault::Status(429, vec![("retry-after", "1".to_owned())]));
    let began = Instant::now();
    get(&server.hub(cache.path()), "config.json").await.unwrap();
    assert!(began.elapsed() >= Duration::from_secs(1));

    // A date has whole seconds, so two seconds ahead is at least one second away.
    let at = (std::time::SystemTime::now() + Duration::from_secs(2))
        .duration_since(std::time::UNIX_EPOCH)
        .unwrap();
    let date = http_date(at.as_secs());
    server.fault("GET hub", Fault::Status(503, vec![("retry-after", date)]));
    let began = Instant::now();
    get(&server.hub(cache.path()), "tokenizer.json").await.unwrap();
    assert!(began.elapsed() >= Duration::from_millis(900), "{:?}", began.elapsed());
}

/// `Sun, 06 Nov 1994 08:49:37 GMT`.
fn http_date(unix_seconds: u64) -> String {
    let (days, second) = ((unix_seconds / 86_400) as i64, unix_seconds % 86_400);
    let weekday = ["Thu", "Fri", "Sat", "Sun", "Mon", "Tue", "Wed"][(days % 7) as usize];
    // Civil date from days (H. Hinnant, "chrono-compatible low-level date algorithms").
    let z = days + 719_468;
    let (era, day_of_era) = (z / 146_097, z % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted + 2) / 5 + 1;
    let month = (shifted + 2) % 12;
    let year = year_of_era + era * 400 + i64::from(month < 2);
    let month =
        ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"][month as usize];
    let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
    format!("{weekday}, {day:02} {month} {year} {hour:02}:{minute:02}:{second:02} GMT")
}

#[tokio::test]
async fn tries_are_bounded_and_counted() {
    let (server, cache) = server().await;
    for _ in 0..2 {
        server.fault("HEAD hub", Fault::Status(500, vec![]));
    }
    get(&server.hub(cache.path()), "config.json").await.unwrap();
    server.forget();
    for _ in 0..5 {
        server.fault("HEAD hub", Fault::Status(502, vec![]));
    }
    let error = get(&server.hub(cache.path()), "tokenizer.json").await.unwrap_err().to_string();
    assert!(error.contains("HTTP 502") && error.contains("(tried 3 times)"), "{error}");
    assert_eq!(server.seen().len(), 3);
}

#[tokio::test]
async fn a_small_file_that_is_cut_is_continued_or_refused() {
    let (server, cache) = server().await;
    server.fault("GET hub", Fault::Cut(2000));
    let file = get(&server.hub(cache.path()), "tokenizer.json").await.unwrap();
    assert_eq!(fs_err::read(file.path).unwrap(), bytes(2, 5000));
    assert_eq!(server.gets("hub")[1].range.as_deref(), Some("bytes=2000-"));
}

#[tokio::test]
async fn offline_asks_nothing_and_serves_what_is_cached() {
    let (server, cache) = server().await;
    get(&server.hub(cache.path()), "config.json").await.unwrap();
    server.forget();
    let mut config = server.config(cache.path());
    config.offline = true;
    let hub = Hub::new(config);
    let error = get(&hub, "tokenizer.json").await.unwrap_err();
    assert!(matches!(error, FetchError::Offline { switch: "HF_HUB_OFFLINE", .. }), "{error}");
    let (repo, main) = (Repo::model("org/m").unwrap(), Revision::default());
    assert!(hub.cached_file(&repo, &main, &RepoPath::new("config.json").unwrap()).unwrap().is_some());
    assert!(hub.cached_file(&repo, &main, &RepoPath::new("tokenizer.json").unwrap()).unwrap().is_none());
    assert!(server.seen().is_empty());
}

#[tokio::test]
async fn names_from_the_server_cannot_leave_the_cache() {
    let (server, cache) = server().await;
    for (name, value) in [("x-repo-commit", "../../x"), ("etag", "\"../../../x\"")] {
        let mut headers = vec![("x-repo-commit", "abc".to_owned()), ("etag", "\"abc\"".to_owned())];
        headers.retain(|(n, _)| *n != name);
        headers.push((name, value.to_owned()));
        server.fault("HEAD hub", Fault::Status(200, headers));
        let error = get(&server.hub(cache.path()), "config.json").await.unwrap_err().to_string();
        assert!(error.contains("impossible ETag or commit"), "{error}");
    }
    server.fault("HEAD hub", Fault::Status(200, vec![]));
    let error = get(&server.hub(cache.path()), "config.json").await.unwrap_err().to_string();
    assert!(error.contains("does not answer like a hub"), "{error}");
    assert!(!cache.path().join("models--org--m").exists());
}

#[cfg(unix)]
#[tokio::test]
async fn planted_links_are_not_followed_out_of_the_cache() {
    let (server, cache) = server().await;
    let file = get(&server.hub(cache.path()), "config.json").await.unwrap();
    let outside = tempfile::NamedTempFile::new().unwrap();
    fs_err::remove_file(&file.path).unwrap();
    std::os::unix::fs::symlink(outside.path(), &file.path).unwrap();
    let path = RepoPath::new("config.json").unwrap();
    let found =
        server.hub(cache.path()).cached_file(&Repo::model("org/m").unwrap(), &Revision::default(), &path);
    assert!(found.unwrap_err().to_string().contains("leads out of the hub cache"));
}

#[tokio::test]
async fn bad_redirects_are_refused() {
    let (server, cache) = server().await;
    for (location, reason) in [("file:///etc/passwd", "scheme `file`"), ("", "without an address")] {
        server.fault("HEAD hub", Fault::Status(302, vec![("location", location.to_owned())]));
        let error = get(&server.hub(cache.path()), "config.json").await.unwrap_err().to_string();
        assert!(error.contains(reason), "{error}");
    }
    for _ in 0..20 {
        server.fault("HEAD hub", Fault::Status(302, vec![("location", "/x".to_owned())]));
    }
    let error = get(&server.hub(cache.path()), "config.json").await.unwrap_err().to_string();
    assert!(error.contains("too many redirects"), "{error}");
}

#[tokio::test]
async fn nobody_listening_is_said_so() {
    let (server, cache) = server().await;
    let mut config = server.config(cache.path());
    config.endpoint = "http://127.0.0.1:9".parse().unwrap();
    let error = get(&Hub::new(config), "config.json").await.unwrap_err();
    assert!(error.to_string().to_lowercase().contains("connect"), "{error}");
    assert!(error.hint().unwrap().contains("HF_ENDPOINT"));
}

#[tokio::test]
async fn data_set_files_come_from_their_routes_and_then_from_the_cache() {
    let (server, cache) = server().await;
    server.put("datasets/openai/gsm8k", "main/test-00000-of-00001.parquet", bytes(4, 9000), true);
    let hub = server.hub(cache.path());
    let file = "main/test-00000-of-00001.parquet";
    let path = hub.dataset_file("openai/gsm8k", None, file, &silent).await.unwrap();
    assert!(path.ends_with(file) && path.starts_with(cache.path().join("datasets--openai--gsm8k/snapshots")));
    assert_eq!(fs_err::read(&path).unwrap(), bytes(4, 9000));
    assert_eq!(hub.dataset_files("openai/gsm8k", None).await.unwrap(), [file]);
    server.forget();
    assert_eq!(hub.dataset_file("openai/gsm8k", None, file, &silent).await.unwrap(), path);
    assert!(server.seen().is_empty());
    let mut config = server.config(cache.path());
    config.offline = true;
    assert_eq!(Hub::new(config).dataset_files("openai/gsm8k", None).await.unwrap(), [file]);
    assert!(hub.dataset_file("openai/gsm8k", None, "../../x", &silent).await.is_err());
}
