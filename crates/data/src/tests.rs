use std::io::{Read, Write};
use std::path::{Path, PathBuf};

use evalign_core::{Digest, Hint};
use serde_json::{Value, json};

use crate::{
    Column, ColumnEquals, ColumnKind, DataError, DataRoots, Dataset, DatasetSpec, Limits, Row, open,
    unpacked_bytes, write_jsonl, write_parquet,
};

mod damage;
mod large;
mod places;
mod unusual;

fn row(value: Value) -> Row {
    match value {
        Value::Object(row) => row,
        other => panic!("{other} is no row"),
    }
}

fn file_spec(path: &Path) -> DatasetSpec {
    DatasetSpec {
        files: Some(path.display().to_string()),
        split: "test".to_owned(),
        ..DatasetSpec::default()
    }
}

fn offline() -> DataRoots {
    DataRoots { offline: true, ..DataRoots::default() }
}

/// Small limits, so that streaming and caps are met by small files.
fn streaming() -> DataRoots {
    DataRoots { limits: Limits { memory_bytes: 0, ..Limits::default() }, ..offline() }
}

fn open_file(path: &Path) -> Result<Dataset, DataError> {
    open(&offline(), &file_spec(path))
}

fn text_file(name: &str, text: impl AsRef<[u8]>) -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join(name);
    fs_err::write(&path, text).unwrap();
    (dir, path)
}

fn rows_of(dataset: &Dataset) -> Vec<Row> {
    dataset.iter().collect::<Result<_, _>>().unwrap()
}

fn sample_rows(count: usize) -> Vec<Row> {
    (0..count)
        .map(|i| {
            row(json!({"z": format!("text {i} ü"), "a": i, "x": i as f64 / 8.0, "ok": i % 3 == 0, "n": null}))
        })
        .collect()
}

#[test]
fn jsonl_keeps_field_order_and_values() {
    let (_dir, path) =
        text_file("t.jsonl", "{\"b\": [1, {\"y\": 2.5}], \"a\": \"ü\"}\r\n\n{\"b\": null, \"c\": true}");
    let dataset = open_file(&path).unwrap();
    assert_eq!(dataset.rows(), 2);
    assert_eq!(dataset.columns(), ["b", "a"]);
    assert_eq!(Value::Object(dataset.get(0).unwrap()).to_string(), r#"{"b":[1,{"y":2.5}],"a":"ü"}"#);
    assert_eq!(dataset.get(1).unwrap(), row(json!({"b": null, "c": true})));
    assert_eq!(dataset.digest(), &Digest::of(fs_err::read(&path).unwrap()));
    assert!(matches!(dataset.get(2), Err(DataError::OutOfRange { index: 2, rows: 2, .. })));
}

#[test]
fn compressed_jsonl_reads_as_the_plain_one() {
    let dir = tempfile::tempdir().unwrap();
    let plain = dir.path().join("t.jsonl");
    write_jsonl(&plain, &sample_rows(50)).unwrap();
    let bytes = fs_err::read(&plain).unwrap();
    let gz = dir.path().join("t.jsonl.gz");
    let mut encoder =
        flate2::write::GzEncoder::new(fs_err::File::create(&gz).unwrap(), flate2::Compression::fast());
    encoder.write_all(&bytes).unwrap();
    encoder.finish().unwrap();
    let zst = dir.path().join("t.jsonl.zst");
    fs_err::write(&zst, zstd::encode_all(bytes.as_slice(), 1).unwrap()).unwrap();
    for path in [&plain, &gz, &zst] {
        assert_eq!(rows_of(&open_file(path).unwrap()), sample_rows(50), "{}", path.display());
        assert_eq!(rows_of(&open(&streaming(), &file_spec(path)).unwrap()), sample_rows(50));
    }
    assert!(!dir.path().join("t.jsonl.partial").exists());
}

#[test]
fn bad_lines_are_named() {
    let cases: [(&[u8], &str); 4] = [
        (b"{\"a\": 1}\n{\"a\": ", "line 2"),
        (b"{\"a\": 1}\n\n[1]\n", "line 3: expected an object, found a list"),
        (b"{\"a\": 1}\n{\"a\": \"\xff\"}\n", "line 2: not UTF-8 at byte 8"),
        (b"{\"a\": 1}\n{\"a\": 1}\n\xfe\n", "line 3: not UTF-8 at byte 1"),
    ];
    for (text, expected) in cases {
        let (_dir, path) = text_file("bad.jsonl", text);
        let error = open_file(&path).unwrap_err();
        assert!(error.to_string().contains(expected), "{error}");
        assert!(error.to_string().contains("bad.jsonl"), "{error}");
    }
    let (_dir, path) = text_file("bad.jsonl", b"{\"a\": \"\xff\"}\n");
    assert!(open_file(&path).unwrap_err().hint().unwrap().contains("iconv"));
}

#[test]
fn nesting_is_bounded() {
    let deep = format!("{{\"a\": {}{}}}", "[".repeat(5000), "]".repeat(5000));
    let (_dir, path) = text_file("deep.jsonl", deep);
    let error = open_file(&path).unwrap_err().to_string();
    assert!(error.contains("line 1") && error.contains("recursion"), "{error}");
}

#[test]
fn rows_and_fields_are_bounded() {
    let (_dir, path) =
        text_file("long.jsonl", format!("{{\"a\": 1}}\n{{\"a\": \"{}\"}}\n", "x".repeat(4000)));
    let mut roots = offline();
    roots.limits.row_bytes = 1000;
    let error = open(&roots, &file_spec(&path)).unwrap_err().to_string();
    assert!(error.contains("line 2: longer than 1000 bytes"), "{error}");
    let mut roots = offline();
    roots.limits.field_bytes = 1000;
    let error = open(&roots, &file_spec(&path)).unwrap_err().to_string();
    assert!(error.contains("line 2, field `a`: larger than 1000 bytes"), "{error}");
}

#[test]
fn decompression_is_bounded() {
    let bomb = zstd::encode_all(std::io::repeat(b' ').take_bytes(40 << 20).as_slice(), 19).unwrap();
    let (_dir, path) = text_file("bomb.jsonl.zst", bomb);
    let error = open_file(&path).unwrap_err().to_string();
    assert!(error.contains("times as many") || error.contains("longer than"), "{error}");
    let lines = b"{\"a\": 1}\n".repeat(1 << 20);
    let (_dir, path) = text_file("bomb.jsonl.zst", zstd::encode_all(lines.as_slice(), 19).unwrap());
    let of = |most| unpacked_bytes(&path, &Limits { unpacked_bytes: most, ..Limits::default() });
    assert_eq!(of(9 << 20).unwrap(), 9 << 20);
    assert!(matches!(of((9 << 20) - 1), Err(DataError::TooLarge { .. })));
    let mut roots = offline();
    roots.limits.unpacked_bytes = 1 << 20;
    let error = open(&roots, &file_spec(&path)).unwrap_err().to_string();
    assert!(error.contains("at most 1048576 bytes"), "{error}");
    let mut roots = offline();
    roots.limits.ratio_from_bytes = 1 << 16;
    let error = open(&roots, &file_spec(&path)).unwrap_err().to_string();
    assert!(error.contains("at most 1000 times"), "{error}");
}

trait TakeBytes {
    fn take_bytes(self, count: u64) -> Vec<u8>;
}

impl<R: std::io::Read> TakeBytes for R {
    fn take_bytes(self, count: u64) -> Vec<u8> {
        let mut bytes = Vec::new();
        std::io::Read::take(self, count).read_to_end(&mut bytes).unwrap();
        bytes
    }
}

#[test]
fn csv_with_quotes_and_line_ends_inside() {
    let text = "question,answer,score\n\"a, \"\"b\"\"\nc\",7,0.5\nplain,8,1.5\n";
    let (_dir, path) = text_file("t.csv", text);
    let expected = vec![
        row(json!({"question": "a, \"b\"\nc", "answer": "7", "score": "0.5"})),
        row(json!({"question": "plain", "answer": "8", "score": "1.5"})),
    ];
    assert_eq!(rows_of(&open_file(&path).unwrap()), expected);
    assert_eq!(rows_of(&open(&streaming(), &file_spec(&path)).unwrap()), expected);
    let (_dir, path) = text_file("t.csv", b"q\nok\n\xff\n");
    let error = open_file(&path).unwrap_err().to_string();
    assert!(error.contains("line 3: not UTF-8"), "{error}");
}

#[test]
fn parquet_round_trip_in_memory_and_streamed() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("t.parquet");
    let columns = [
        Column::new("z", ColumnKind::Text),
        Column::new("a", ColumnKind::Integer),
        Column::new("x", ColumnKind::Number),
        Column::new("ok", ColumnKind::Boolean),
        Column::new("n", ColumnKind::Json),
    ];
    let rows = sample_rows(20_000);
    write_parquet(&path, &columns, rows.clone()).unwrap();
    let held = open_file(&path).unwrap();
    assert_eq!(held.columns(), ["z", "a", "x", "ok", "n"]);
    assert_eq!(rows_of(&held), rows);
    let streamed = open(&streaming(), &file_spec(&path)).unwrap();
    assert_eq!(rows_of(&streamed), rows);
    assert_eq!(streamed.get(19_999).unwrap(), rows[19_999]);
    assert_eq!(streamed.digest(), held.digest());
}

#[test]
fn values_that_do_not_fit_a_column_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("t.parquet");
    let columns = [Column::new("a", ColumnKind::Integer)];
    let error = write_parquet(&path, &columns, [row(json!({"a": "seven"}))]).unwrap_err();
    assert!(error.to_string().contains("`a`"), "{error}");
    assert!(!path.exists());
}

#[test]
fn damaged_parquet_is_an_error() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("t.parquet");
    write_parquet(&path, &[Column::new("z", ColumnKind::Text)], sample_rows(500)).unwrap();
    let whole = fs_err::read(&path).unwrap();
    let broken = dir.path().join("broken.parquet");
    for keep in [0, 3, 8, whole.len() / 2, whole.len() - 1] {
        fs_err::write(&broken, &whole[..keep]).unwrap();
        let error = open_file(&broken).unwrap_err().to_string();
        assert!(error.contains("broken.parquet"), "{error}");
    }
    // Damage in the footer may still decode; it must not bring the process down.
    let footer = u32::from_le_bytes(whole[whole.len() - 8..whole.len() - 4].try_into().unwrap()) as usize + 8;
    for at in whole.len() - footer..whole.len() {
        let mut bytes = whole.clone();
        bytes[at] ^= 0x55;
        fs_err::write(&broken, &bytes).unwrap();
        let _ = open_file(&broken).map(|d| d.iter().filter_map(Result::ok).count());
    }
}

#[test]
fn data_root_layouts_and_shards() {
    let root = tempfile::tempdir().unwrap();
    let at = |path: &str| {
        let path = root.path().join(path);
        fs_err::create_dir_all(path.parent().unwrap()).unwrap();
        path
    };
    let columns = [Column::new("a", ColumnKind::Integer)];
    let numbers = |range: std::ops::Range<i64>| range.map(|i| row(json!({ "a": i })));
    write_parquet(&at("org/set/main/test-00001-of-00002.parquet"), &columns, numbers(5..7)).unwrap();
    write_parquet(&at("org/set/main/test-00000-of-00002.parquet"), &columns, numbers(0..5)).unwrap();
    write_parquet(&at("org/set/main/train-00000-of-00002.parquet"), &columns, numbers(0..5)).unwrap();
    write_jsonl(&at("org/plain/data/validation.jsonl"), &sample_rows(3)).unwrap();
    let roots = DataRoots { data_root: Some(root.path().to_owned()), ..offline() };
    let spec = |path: &str, config: Option<&str>, split: &str| DatasetSpec {
        path: path.to_owned(),
        config: config.map(str::to_owned),
        split: split.to_owned(),
        ..DatasetSpec::default()
    };
    let sharded = open(&roots, &spec("org/set", Some("main"), "test")).unwrap();
    let values: Vec<_> = rows_of(&sharded).into_iter().map(|r| r["a"].as_i64().unwrap()).collect();
    assert_eq!(values, [0, 1, 2, 3, 4, 5, 6]);
    let joined: Vec<u8> = sharded.files().iter().flat_map(|f| fs_err::read(f).unwrap()).collect();
    assert_eq!(sharded.digest(), &Digest::of(joined));
    assert_eq!(open(&roots, &spec("org/plain", None, "validation")).unwrap().rows(), 3);
    let error = open(&roots, &spec("org/set", Some("main"), "train")).unwrap_err().to_string();
    assert!(error.contains("1 of 2 files"), "{error}");
    let error = open(&roots, &spec("org/none", None, "test")).unwrap_err();
    assert!(error.hint().unwrap().contains("--data-root"), "{error}");
    assert!(matches!(open(&roots, &spec("../set", None, "test")), Err(DataError::BadName(_))));
}

#[cfg(unix)]
#[test]
fn links_out_of_the_root_are_refused() {
    let outside = tempfile::tempdir().unwrap();
    let secret = outside.path().join("test.jsonl");
    write_jsonl(&secret, &sample_rows(1)).unwrap();
    let root = tempfile::tempdir().unwrap();
    fs_err::create_dir_all(root.path().join("org/set/data")).unwrap();
    std::os::unix::fs::symlink(&secret, root.path().join("org/set/data/test.jsonl")).unwrap();
    let roots = DataRoots { data_root: Some(root.path().to_owned()), ..offline() };
    let spec = DatasetSpec { path: "org/set".to_owned(), split: "test".to_owned(), ..DatasetSpec::default() };
    let error = open(&roots, &spec).unwrap_err().to_string();
    assert!(error.contains("lies outside"), "{error}");
}

#[test]
fn include_paths_and_the_hub_cache_are_looked_into() {
    let dir = tempfile::tempdir().unwrap();
    write_jsonl(&dir.path().join("mine.jsonl"), &sample_rows(4)).unwrap();
    let roots = DataRoots { include_paths: vec![dir.path().to_owned()], ..offline() };
    let spec = DatasetSpec {
        files: Some("mi*.jsonl".to_owned()),
        split: "test".to_owned(),
        ..DatasetSpec::default()
    };
    assert_eq!(open(&roots, &spec).unwrap().rows(), 4);

    let repo = dir.path().join("hub/datasets--org--set");
    fs_err::create_dir_all(repo.join("refs")).unwrap();
    fs_err::create_dir_all(repo.join("snapshots/abc/data")).unwrap();
    fs_err::write(repo.join("refs/main"), "abc").unwrap();
    write_jsonl(&repo.join("snapshots/abc/data/test.jsonl"), &sample_rows(2)).unwrap();
    let roots = DataRoots { hub_cache: Some(dir.path().join("hub")), ..offline() };
    let spec = DatasetSpec { path: "org/set".to_owned(), split: "test".to_owned(), ..DatasetSpec::default() };
    assert_eq!(open(&roots, &spec).unwrap().rows(), 2);
}

#[test]
fn filters_select_rows_and_name_missing_columns() {
    let (_dir, path) =
        text_file("t.jsonl", "{\"s\":\"a\",\"i\":0}\n{\"s\":\"b\",\"i\":1}\n{\"s\":\"a\",\"i\":2}\n");
    let filtered = |roots: &DataRoots, column: &str, value: &str| {
        let filter = Some(ColumnEquals { column: column.to_owned(), value: json!(value) });
        open(roots, &DatasetSpec { filter, ..file_spec(&path) })
    };
    for roots in [offline(), streaming()] {
        let dataset = filtered(&roots, "s", "a").unwrap();
        let found: Vec<_> = rows_of(&dataset).into_iter().map(|r| r["i"].clone()).collect();
        assert_eq!(found, [json!(0), json!(2)]);
        assert_eq!(dataset.get(1).unwrap()["i"], json!(2));
        assert!(matches!(filtered(&roots, "s", "c"), Err(DataError::Empty { .. })));
        let error = filtered(&roots, "subject", "a").unwrap_err();
        assert_eq!(error.hint().unwrap(), "its columns are s, i");
    }
}

#[test]
fn empty_files_are_refused() {
    for (name, text) in [("t.jsonl", ""), ("t.jsonl", "\n\n"), ("t.csv", "a,b\n"), ("t.csv", "")] {
        let (_dir, path) = text_file(name, text);
        assert!(matches!(open_file(&path), Err(DataError::Empty { .. })), "{name} {text:?}");
    }
    let (_dir, path) = text_file("t.xlsx", "");
    assert!(open_file(&path).unwrap_err().to_string().contains(".xlsx"));
}

#[test]
fn published_datasets_read_as_published() {
    let Some(shared) = evalign_testkit::shared("published_datasets_read_as_published") else { return };
    let roots = DataRoots { data_root: Some(shared.join("data")), ..offline() };
    let spec = |path: &str, config: Option<&str>, split: &str| DatasetSpec {
        path: path.to_owned(),
        config: config.map(str::to_owned),
        split: split.to_owned(),
        ..DatasetSpec::default()
    };
    let gsm8k = open(&roots, &spec("openai/gsm8k", Some("main"), "test")).unwrap();
    assert_eq!(
        (gsm8k.rows(), gsm8k.columns()),
        (1319, ["question".to_owned(), "answer".to_owned()].as_slice())
    );
    let anatomy = DatasetSpec {
        filter: Some(ColumnEquals { column: "subject".to_owned(), value: json!("anatomy") }),
        ..spec("cais/mmlu", Some("all"), "test")
    };
    let mmlu = open(&roots, &anatomy).unwrap();
    assert_eq!(mmlu.rows(), 135);
    let first = mmlu.get(0).unwrap();
    assert_eq!(first["answer"], json!(0));
    assert_eq!(first["choices"].as_array().unwrap().len(), 4);
    assert_eq!(open(&roots, &spec("cais/mmlu", Some("all"), "test")).unwrap().rows(), 14_042);
    assert_eq!(open(&roots, &spec("Rowan/hellaswag", None, "validation")).unwrap().rows(), 10_042);
}
