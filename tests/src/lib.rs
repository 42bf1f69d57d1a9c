//! What tests of several crates share: where the real model and the reference data are, how a test says
//! that it was skipped, for end-to-end tests the real binary in a home of its own, a server that
//! speaks the OpenAI API as told, and a model of made-up weights for tests of everything around a model.
//!
//! The real model is never a stand-in: `EVALIGN_TEST_MODEL` names its file, and otherwise it is pulled
//! once, as a user would with `evalign models pull`, into a cache that outlives the checkout. Where
//! `EVALIGN_REQUIRE_MODEL` is set (CI sets it), a missing model fails the test instead of skipping it.

mod binary;
pub mod openai_server;
mod sandbox;
mod tiny_model;

use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use evalign_fetch::{Home, Hub, Models, silent};

pub use binary::binary;
pub use sandbox::{Ran, Sandbox, Script};
pub use tiny_model::write_tiny_model;

/// The alias of the model the product ships with.
pub const MODEL_ALIAS: &str = "smollm2-135m-instruct";

/// The alias of the default embedding model.
pub const EMBEDDER_ALIAS: &str = "all-minilm-l6-v2";

/// Says on stderr that a test did not run, and why. A skipped test must be visible.
#[expect(clippy::print_stderr, reason = "the only way a test can say that it was skipped")]
pub fn skipped(test: &str, why: &str) {
    eprintln!("skipped: {test}: {why}");
}

/// SmolLM2-135M-Instruct as a GGUF file, or `None` (said on stderr) where it cannot be had.
///
/// # Panics
/// Where `EVALIGN_REQUIRE_MODEL` is set and the model cannot be had.
#[must_use]
pub fn real_model(test: &str) -> Option<&'static Path> {
    static MODEL: OnceLock<Result<PathBuf, String>> = OnceLock::new();
    given(test, MODEL.get_or_init(|| find("EVALIGN_TEST_MODEL", MODEL_ALIAS)))
}

/// The directory of all-MiniLM-L6-v2, found and skipped as [`real_model`] is; `EVALIGN_TEST_EMBEDDER` names it.
///
/// # Panics
/// As [`real_model`].
#[must_use]
pub fn embedding_model(test: &str) -> Option<&'static Path> {
    static MODEL: OnceLock<Result<PathBuf, String>> = OnceLock::new();
    given(test, MODEL.get_or_init(|| find("EVALIGN_TEST_EMBEDDER", EMBEDDER_ALIAS)))
}

/// ONNX Runtime's shared library; `ORT_DYLIB_PATH` names it. Nothing that ships needs it, so without it a test is only
/// skipped.
#[must_use]
pub fn onnx_runtime(test: &str) -> Option<&'static Path> {
    static LIBRARY: OnceLock<Result<PathBuf, String>> = OnceLock::new();
    match LIBRARY.get_or_init(|| find("ORT_DYLIB_PATH", "onnxruntime")) {
        Ok(path) => Some(path),
        Err(why) => {
            skipped(test, why);
            None
        }
    }
}

fn given(test: &str, found: &'static Result<PathBuf, String>) -> Option<&'static Path> {
    match found {
        Ok(path) => Some(path),
        Err(why) => {
            assert!(std::env::var_os("EVALIGN_REQUIRE_MODEL").is_none(), "no real model for {test}: {why}");
            skipped(test, why);
            None
        }
    }
}

fn find(variable: &str, alias: &str) -> Result<PathBuf, String> {
    if let Some(path) = std::env::var_os(variable).map(PathBuf::from) {
        return if path.exists() { Ok(path) } else { Err(format!("no file {}", path.display())) };
    }
    let models = Hub::from_env().map(|hub| Models::new(Home::at(cache_dir()), hub, false));
    let models = models.map_err(|error| error.to_string())?;
    evalign_fetch::block_on(models.resolve(alias, &silent)).map_err(|error| error.to_string())
}

/// Where pulled models are kept between test runs.
#[must_use]
pub fn cache_dir() -> PathBuf {
    let cache = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from);
    let cache = cache.or_else(|| std::env::var_os("HOME").map(|home| Path::new(&home).join(".cache")));
    cache.unwrap_or_else(std::env::temp_dir).join("evalign-tests")
}

/// The folder with reference data (`data/`) and the reference tools' output (`golden/`), or `None`, said
/// on stderr, where `EVALIGN_SHARED` does not name it.
#[must_use]
pub fn shared(test: &str) -> Option<PathBuf> {
    let found =
        std::env::var_os("EVALIGN_SHARED").map(PathBuf::from).filter(|path| path.join("golden").is_dir());
    if found.is_none() {
        skipped(test, "EVALIGN_SHARED does not name a folder with golden/ and data/");
    }
    found
}
