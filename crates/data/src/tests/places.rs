//! Where rows and their values stand in a file.

use proptest::collection::vec;
use proptest::prelude::*;

use super::*;
use crate::{TableRecord, TextKind, table_records, unpacked};

fn records(text: &[u8], kind: TextKind) -> Result<Vec<TableRecord>, DataError> {
    table_records(Path::new("t"), text, kind, &Limits::default())?.collect()
}

fn text_of(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

/// What is told of each record must be true of the bytes of the text.
fn check(text: &[u8], kind: TextKind, header: &str, expected: &[Row]) {
    let records = records(text, kind).unwrap();
    assert_eq!(records.iter().map(|record| record.row.clone()).collect::<Vec<_>>(), expected);
    let at = |start: u64, end: u64| &text[usize::try_from(start).unwrap()..usize::try_from(end).unwrap()];
    for record in &records {
        let bytes = at(record.bytes.start, record.bytes.end);
        let alone = [header.as_bytes(), bytes].concat();
        assert_eq!(self::records(&alone, kind).unwrap()[0].row, record.row);
        let above = &text[..usize::try_from(record.bytes.start).unwrap()];
        assert_eq!(above.iter().filter(|byte| **byte == b'\n').count() as u64 + 1, record.line);
        for (value, parts) in record.row.values().zip(&record.verbatim) {
            let value = text_of(value);
            for part in parts {
                let said = &value.as_bytes()[part.value_start..part.value_start + part.bytes];
                assert_eq!(said, at(part.start, part.start + part.bytes as u64), "{record:?}");
            }
        }
    }
}

/// Texts with everything that has a meaning in one of the formats.
fn cell() -> impl Strategy<Value = String> {
    let piece = prop_oneof![
        Just("\""),
        Just("\n"),
        Just("\r\n"),
        Just(","),
        Just("\t"),
        Just("\\"),
        Just("{"),
        Just("\u{feff}"),
        Just("\0"),
        Just("grün"),
        Just("\u{1f600}"),
        Just(" plain words "),
        Just("7"),
    ];
    vec(piece, 0..6).prop_map(|pieces| pieces.concat())
}

/// A cell as spreadsheets write it: in quotes where it has to be, or anyway.
fn written(cell: &str, quoted: bool, separator: char) -> String {
    let must = cell.contains(['"', '\n', '\r', separator]) || cell.is_empty();
    if quoted || must { format!("\"{}\"", cell.replace('"', "\"\"")) } else { cell.to_owned() }
}

/// As Python's `json.dumps` writes a text, which escapes everything beyond ASCII, or as it is where that may be.
fn json_text(text: &str, ascii: bool) -> String {
    let plain = json!(text).to_string();
    let mut out = String::new();
    for character in plain.chars() {
        match character.is_ascii() || !ascii {
            true => out.push(character),
            false => {
                let mut units = [0; 2];
                out.extend(character.encode_utf16(&mut units).iter().map(|unit| format!("\\u{unit:04x}")));
            }
        }
    }
    out
}

proptest! {
    #[test]
    fn a_row_of_a_table_is_where_it_is_said_to_be(
        cells in vec((cell(), cell(), any::<bool>()), 1..8), marked: bool, crlf: bool, tabs: bool, open_end: bool,
    ) {
        let (separator, kind) = if tabs { ('\t', TextKind::Tsv) } else { (',', TextKind::Csv) };
        let end = if crlf { "\r\n" } else { "\n" };
        let header = format!("first{separator}\"the \"\"second\"\"\"{end}");
        let line = |(a, b, quoted): &(String, String, bool)| {
            format!("{}{separator}{}{end}", written(a, *quoted, separator), written(b, *quoted, separator))
        };
        // Lines with nothing in them are no rows.
        let body = cells.iter().map(line).collect::<Vec<_>>().join(end);
        let mark = if marked { "\u{feff}" } else { "" };
        let mut text = format!("{mark}{header}{body}");
        if open_end {
            text.truncate(text.len() - end.len());
        }
        let rows: Vec<Row> =
            cells.iter().map(|(a, b, _)| row(json!({"first": a, "the \"second\"": b}))).collect();
        check(text.as_bytes(), kind, &header, &rows);
    }

    #[test]
    fn an_object_of_a_line_is_where_it_is_said_to_be(
        cells in vec((cell(), cell(), any::<bool>()), 1..8), marked: bool, crlf: bool,
    ) {
        let end = if crlf { "\r\n" } else { "\n" };
        let line = |(a, b, ascii): &(String, String, bool)| {
            let [a, b] = [a, b].map(|text| json_text(text, *ascii));
            format!(" {{ \"n\": [1,{b}], \"a\":0, \"b\" : {b}, \"a\": {a}, \"x\": 1.50, \"y\":-3}} {end}")
        };
        let mark = if marked { "\u{feff}" } else { "" };
        let text = format!("{mark}{}", cells.iter().map(line).collect::<Vec<_>>().join(end));
        let rows: Vec<Row> = cells
            .iter()
            .map(|(a, b, _)| row(json!({"n": [1, b], "a": a, "b": b, "x": 1.5, "y": -3})))
            .collect();
        check(text.as_bytes(), TextKind::Jsonl, "", &rows);
    }
}

#[test]
fn what_stands_in_the_file_as_it_is_ends_at_escapes() {
    let parts = |text: &str, kind| -> Vec<Vec<String>> {
        let record = records(text.as_bytes(), kind).unwrap().remove(0);
        let place = |start: u64, bytes: usize| text[usize::try_from(start).unwrap()..][..bytes].to_owned();
        let of_value = |parts: &Vec<crate::VerbatimPart>| {
            parts.iter().map(|part| place(part.start, part.bytes)).collect()
        };
        record.verbatim.iter().map(of_value).collect()
    };
    let csv = "a,b,c,d\nplain 5\" pipe,\"in, quotes\nof two lines\",\"he said \"\"go\"\"\",\n";
    let expected: [&[&str]; 4] =
        [&["plain 5\" pipe"], &["in, quotes\nof two lines"], &["he said ", "go"], &[]];
    assert_eq!(parts(csv, TextKind::Csv), expected);
    let jsonl = r#"{"a": "one\ntwo \ud83d\ude00\u00fc three", "b": 7, "c": 7.0e0, "d": [1, 2], "e": [1,2], "f": null}"#;
    let expected: [&[&str]; 6] = [&["one", "two ", " three"], &["7"], &[], &[], &["[1,2]"], &["null"]];
    assert_eq!(parts(jsonl, TextKind::Jsonl), expected);
}

#[test]
fn damage_in_a_table_is_told_with_its_line() {
    for (text, kind, says) in [
        (&b"a,b\n1,2\n\"x\n\xff\",2\n"[..], TextKind::Csv, "line 4: not UTF-8 at byte 1"),
        (b"a\tb\n1\t2\t3\n", TextKind::Tsv, "line 2: 3 cells, the header has 2"),
        (b"{\"a\": 1}\n{\"a\": \"\\ud83d\"}\n", TextKind::Jsonl, "line 2"),
    ] {
        let error = records(text, kind).unwrap_err();
        assert!(error.to_string().contains(says), "{error}");
    }
}

#[test]
fn packed_bytes_are_told_by_how_they_begin() {
    let text = b"a,b\n1,2\n".repeat(1000);
    let zst = zstd::encode_all(&text[..], 1).unwrap();
    let mut gz = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    gz.write_all(&text).unwrap();
    let gz = gz.finish().unwrap();
    let unpacked = |bytes: &[u8], most: u64| {
        unpacked(Path::new("t"), bytes, &Limits { unpacked_bytes: most, ..Limits::default() })
    };
    for packed in [&gz, &zst] {
        assert_eq!(unpacked(packed, 8000).unwrap().unwrap(), text);
        assert!(matches!(unpacked(packed, 7999), Err(DataError::TooLarge { .. })));
        assert!(unpacked(&packed[..packed.len() / 2], 8000).is_err());
    }
    assert_eq!(unpacked(&text, 8000).unwrap(), None);
}
