//! Whole files that are not written as most are.

use polars::prelude::{
    Column as Cells, DataFrame, DataType, IntoColumn, IntoSeries, NamedFrom, ParquetWriter, Series,
    StructChunked, TimeUnit,
};

use super::*;

/// Writes a column of raw numbers as one of another type.
fn parquet_of(dir: &Path, physical: &Series, kind: &DataType) -> PathBuf {
    let path = dir.join("t.parquet");
    let texts = Series::new("q".into(), vec!["s"; physical.len()]).into_column();
    // The types' numbers are as they are written here: days since 1970, units since 1970.
    let cells: Cells = physical.cast(kind).unwrap().into();
    let mut frame = DataFrame::new(texts.len(), vec![texts, cells]).unwrap();
    ParquetWriter::new(fs_err::File::create(&path).unwrap().into_file()).finish(&mut frame).unwrap();
    path
}

#[test]
fn times_of_every_kind_are_text() {
    let dir = tempfile::tempdir().unwrap();
    let cases = [
        (Series::new("x".into(), vec![i32::MAX]), DataType::Date, "+5881580-07-11"),
        (
            Series::new("x".into(), vec![-(1_i64 << 62)]),
            DataType::Datetime(TimeUnit::Milliseconds, None),
            "-146136543-09-08 08:23:32.096000",
        ),
    ];
    for (numbers, kind, expected) in cases {
        let path = parquet_of(dir.path(), &numbers, &kind);
        for roots in [offline(), streaming()] {
            let dataset = open(&roots, &file_spec(&path)).unwrap();
            assert_eq!(dataset.get(0).unwrap()["x"], json!(expected));
        }
    }
}

/// Columns `q`, `a` and `x`, as pyarrow writes them.
fn written_by_pyarrow(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("src/tests/unusual").join(name)
}

#[test]
fn times_with_a_zone_are_text_wherever_they_stand() {
    for (name, expected) in [
        ("utc.parquet", json!("2020-01-01 00:00:00+00:00")),
        ("offset.parquet", json!("1970-01-01 02:00:00.000001+02:00")),
        ("list_of_berlin.parquet", json!(["2020-01-01 01:00:00+01:00"])),
        ("struct_of_utc.parquet", json!({"t": "2020-01-01 00:00:00+00:00"})),
    ] {
        for roots in [offline(), streaming()] {
            let dataset = open(&roots, &file_spec(&written_by_pyarrow(name))).unwrap();
            assert_eq!(dataset.get(8).unwrap()["x"], expected, "{name}");
        }
    }
}

#[test]
fn columns_that_are_not_read_are_named_only_where_they_are_needed() {
    for (name, kind) in [
        ("decimal.parquet", "decimal"),
        ("decimal256.parquet", "decimal"),
        ("time.parquet", "time of day"),
        ("duration.parquet", "duration"),
        ("fixed_list.parquet", "list of fixed size"),
        ("half.parquet", "float16"),
    ] {
        let path = written_by_pyarrow(name);
        let dataset = open_file(&path).unwrap_or_else(|error| panic!("{name}: {error}"));
        assert_eq!(dataset.get(0).unwrap(), row(json!({"q": "s", "a": "1"})), "{name}");
        let error = dataset.unread_column("x").unwrap().to_string();
        assert!(error.contains(&format!("column `x` has type {kind}, which is not read")), "{error}");
        assert!(dataset.unread_column("q").is_none());
        let filter = Some(ColumnEquals { column: "x".to_owned(), value: json!("1") });
        let error = open(&offline(), &DatasetSpec { filter, ..file_spec(&path) }).unwrap_err();
        assert!(
            error.to_string().contains("not read") && error.hint().unwrap().contains("as text"),
            "{error}"
        );
    }
    let error = open_file(&written_by_pyarrow("same_names.parquet")).unwrap_err();
    assert!(error.to_string().contains("two columns are called `a`"), "{error}");
    assert!(!error.hint().unwrap().contains("copied"), "{error}");
}

#[test]
fn long_lists_in_few_bytes_are_no_damage() {
    let dataset = open_file(&written_by_pyarrow("long_null_lists.parquet")).unwrap();
    assert_eq!(dataset.get(2).unwrap()["l"].as_array().unwrap().len(), 2_000_000);
}

#[test]
fn csv_cells_are_text_as_written() {
    let text = "id,v,e,z\n007,1.10,,\"\"\n99999999999999999999,true,x,NaN\n\n";
    let (_dir, path) = text_file("t.csv", text);
    let dataset = open_file(&path).unwrap();
    let expected = [
        row(json!({"id": "007", "v": "1.10", "e": null, "z": ""})),
        row(json!({"id": "99999999999999999999", "v": "true", "e": "x", "z": "NaN"})),
    ];
    assert_eq!(rows_of(&dataset), expected);
}

#[test]
fn what_is_wrong_with_text_comes_with_what_to_do() {
    let deep = format!("{{\"a\": {}{}}}", "[".repeat(200), "]".repeat(200));
    let cases: [(&str, &str, &str, &str); 12] = [
        ("t.jsonl", "[{\"a\": 1}]\n", "line 1: expected an object, found a list", "jq -c"),
        ("t.jsonl", "[\n{\"a\": 1}\n]\n", "line 1", "jq -c"),
        ("t.jsonl", "{\"a\": 1} {\"a\": 2}\n", "line 1", "jq -c"),
        ("t.jsonl", "{\"a\": 1}\n{\"a\": NaN}\n", "line 2", "write null"),
        ("t.jsonl", "{\"a\": -Infinity}\n", "line 1", "write null"),
        ("t.jsonl", &deep, "line 1", "128 levels"),
        ("t.jsonl", "7\n", "line 1", "one object"),
        ("t.csv", "a,b\n1,2\n1,2,3\n", "line 3: 3 cells, the header has 2", "in quotes"),
        ("t.csv", "a,b\n\"1\n2\",2\n1\n", "line 4: 1 cells, the header has 2", "in quotes"),
        ("t.csv", "a,b\n\"1\"x,2\n", "line 2", "double each quote"),
        ("t.csv", "a,b\n\"1,2\n", "line 2: a quote is never closed", "double each quote"),
        ("t.csv", "a,a\n1,2\n", "line 1: two columns are called `a`", "a name of its own"),
    ];
    for (name, text, says, advises) in cases {
        let (_dir, path) = text_file(name, text);
        let error = open_file(&path).unwrap_err();
        assert!(error.to_string().contains(says), "{text:?}: {error}");
        let hint = error.hint().unwrap();
        assert!(hint.contains(advises) && !hint.contains("looks like this"), "{text:?}: {hint}");
    }
    let (_dir, path) = text_file("t.csv", "a,b\nsay \"hi\",5\" disk\n");
    assert_eq!(open_file(&path).unwrap().get(0).unwrap(), row(json!({"a": "say \"hi\"", "b": "5\" disk"})));
}

#[test]
fn what_is_packed_too_densely_says_by_how_much() {
    let lines = b"{\"a\": 1}\n".repeat(4 << 20);
    let (_dir, path) = text_file("t.jsonl.zst", zstd::encode_all(lines.as_slice(), 19).unwrap());
    let error = open_file(&path).unwrap_err();
    assert!(matches!(error, DataError::TooLarge { .. }), "{error}");
    assert!(error.to_string().contains("at most 1000 times"), "{error}");
    assert!(error.hint().unwrap().contains("unpack it"), "{error}");
}

/// polars makes a column of one row a constant, whose structs are of another kind.
#[test]
fn a_struct_in_a_file_of_one_row_is_read() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("one.parquet");
    let fields = [Series::new("text".into(), ["red"]), Series::new("label".into(), [7_i64])];
    let choices = StructChunked::from_series("choices".into(), 1, fields.iter()).unwrap();
    let mut frame = DataFrame::new(1, vec![choices.into_series().into_column()]).unwrap();
    ParquetWriter::new(fs_err::File::create(&path).unwrap().into_file()).finish(&mut frame).unwrap();
    for roots in [offline(), streaming()] {
        let row = open(&roots, &file_spec(&path)).unwrap().get(0).unwrap();
        assert_eq!(row["choices"], json!({"text": "red", "label": 7}));
    }
}

#[test]
fn a_byte_order_mark_stands_before_the_quotes_of_a_header() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("mark.csv");
    fs_err::write(&path, "\u{feff}\"q,\nx\",\"a\"\n1,2\n").unwrap();
    let row = open(&offline(), &file_spec(&path)).unwrap().get(0).unwrap();
    assert_eq!(row["q,\nx"], json!("1"));
    assert_eq!(row["a"], json!("2"));
}
