use std::io::Write;
use std::sync::{Arc, Mutex};

use evalign_core::Hint;
use evalign_fetch::{Home, Hub, Models, Pip, PullOptions, Repo, RepoPath, Revision, silent};

use crate::server::{Fault, TOKEN, TestHub, bytes};

#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Write for Log {
    fn write(&mut self, buffer: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(buffer);
        Ok(buffer.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// Every way to fail, with a server that repeats the token it was sent: neither it nor a download
/// signature may show in any error, hint, note or log line, TRACE included.
#[tokio::test]
async fn the_token_never_shows() {
    let log = Log::default();
    let writer = log.clone();
    let subscriber = tracing_subscriber::fmt()
        .with_max_level(tracing_subscriber::filter::LevelFilter::TRACE)
        .with_writer(move || writer.clone())
        .finish();
    let _guard = tracing::subscriber::set_default(subscriber);

    let server = TestHub::start().await;
    server.put("models/org/m", "m.gguf", bytes(1, 200_000), true);
    let cache = tempfile::tempdir().unwrap();
    let hub = server.hub(cache.path());
    let (repo, main, file) =
        (Repo::model("org/m").unwrap(), Revision::default(), RepoPath::new("m.gguf").unwrap());
    let echo = || vec![("x-error-message", format!("bad credentials: Bearer {TOKEN}"))];
    let to_token = vec![("location", format!("http://{TOKEN}:{TOKEN}@127.0.0.1:9/{TOKEN}?t={TOKEN}"))];
    let mut shown = format!("{hub:?}");
    let faults = [401, 403, 404, 418, 429, 500].map(|status| ("HEAD hub", Fault::Status(status, echo())));
    let more = [
        ("HEAD hub", Fault::Status(302, to_token)),
        ("GET storage", Fault::Status(403, echo())),
        ("GET storage", Fault::Status(400, echo())),
        ("GET storage", Fault::Garble),
        ("GET storage", Fault::TooLong),
        ("GET storage", Fault::Cut(0)),
    ];
    for (on, fault) in faults.into_iter().chain(more) {
        for _ in 0..3 {
            server.fault(on, fault.clone());
        }
        if let Err(error) = hub.file(&repo, &main, &file, &silent).await {
            shown.push_str(&format!("{error}\n{error:?}\n{:?}\n", error.hint()));
        }
    }
    let notes = Mutex::new(String::new());
    let models = Models::new(Home::at(cache.path().join("home")), server.hub(cache.path()), false)
        .with_pip(Pip::with_commands(vec![vec!["no-such-program".to_owned()]]));
    server.fault("HEAD hub", Fault::Status(401, echo()));
    let built_in = models.reference("smollm2-135m-instruct").unwrap();
    let error = models
        .pull(&built_in, &PullOptions::default(), &|event| {
            notes.lock().unwrap().push_str(&format!("{event:?}"));
        })
        .await
        .unwrap_err();
    shown.push_str(&format!("{error}{error:?}{:?}{}", error.hint(), notes.lock().unwrap()));

    assert!(shown.contains("bad credentials: Bearer ***"), "{shown}");
    let logged = String::from_utf8_lossy(&log.0.lock().unwrap()).into_owned();
    assert!(!logged.is_empty());
    for (place, text) in [("errors", &shown), ("log", &logged)] {
        assert!(!text.contains(TOKEN), "the token shows in the {place}");
        assert!(!text.contains("secretsignature"), "a download signature shows in the {place}");
    }
}

#[tokio::test]
async fn a_token_that_cannot_be_sent_is_not_printed() {
    let server = TestHub::start().await;
    let cache = tempfile::tempdir().unwrap();
    let mut config = server.config(cache.path());
    config.token = evalign_fetch::Secret::new("canary\u{7}with\nbreaks");
    let error =
        Hub::new(config).info(&Repo::model("org/m").unwrap(), &Revision::default()).await.unwrap_err();
    assert!(!format!("{error}{error:?}").contains("canary"), "{error:?}");
    assert!(error.to_string().contains("HF_TOKEN"));
}
