//! Files that do not fit in memory, read in any order.

use super::*;

/// Room for a few blocks.
fn small_memory() -> DataRoots {
    DataRoots { limits: Limits { memory_bytes: 300_000, ..Limits::default() }, ..offline() }
}

/// Enough text for several blocks of every format.
fn rows() -> Vec<Row> {
    (0..40_000)
        .map(|i| row(json!({"q": format!("question {i}, {}", "x".repeat(60)), "a": i.to_string()})))
        .collect()
}

fn written(dir: &Path) -> Vec<PathBuf> {
    let at = |name: &str| dir.join(name);
    write_jsonl(&at("t.jsonl"), &rows()).unwrap();
    let columns = [Column::new("q", ColumnKind::Text), Column::new("a", ColumnKind::Text)];
    write_parquet(&at("t.parquet"), &columns, rows()).unwrap();
    let cells = |row: &Row| format!("\"{}\",{}\n", row["q"].as_str().unwrap(), row["a"].as_str().unwrap());
    let csv = format!("q,a\n{}", rows().iter().map(cells).collect::<String>());
    fs_err::write(at("t.csv"), &csv).unwrap();
    fs_err::write(at("t.csv.zst"), zstd::encode_all(csv.as_bytes(), 1).unwrap()).unwrap();
    ["t.jsonl", "t.parquet", "t.csv", "t.csv.zst"].map(at).to_vec()
}

#[test]
fn rows_come_in_any_order() {
    let dir = tempfile::tempdir().unwrap();
    let expected = rows();
    for path in written(dir.path()) {
        for roots in [offline(), small_memory(), streaming()] {
            let dataset = open(&roots, &file_spec(&path)).unwrap();
            for index in [39_999, 0, 20_000, 20_001, 3, 39_998, 8_191, 8_192, 16_384] {
                assert_eq!(dataset.get(index as u64).unwrap(), expected[index], "{} {index}", path.display());
            }
            assert!(matches!(dataset.get(40_000), Err(DataError::OutOfRange { .. })));
            assert_eq!(rows_of(&dataset), expected, "{}", path.display());
        }
    }
}

/// A tenth of the file in order, from its end: a second of work where each row costs its block once, minutes
/// where each costs all rows before it.
#[test]
fn rows_far_in_cost_as_much_as_the_first() {
    let dir = tempfile::tempdir().unwrap();
    for path in written(dir.path()) {
        let dataset = open(&streaming(), &file_spec(&path)).unwrap();
        let started = std::time::Instant::now();
        for index in 36_000..40_000 {
            dataset.get(index).unwrap();
        }
        assert!(started.elapsed().as_secs() < 20, "{}: {:?}", path.display(), started.elapsed());
    }
}

#[test]
fn a_file_that_changes_meanwhile_is_noticed() {
    let dir = tempfile::tempdir().unwrap();
    for path in written(dir.path()) {
        let dataset = open(&streaming(), &file_spec(&path)).unwrap();
        let bytes = fs_err::read(&path).unwrap();
        fs_err::write(&path, &bytes[..bytes.len() / 2]).unwrap();
        let error = dataset.get(39_000).and(dataset.get(0)).unwrap_err();
        assert!(error.to_string().contains("changed since it was opened"), "{error}");
    }
}
