//! What is computed on one device has to be computed on all of them.

use std::path::Path;

use walkdir::WalkDir;

/// candle's ways to add an operation of one's own. Each has a default for CUDA and Metal that fails when it is
/// called, which a machine without such a device never sees.
const CUSTOM: &[&str] =
    &["CustomOp1", "CustomOp2", "CustomOp3", "InplaceOp1", "InplaceOp2", "InplaceOp3", "UgIOp1"];

/// What is missing in the custom operations of this source.
fn without_a_device(source: &str) -> Vec<String> {
    let mut missing = Vec::new();
    for operation in CUSTOM {
        for (start, _) in source.match_indices(&format!("{operation} for ")) {
            let body = source[start..].split("\n}\n").next().unwrap_or_default();
            let name = body.lines().next().unwrap_or_default();
            for path in ["fn cuda_fwd", "fn metal_fwd"] {
                if !body.contains(path) {
                    missing.push(format!("{name} has no `{path}`"));
                }
            }
        }
    }
    missing
}

#[test]
fn every_custom_operation_has_its_path_on_every_device() {
    let crates = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let mut read = 0;
    for entry in WalkDir::new(crates).into_iter().map(Result::unwrap) {
        if entry.path().extension().is_some_and(|extension| extension == "rs") {
            let source = std::fs::read_to_string(entry.path()).unwrap();
            let missing = without_a_device(&source);
            assert!(missing.is_empty(), "{}: {missing:?}", entry.path().display());
            read += 1;
        }
    }
    assert!(read > 300, "only {read} sources");
}

#[test]
fn an_operation_for_the_cpu_alone_is_found() {
    let source = "impl candle_core::CustomOp2 for RotaryBackward {\n    fn cpu_fwd(&self) {}\n}\n";
    assert_eq!(without_a_device(source).len(), 2);
    let whole = source.replace("    fn cpu", "    fn cuda_fwd() {}\n    fn metal_fwd() {}\n    fn cpu");
    assert!(without_a_device(&whole).is_empty());
}
