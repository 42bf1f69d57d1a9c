//! The cache is shared with Python's `huggingface_hub`: each side must find what the other left.

use std::path::Path;
use std::process::Stdio;

use evalign_fetch::{Home, Hub, Models, PullOptions, silent};

use crate::server::{TOKEN, TestHub, bytes};

/// A Python with `huggingface_hub`, named by `EVALIGN_TEST_PYTHON`.
async fn run_python(code: &str, server: &TestHub, cache: &Path) -> String {
    let python = std::env::var("EVALIGN_TEST_PYTHON").unwrap();
    let output = tokio::process::Command::new(python)
        .args(["-c", code])
        .env("HF_ENDPOINT", &server.endpoint)
        .env("HF_HUB_CACHE", cache)
        .env("HF_TOKEN", TOKEN)
        .env("HF_HUB_DISABLE_XET", "1")
        .stderr(Stdio::piped())
        .output()
        .await
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn both_sides_find_what_the_other_left() {
    if std::env::var("EVALIGN_TEST_PYTHON").is_err() {
        println!("skipped: EVALIGN_TEST_PYTHON (a python with huggingface_hub) is not set");
        return;
    }
    let server = TestHub::start().await;
    server.put("models/org/m", "config.json", "{}", false);
    server.put("models/org/m", "sub/extra.txt", "x", false);
    server.put("models/org/m", "model.safetensors", bytes(1, 100_000), true);
    let (ours, theirs) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());

    let download = "from huggingface_hub import hf_hub_download as d\n\
        for name in ['config.json', 'model.safetensors']: path = d('org/m', name)\n\
        import os; print(os.path.dirname(path))";
    let path = run_python(download, &server, theirs.path()).await;
    server.forget();
    let mut config = server.config(theirs.path());
    config.offline = true;
    let models = Models::new(Home::at(ours.path().join("home")), Hub::new(config), false);
    assert_eq!(models.resolve("org/m", &silent).await.unwrap().to_str(), Some(path.as_str()));
    let online = Models::new(Home::at(ours.path().join("home")), server.hub(theirs.path()), false);
    let reference = online.reference("org/m").unwrap();
    online.pull(&reference, &PullOptions::default(), &silent).await.unwrap();
    assert!(server.gets("storage").is_empty(), "python's blobs are recognised: {:?}", server.seen());

    let models = Models::new(Home::at(ours.path().join("home")), server.hub(ours.path().join("hub")), false);
    let pulled = models.pull(&reference, &PullOptions::default(), &silent).await.unwrap();
    let find = "from huggingface_hub import hf_hub_download as d; print(d('org/m', 'model.safetensors', local_files_only=True))";
    let found = run_python(find, &server, &ours.path().join("hub")).await;
    assert_eq!(Path::new(&found), pulled.path.join("model.safetensors"));
    let scan = "from huggingface_hub import scan_cache_dir as s; i = s(); print(len(i.repos), i.size_on_disk, len(i.warnings))";
    assert_eq!(run_python(scan, &server, &ours.path().join("hub")).await, "1 100002 0");
}
