use std::path::Path;

use evalign_core::{Digest, Hint};
use evalign_fetch::{FetchError, Home, Hub, ModelState, Models, PullOptions, PulledModel, Source, silent};

use crate::server::{COMMIT, Fault, TestHub, bytes};

fn models(server: &TestHub, dir: &Path) -> Models {
    Models::new(Home::at(dir.join("home")), server.hub(dir.join("hub")), false).with_built_ins(&[])
}

fn offline_models(server: &TestHub, dir: &Path) -> Models {
    let mut config = server.config(dir.join("hub"));
    config.offline = true;
    Models::new(Home::at(dir.join("home")), Hub::new(config), false).with_built_ins(&[])
}

async fn pull(models: &Models, name: &str) -> Result<PulledModel, FetchError> {
    models.pull(&models.reference(name)?, &PullOptions::default(), &silent).await
}

async fn sharded() -> (TestHub, tempfile::TempDir) {
    let server = TestHub::start().await;
    let repo = "models/org/big";
    for name in ["config.json", "tokenizer.json", "README.md", "pytorch_model.bin"] {
        server.put(repo, name, format!("content of {name}"), false);
    }
    let index = r#"{"metadata":{},"weight_map":{"a":"model-1-of-2.safetensors","b":"model-2-of-2.safetensors","c":"model-1-of-2.safetensors"}}"#;
    server.put(repo, "model.safetensors.index.json", index, false);
    server.put(repo, "model-1-of-2.safetensors", bytes(1, 60_000), true);
    server.put(repo, "model-2-of-2.safetensors", bytes(2, 50_000), true);
    (server, tempfile::tempdir().unwrap())
}

#[tokio::test]
async fn a_sharded_model_is_pulled_listed_and_resolved() {
    let (server, dir) = sharded().await;
    let pulled = pull(&models(&server, dir.path()), "org/big").await.unwrap();
    let snapshot = dir.path().join("hub/models--org--big/snapshots").join(COMMIT);
    assert_eq!(
        (&pulled.path, pulled.source, pulled.commit.as_deref()),
        (&snapshot, Source::Hub, Some(COMMIT))
    );
    let mut names: Vec<String> =
        fs_err::read_dir(&snapshot).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    let expected = [
        "config.json",
        "model-1-of-2.safetensors",
        "model-2-of-2.safetensors",
        "model.safetensors.index.json",
        "tokenizer.json",
    ];
    assert_eq!(names, expected);
    server.forget();
    assert_eq!(models(&server, dir.path()).resolve("org/big", &silent).await.unwrap(), snapshot);
    assert_eq!(offline_models(&server, dir.path()).resolve("org/big@main", &silent).await.unwrap(), snapshot);
    assert!(server.seen().is_empty(), "a complete cached model needs no network");
    let list = models(&server, dir.path()).list(true).unwrap();
    assert_eq!((list[0].name.as_str(), &list[0].state), ("org/big", &ModelState::Present));
    assert_eq!(list[0].bytes, pulled.bytes);
}

#[tokio::test]
async fn an_interrupted_pull_is_incomplete_everywhere_and_continues() {
    let (server, dir) = sharded().await;
    for _ in 0..3 {
        let shard = Digest::of(bytes(2, 50_000));
        server.fault(&format!("GET storage /blob/{shard}"), Fault::Cut(10_000));
        server.fault(&format!("GET storage /blob/{shard}"), Fault::Status(500, vec![]));
        server.fault(&format!("GET storage /blob/{shard}"), Fault::Status(500, vec![]));
        server.fault(&format!("GET storage /blob/{shard}"), Fault::Status(500, vec![]));
    }
    assert!(pull(&models(&server, dir.path()), "org/big").await.is_err());
    let refs = dir.path().join("hub/models--org--big/refs/main");
    assert!(!refs.exists(), "a branch never points at a part of a model");
    let error = offline_models(&server, dir.path()).resolve("org/big", &silent).await.unwrap_err();
    assert!(matches!(error, FetchError::Offline { .. }), "{error}");
    let list = models(&server, dir.path()).list(false).unwrap();
    assert_eq!(list[0].state, ModelState::Incomplete { reason: "weight files are missing".to_owned() });
    assert!(list[0].path.is_none());
    let server_again = server.clone();
    let path = loop {
        if let Ok(pulled) = pull(&models(&server_again, dir.path()), "org/big").await {
            break pulled.path;
        }
    };
    assert_eq!(fs_err::read(path.join("model-2-of-2.safetensors")).unwrap(), bytes(2, 50_000));
}

#[tokio::test]
async fn gguf_files_are_chosen_by_name() {
    let (server, dir) = (TestHub::start().await, tempfile::tempdir().unwrap());
    for (seed, name) in [(1, "m.Q4.gguf"), (2, "m.Q8.gguf")] {
        server.put("models/org/g", name, bytes(seed, 3000), true);
    }
    let models = models(&server, dir.path());
    let error = pull(&models, "org/g").await.unwrap_err();
    assert!(error.hint().unwrap().contains("m.Q4.gguf, m.Q8.gguf with `--file`"), "{:?}", error.hint());
    let options = PullOptions { file: Some("m.Q8.gguf".to_owned()) };
    let pulled = models.pull(&models.reference("org/g").unwrap(), &options, &silent).await.unwrap();
    assert_eq!(fs_err::read(&pulled.path).unwrap(), bytes(2, 3000));
    assert_eq!(pulled.weights_sha256, Some(Digest::of(bytes(2, 3000))));
    assert_eq!(pulled.name, "org/g/m.Q8.gguf");
    assert_eq!(models.resolve("org/g/m.Q8.gguf", &silent).await.unwrap(), pulled.path);
    // The only one that is there needs no name.
    assert_eq!(models.resolve("org/g", &silent).await.unwrap(), pulled.path);
    let other = models.resolve("org/g/m.Q4.gguf", &silent).await.unwrap();
    assert_eq!(fs_err::read(other).unwrap(), bytes(1, 3000));
    let names: Vec<String> = models.list(false).unwrap().into_iter().map(|entry| entry.name).collect();
    assert_eq!(names, ["org/g/m.Q4.gguf", "org/g/m.Q8.gguf"]);
    let options = PullOptions { file: Some("../m.gguf".to_owned()) };
    assert!(models.pull(&models.reference("org/g").unwrap(), &options, &silent).await.is_err());
}

#[tokio::test]
async fn a_branch_that_moved_is_pulled_beside_the_old_one() {
    let (server, dir) = (TestHub::start().await, tempfile::tempdir().unwrap());
    server.put("models/org/g", "m.gguf", bytes(1, 3000), true);
    let models = models(&server, dir.path());
    let old = pull(&models, "org/g").await.unwrap();
    server.put("models/org/g", "m.gguf", bytes(2, 3000), true);
    server.set_commit("fedcba9876543210fedcba9876543210fedcba98");
    // Resolving asks nobody; pulling asks the hub.
    assert_eq!(models.resolve("org/g", &silent).await.unwrap(), old.path);
    let new = pull(&models, "org/g").await.unwrap();
    assert_ne!(new.path, old.path);
    assert_eq!(models.resolve("org/g", &silent).await.unwrap(), new.path);
    assert_eq!(models.resolve(&format!("org/g@{COMMIT}"), &silent).await.unwrap(), old.path);
    let names: Vec<String> = models.list(true).unwrap().into_iter().map(|entry| entry.name).collect();
    assert_eq!(names, [format!("org/g@{COMMIT}"), "org/g".to_owned()]);
}

#[tokio::test]
async fn damage_in_the_cache_is_found_on_request() {
    let (server, dir) = (TestHub::start().await, tempfile::tempdir().unwrap());
    server.put("models/org/g", "m.gguf", bytes(1, 3000), true);
    let models = models(&server, dir.path());
    let path = pull(&models, "org/g").await.unwrap().path;
    fs_err::write(path.canonicalize().unwrap(), bytes(5, 3000)).unwrap();
    assert_eq!(models.list(false).unwrap()[0].state, ModelState::Present);
    let ModelState::Corrupt { file, reason } = models.list(true).unwrap().remove(0).state else { panic!() };
    assert!(file.ends_with("m.gguf") && reason.contains("sha256"), "{reason}");
    fs_err::remove_file(path.canonicalize().unwrap()).unwrap();
    let state = models.list(false).unwrap().remove(0).state;
    assert_eq!(state, ModelState::Incomplete { reason: "m.gguf is missing".to_owned() });
}

#[cfg(unix)]
#[tokio::test]
async fn what_python_left_is_used() {
    let (server, dir) = (TestHub::start().await, tempfile::tempdir().unwrap());
    let repo = dir.path().join("hub/models--py--left");
    let snapshot = repo.join("snapshots").join(COMMIT);
    fs_err::create_dir_all(&snapshot).unwrap();
    fs_err::create_dir_all(repo.join("refs")).unwrap();
    fs_err::create_dir_all(repo.join("blobs")).unwrap();
    fs_err::write(repo.join("refs/main"), COMMIT).unwrap();
    for name in ["config.json", "model.safetensors"] {
        fs_err::write(repo.join("blobs").join(name), name).unwrap();
        std::os::unix::fs::symlink(Path::new("../../blobs").join(name), snapshot.join(name)).unwrap();
    }
    let models = offline_models(&server, dir.path());
    assert_eq!(models.resolve("py/left", &silent).await.unwrap(), snapshot);
    let error = models.resolve("py/other", &silent).await.unwrap_err().to_string();
    assert!(error.contains("`py/other`") && error.contains("HF_HUB_OFFLINE"), "{error}");
}

#[tokio::test]
async fn names_that_mean_nothing_get_help() {
    let (server, dir) = (TestHub::start().await, tempfile::tempdir().unwrap());
    let models = Models::new(Home::at(dir.path()), server.hub(dir.path().join("hub")), false);
    let error = models.resolve("smolm2-135m-instruct", &silent).await.unwrap_err();
    assert!(error.hint().unwrap().contains("`smollm2-135m-instruct`"), "{error} {:?}", error.hint());
    let file = dir.path().join("model-Q4.gguf");
    fs_err::write(&file, "x").unwrap();
    assert_eq!(models.resolve(file.to_str().unwrap(), &silent).await.unwrap(), file);
    let typo = dir.path().join("modle-Q4.gguf");
    let error = models.resolve(typo.to_str().unwrap(), &silent).await.unwrap_err();
    assert!(error.hint().unwrap().contains("model-Q4.gguf"), "{error}");
    for bad in ["a/../b", "org/m@../x", "org/m/../../x.gguf"] {
        assert!(matches!(models.resolve(bad, &silent).await, Err(FetchError::Invalid { .. })), "{bad}");
    }
    assert!(server.seen().is_empty());
}

#[tokio::test]
async fn promise_33_a_repository_with_only_pickles_is_refused() {
    let (server, dir) = (TestHub::start().await, tempfile::tempdir().unwrap());
    server.put("models/org/old", "config.json", "{}", false);
    server.put("models/org/old", "pytorch_model.bin", bytes(1, 100), true);
    let error = pull(&models(&server, dir.path()), "org/old").await.unwrap_err().to_string();
    assert!(error.contains("`org/old`") && error.contains("neither safetensors"), "{error}");
    assert!(server.gets("storage").is_empty());
}
