use std::path::PathBuf;
use std::sync::OnceLock;

/// The `evalign` binary under test: `EVALIGN_BIN`, or what Cargo built beside the running test.
///
/// # Panics
/// When there is none: no test can say anything then.
#[must_use]
pub fn binary() -> &'static PathBuf {
    static BINARY: OnceLock<PathBuf> = OnceLock::new();
    BINARY.get_or_init(|| {
        let path = std::env::var_os("EVALIGN_BIN").map_or_else(beside_the_test, PathBuf::from);
        assert!(
            path.is_file(),
            "no binary at {}: tests that need it belong to the `evalign` package",
            path.display()
        );
        path
    })
}

/// Tests run from `target/PROFILE/deps`, the binary lies one directory up.
fn beside_the_test() -> PathBuf {
    let test = std::env::current_exe().unwrap_or_default();
    let profile = test.ancestors().nth(2).map(PathBuf::from).unwrap_or_default();
    profile.join(format!("evalign{}", std::env::consts::EXE_SUFFIX))
}
