use evalign_core::{Hint as _, ModelRef};
use evalign_fetch::silent;
use evalign_model::{ErrorKind, LoadOptions, load};

fn error(reference: &str, options: &LoadOptions) -> evalign_model::ModelError {
    let reference: ModelRef = reference.parse().unwrap();
    match load(&reference, options, &silent) {
        Ok(model) => panic!("loaded {:?}", model.identity()),
        Err(error) => error,
    }
}

#[test]
fn what_this_version_cannot_run_is_said() {
    let options = LoadOptions { offline: true, ..LoadOptions::default() };
    let reference = "openai/m+adapter=dir";
    let adapter = error(reference, &options);
    assert_eq!(adapter.kind(), ErrorKind::Unavailable);
    assert!(adapter.to_string().starts_with(reference), "{adapter}");
    assert!(adapter.hint().is_some());
    let memory = LoadOptions { memory_gib: Some(-1.0), ..options };
    assert!(error("local/m.gguf", &memory).to_string().contains("GiB"));
}

#[test]
fn a_missing_model_is_named() {
    let options = LoadOptions { offline: true, ..LoadOptions::default() };
    let message = error("local/./absent.gguf", &options).to_string();
    assert!(message.contains("absent.gguf"), "{message}");
    assert!(error("scripted/absent.json", &options).to_string().contains("absent.json"));
}

#[test]
fn a_scripted_model_is_loaded_by_its_path() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("script.json");
    fs_err::write(&path, "{}").unwrap();
    let reference: ModelRef = format!("scripted/{}", path.display()).parse().unwrap();
    let model = load(&reference, &LoadOptions::default(), &silent).unwrap();
    assert_eq!(model.identity().reference, reference);
}
