//! Every document of the shared set, and what hostile or broken files do.

use std::path::PathBuf;

use serde_json::Value;

use super::*;

fn plain(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

fn of(bytes: &[u8], kind: DocumentKind) -> Result<LoadedText, RagError> {
    load(&PathBuf::from("a file"), bytes, kind, &PdfReader::Here)
}

#[test]
fn the_shared_documents_hold_what_they_must() {
    let Some(shared) = evalign_testkit::shared("the_shared_documents_hold_what_they_must") else { return };
    let folder = shared.join("data/documents");
    let expected: Value =
        serde_json::from_slice(&fs_err::read(folder.join("expected.json")).unwrap()).unwrap();
    for (name, document) in expected["documents"].as_object().unwrap() {
        let path = folder.join(name);
        let bytes = fs_err::read(&path).unwrap();
        let kind = DocumentKind::of_name(name).unwrap();
        let loaded = load(&path, &bytes, kind, &PdfReader::Here).unwrap();
        let text = plain(&loaded.text);
        let strings = |field: &str| -> Vec<String> {
            let list = document[field].as_array().into_iter().flatten();
            list.map(|text| plain(text.as_str().unwrap())).collect()
        };
        for must in strings("must") {
            assert!(text.contains(&must), "{name} lacks `{must}`");
        }
        for must_not in strings("must_not").into_iter().chain(strings("should_not")) {
            assert!(!text.contains(&must_not), "{name} holds `{must_not}`");
        }
        // Where the text is the file's own bytes, an offset in it is one in the file.
        if let Some(start) = loaded.source_start {
            assert_eq!(loaded.text.as_bytes(), &bytes[usize::try_from(start).unwrap()..], "{name}");
        }
        for (fact, offset) in document["byte_offsets"].as_object().into_iter().flatten() {
            assert_eq!(
                loaded.text.find(fact.as_str()),
                offset.as_u64().and_then(|o| usize::try_from(o).ok())
            );
        }
    }
}

#[test]
fn pages_of_a_pdf_are_told_apart_and_words_are_whole() {
    let Some(shared) = evalign_testkit::shared("pages_of_a_pdf_are_told_apart_and_words_are_whole") else {
        return;
    };
    let path = shared.join("data/documents/annual-report.pdf");
    let loaded = of(&fs_err::read(&path).unwrap(), DocumentKind::Pdf).unwrap();
    assert_eq!(loaded.pages.len(), 3);
    for (fact, page) in [("4.83", 1), ("3,700", 2), ("nine metres", 3), ("controller", 1)] {
        let found = loaded.text.find(fact).unwrap_or_else(|| panic!("`{fact}` in {}", loaded.text));
        if fact != "controller" {
            assert_eq!(loaded.page_of(found), Some(page), "{fact}");
        }
    }
}

#[test]
fn a_mark_at_the_start_is_no_text() {
    let loaded = of("\u{feff}héllo".as_bytes(), DocumentKind::Text).unwrap();
    assert_eq!((loaded.text.as_str(), loaded.source_start), ("héllo", Some(3)));
    let utf16: Vec<u8> = "\u{feff}grün".encode_utf16().flat_map(u16::to_le_bytes).collect();
    let loaded = of(&utf16, DocumentKind::Text).unwrap();
    assert_eq!((loaded.text.as_str(), loaded.source_start), ("grün", None));
    // Half a unit at its end, and half of a pair: both are seen and told.
    for bytes in [&b"\xff\xfeo\0u\0t\0a"[..], b"\xfe\xff\0o\0u\0t\xd8\x00"] {
        let loaded = of(bytes, DocumentKind::Text).unwrap();
        assert_eq!(loaded.text, "out\u{fffd}");
        assert_eq!(loaded.notes, ["read as UTF-16: 1 characters could not be read"]);
    }
}

#[test]
fn what_is_mostly_no_text_is_none_whatever_its_name() {
    let random: Vec<u8> = (0..20_000u32).map(|at| (at.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    // Cyrillic in Windows-1251.
    let elsewhere = b"\xcf\xf0\xe8\xe2\xe5\xf2, \xec\xe8\xf0";
    for bytes in [&random[..], &[0; 5000], elsewhere] {
        for kind in [DocumentKind::Text, DocumentKind::Markdown, DocumentKind::Html, DocumentKind::Rust] {
            let error = of(bytes, kind).unwrap_err();
            assert!(error.to_string().contains("not text"), "{error}");
            assert!(evalign_core::Hint::hint(&error).is_some());
        }
    }
    for text in ["\t\r\n\n", "\x1b[31mred\x1b[0m", "caf\u{fffd}"] {
        assert_eq!(of(text.as_bytes(), DocumentKind::Text).unwrap().text, text);
    }
    let loaded = of(b"Caf\xe9 cr\xe8me", DocumentKind::Text).unwrap();
    assert_eq!(loaded.notes.len(), 1, "{:?}", loaded.notes);
}

#[test]
fn hidden_text_of_a_page_is_not_read_however_deep() {
    let page =
        "<p>seen<p hidden>a<div>b</div><p STYLE=' Visibility : HIDDEN '>c<style>.x .y{display:none}</style>
        <div class=x><i class=y>d</i><b>also seen</b></div><pre>kept  apart</pre><textarea>typed</textarea>";
    let loaded = of(page.as_bytes(), DocumentKind::Html).unwrap();
    let text = plain(&loaded.text);
    assert!(text.contains("seen b also seen kept apart"), "{text}");
    assert!(loaded.text.contains("kept  apart"));
    let deep = format!("{}deep down{}", "<div>".repeat(10_000), "</div>".repeat(10));
    assert_eq!(of(deep.as_bytes(), DocumentKind::Html).unwrap().text.trim(), "deep down");
}

#[test]
fn a_page_made_to_be_slow_is_read_in_time_or_refused() {
    let started = std::time::Instant::now();
    let rules: String = (0..20_000).map(|rule| format!(".a .b{rule} {{display:none}}")).collect();
    let page = format!("<style>{rules}</style>{}<p class=b1>last", "<p class=b0>seen".repeat(20_000));
    let loaded = of(page.as_bytes(), DocumentKind::Html).unwrap();
    assert!(loaded.text.contains("last") && loaded.notes[0].contains("style rules"), "{:?}", loaded.notes);
    let formatting: String = (0..5_000).map(|at| format!("<b id={at}>")).collect();
    for page in ["<div>".repeat(50_000), format!("<p>{formatting}{}", "</p>a<p>b".repeat(50_000))] {
        let error = of(page.as_bytes(), DocumentKind::Html).unwrap_err();
        assert!(error.to_string().contains("too deep"), "{error}");
        assert!(evalign_core::Hint::hint(&error).is_some());
    }
    assert!(started.elapsed().as_secs() < 20, "{:?}", started.elapsed());
    let first = "<style>@charset 'utf-8'; @import 'a.css'; .x{display:none}</style><p class=x>hidden<p>seen";
    assert_eq!(of(first.as_bytes(), DocumentKind::Html).unwrap().text.trim(), "seen");
}

#[test]
fn broken_files_are_errors_that_name_them() {
    let shared =
        b"%PDF-1.4\n1 0 obj\n<< /Type /Catalog /Pages 2 0 R >>\nendobj\ntrailer\n<< /Root 1 0 R >>\n%%EOF";
    for bytes in [&b"%PDF-1.7 nothing"[..], shared, &[0u8; 64], b"not a pdf at all"] {
        let error = of(bytes, DocumentKind::Pdf).unwrap_err();
        assert!(error.to_string().contains("a file"), "{error}");
        assert!(evalign_core::Hint::hint(&error).is_some());
    }
}

#[test]
fn broken_pdfs_never_take_the_process_down() {
    let Some(shared) = evalign_testkit::shared("broken_pdfs_never_take_the_process_down") else { return };
    let whole = fs_err::read(shared.join("data/documents/annual-report.pdf")).unwrap();
    for seed in 0..60usize {
        let mut bytes = whole.clone();
        let at = seed * 57 % bytes.len();
        match seed % 3 {
            0 => bytes.truncate(at),
            1 => bytes[at] ^= 0x55,
            _ => drop(bytes.drain(at..(at + 40).min(whole.len()))),
        }
        // Any answer will do but a panic.
        drop(of(&bytes, DocumentKind::Pdf));
    }
}

#[test]
fn rows_of_tables_become_lines() {
    let loaded = of(b"name,price\n\"Pump, old\",3\nValve,\n", DocumentKind::Csv).unwrap();
    assert_eq!(loaded.rows.len(), 2);
    assert!(loaded.text[loaded.rows[0].clone()].starts_with("name: Pump, old\nprice: 3"));
    let error = of(b"{\"a\": \"x\"}\n{\"a\": [1]}\n{broken\n", DocumentKind::Jsonl).unwrap_err();
    assert!(error.to_string().contains('3'), "{error}");
    let tabs = of(b"name\tprice\nPump, old\t3\n", DocumentKind::Tsv).unwrap();
    assert_eq!(tabs.text, "name: Pump, old\nprice: 3\n\n");
    assert_eq!(of(b"name,price\n", DocumentKind::Csv).unwrap().notes, ["it has no rows"]);
}

#[test]
fn what_is_said_of_a_row_is_true_of_the_file() {
    let csv = "\u{feff}name,note\r\n\r\n\"Pump, old\",\"a \"\"new\"\" seal\r\nfrom grün\"\r\nname,\r\n";
    let jsonl = "{\"name\": \"Pump, old\", \"note\": \"a \\\"new\\\" seal\\r\\nfrom gr\\u00fcn\"}\n\n{\"name\": \"name\"}\n";
    let tsv = csv.replace(',', "\t").replace("Pump\t old", "Pump, old");
    let mut gz = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    std::io::Write::write_all(&mut gz, csv.as_bytes()).unwrap();
    let gz = gz.finish().unwrap();
    let mut texts = Vec::new();
    for (bytes, file, kind) in [
        (csv.as_bytes(), csv, DocumentKind::Csv),
        (&gz, csv, DocumentKind::Csv),
        (tsv.as_bytes(), &tsv, DocumentKind::Tsv),
        (jsonl.as_bytes(), jsonl, DocumentKind::Jsonl),
    ] {
        let loaded = of(bytes, kind).unwrap();
        assert_eq!(loaded.notes.is_empty(), bytes != gz.as_slice());
        let at = |[start, end]: [u64; 2]| usize::try_from(start).unwrap()..usize::try_from(end).unwrap();
        for place in &loaded.places {
            let record = &file[at([place.record.start_byte, place.record.end_byte])];
            assert!(["\"Pump", "name", "{"].iter().any(|start| record.starts_with(start)), "{record}");
            assert!(!record.ends_with(['\r', '\n']));
            assert_eq!(place.record.unpacked, bytes == gz.as_slice());
            for [text, start, bytes] in &place.verbatim {
                assert_eq!(loaded.text[at([*text, text + bytes])], file[at([*start, start + bytes])]);
            }
        }
        let said = |row: usize| -> Vec<String> {
            let parts = loaded.places[row].verbatim.iter();
            parts.map(|[text, _, bytes]| loaded.text[at([*text, text + bytes])].to_owned()).collect()
        };
        let note: &[&str] = if kind == DocumentKind::Jsonl {
            &["a ", "new", " seal", "from gr", "n"]
        } else {
            &["a ", "new", " seal\r\nfrom grün"]
        };
        assert_eq!(said(0), [&["Pump, old"], note].concat());
        assert_eq!(said(1), ["name"]);
        texts.push(loaded.text);
    }
    assert!(texts.iter().all(|text| *text == texts[0]), "{texts:?}");
}

#[test]
fn rows_with_very_many_parts_have_only_their_place() {
    let text = format!("{{\"a\": \"{}\"}}\n{{\"a\": \"b\\nc\"}}\n", "x\\n".repeat(300));
    let loaded = of(text.as_bytes(), DocumentKind::Jsonl).unwrap();
    let parts: Vec<usize> = loaded.places.iter().map(|row| row.verbatim.len()).collect();
    assert_eq!(parts, [0, 2]);
    assert!(loaded.notes[0].starts_with("of 1 rows only the place is kept"), "{:?}", loaded.notes);
}

#[test]
fn a_table_whose_text_would_be_far_longer_than_the_file_is_refused() {
    let table = format!("{}\n{}", "a".repeat(1_000_000), "1\n".repeat(300));
    let error = of(table.as_bytes(), DocumentKind::Csv).unwrap_err();
    assert!(error.to_string().contains("its rows as lines"), "{error}");
    assert!(evalign_core::Hint::hint(&error).is_some());
}

#[test]
fn packed_tables_are_known_by_the_name_before() {
    for (name, kind) in [
        ("a.csv.gz", Some(DocumentKind::Csv)),
        ("a.TSV.zst", Some(DocumentKind::Tsv)),
        ("a.jsonl.gz", Some(DocumentKind::Jsonl)),
        ("a.md.gz", None),
        ("a.gz", None),
    ] {
        assert_eq!(DocumentKind::of_name(name), kind, "{name}");
    }
}
