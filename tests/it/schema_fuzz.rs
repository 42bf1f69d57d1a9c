//! The documented routes of the real server under schemathesis, for a few seconds; `tests/peers/schema_fuzz.py` does it
//! for as long as it is told. Skipped, visibly, where `EVALIGN_TEST_PYTHON` (else `python3`) has no schemathesis.

use std::process::Command;

use evalign_testkit::{binary, skipped};

#[test]
fn promise_22_schemathesis_finds_no_5xx_and_nothing_undocumented() {
    let python = std::env::var("EVALIGN_TEST_PYTHON").unwrap_or_else(|_| "python3".to_owned());
    let has = Command::new(&python).args(["-c", "import schemathesis"]).output();
    if !has.is_ok_and(|output| output.status.success()) {
        return skipped("promise_22_schemathesis_finds_*", "there is no schemathesis");
    }
    let root = concat!(env!("CARGO_MANIFEST_DIR"), "/../..");
    let output = Command::new(python)
        .arg(format!("{root}/tests/peers/schema_fuzz.py"))
        .arg(binary())
        .arg(format!("{root}/docs/openapi.json"))
        .args(["--seconds", "5", "--examples", "2", "--phases", "examples,coverage"])
        .output()
        .unwrap();
    let [told, log] = [&output.stdout, &output.stderr].map(|bytes| String::from_utf8_lossy(bytes));
    assert!(output.status.success(), "{told}\n{log}");
}
