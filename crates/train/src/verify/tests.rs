use super::*;

/// Every recorded case through the shipped trainer, all updates and numbers.
#[test]
fn every_golden_case_agrees() {
    let Some(shared) = evalign_testkit::shared("TRL traces") else { return };
    let mut cases: Vec<_> = fs_err::read_dir(shared.join("golden/trl/cases")).unwrap().collect();
    cases.sort_by_key(|entry| entry.as_ref().unwrap().file_name());
    assert!(cases.len() >= 7);
    for case in cases {
        let case = case.unwrap().path();
        let work = tempfile::tempdir().unwrap();
        let certificate = verify(&case, work.path(), &LoadOptions::default()).unwrap();
        let failed: Vec<&Check> = certificate.checks.iter().filter(|check| check.failures > 0).collect();
        assert!(certificate.agrees(), "{}: {failed:#?}", certificate.case);
        // Ids, losses, log-probabilities or rewards, gradients, weights, moments and metrics were all there.
        assert!(certificate.checks.len() > 20, "{}: {:#?}", certificate.case, certificate.checks);
    }
}

/// A certificate that cannot fail certifies nothing: a record that was changed is found out.
#[test]
fn a_changed_record_is_found_out() {
    let Some(shared) = evalign_testkit::shared("TRL traces") else { return };
    let work = tempfile::tempdir().unwrap();
    let case = work.path().join("cases/dpo_sigmoid");
    fs_err::create_dir_all(&case).unwrap();
    let golden = shared.join("golden/trl");
    for entry in fs_err::read_dir(golden.join("cases/dpo_sigmoid")).unwrap() {
        let entry = entry.unwrap();
        if entry.metadata().unwrap().is_file() {
            fs_err::copy(entry.path(), case.join(entry.file_name())).unwrap();
        }
    }
    for folder in ["models", "models/tiny-llama", "data"] {
        fs_err::create_dir_all(work.path().join(folder)).unwrap();
        for entry in fs_err::read_dir(golden.join(folder)).unwrap() {
            let entry = entry.unwrap();
            if entry.metadata().unwrap().is_file() {
                fs_err::copy(entry.path(), work.path().join(folder).join(entry.file_name())).unwrap();
            }
        }
    }
    let trace = case.join("trace.json");
    let mut record: Value = serde_json::from_slice(&fs_err::read(&trace).unwrap()).unwrap();
    let loss = record["steps"][4]["micro_batches"][0]["loss"].as_f64().unwrap();
    record["steps"][4]["micro_batches"][0]["loss"] = (loss * 1.0001).into();
    fs_err::write(&trace, record.to_string()).unwrap();
    let output = tempfile::tempdir().unwrap();
    let certificate = verify(&case, output.path(), &LoadOptions::default()).unwrap();
    let failed: Vec<&str> = certificate
        .checks
        .iter()
        .filter(|check| check.failures > 0)
        .map(|check| check.quantity.as_str())
        .collect();
    assert_eq!(failed, ["loss of micro-batches"]);
}
