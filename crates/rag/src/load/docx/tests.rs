use std::io::{Cursor, Write};
use std::path::Path;

use proptest::prelude::*;
use zip::ZipWriter;
use zip::write::SimpleFileOptions;

use super::*;

const STYLES: &str = r#"<w:styles xmlns:w="w">
    <w:style w:styleId="berschrift1"><w:name w:val="heading 1"/></w:style>
    <w:style w:styleId="Eigene"><w:name w:val="Own"/><w:pPr><w:outlineLvl w:val="1"/></w:pPr></w:style>
</w:styles>"#;

fn packed(parts: &[(&str, &str)]) -> Vec<u8> {
    let mut writer = ZipWriter::new(Cursor::new(Vec::new()));
    for (name, text) in parts {
        writer.start_file(*name, SimpleFileOptions::default()).unwrap();
        writer.write_all(text.as_bytes()).unwrap();
    }
    writer.finish().unwrap().into_inner()
}

fn document(body: &str) -> String {
    format!("<?xml version=\"1.0\"?><w:document xmlns:w=\"w\"><w:body>{body}</w:body></w:document>")
}

fn paragraph(style: &str, text: &str) -> String {
    format!("<w:p><w:pPr><w:pStyle w:val=\"{style}\"/></w:pPr><w:r><w:t>{text}</w:t></w:r></w:p>")
}

fn of(bytes: &[u8]) -> Result<LoadedText, RagError> {
    load(Path::new("a.docx"), bytes)
}

fn refusal(bytes: &[u8]) -> String {
    of(bytes).unwrap_err().to_string()
}

#[test]
fn a_document_becomes_what_its_reader_sees() {
    let hidden = "<w:r><w:rPr><w:vanish/></w:rPr><w:t>SECRET</w:t></w:r>";
    let cell = |text: &str| format!("<w:tc>{}</w:tc>", paragraph("", text));
    let body = [
        paragraph("berschrift1", "The gate"),
        format!("<w:p><w:pPr><w:tabs><w:tab/></w:tabs></w:pPr><w:r><w:t>Closes </w:t></w:r>{hidden}\
                 <w:del><w:r><w:delText>17:00</w:delText></w:r></w:del><w:moveFrom><w:r><w:t>moved</w:t></w:r></w:moveFrom>\
                 <w:r><w:t>at 18:30 &amp; not&#32;later.</w:t><w:br/><w:t>&lol;</w:t></w:r></w:p>"),
        "<w:p><w:r><w:t>  </w:t></w:r></w:p>".to_owned(),
        format!("<w:tbl><w:tr>{}{}</w:tr><w:tr>{}{}</w:tr></w:tbl>", cell("Day"), cell("Hour"), cell("Sunday"), cell("shut")),
        paragraph("Eigene", "Keys"),
        paragraph("Standard", "Two keys.<!-- remark -->"),
    ]
    .concat();
    let bytes = packed(&[
        (
            "_rels/.rels",
            r#"<Relationships><Relationship Type="http://x/officeDocument" Target="/word/document2.xml"/></Relationships>"#,
        ),
        ("word/document2.xml", &document(&body)),
        ("word/styles.xml", STYLES),
        ("word/footnotes.xml", &document(&paragraph("", "A footnote."))),
    ]);
    let loaded = of(&bytes).unwrap();
    let text = "The gate\n\nCloses at 18:30 & not later.\n\n\nDay | Hour\nSunday | shut\n\nKeys\n\nTwo keys.\n\nA footnote.\n\n";
    assert_eq!(loaded.text, text);
    assert_eq!(loaded.title.as_deref(), Some("The gate"));
    let headings: Vec<(&str, u8)> =
        loaded.headings.iter().map(|heading| (heading.title.as_str(), heading.level)).collect();
    assert_eq!(headings, [("The gate", 1), ("Keys", 2)]);
    assert!(loaded.headings.iter().all(|heading| text[heading.start..].starts_with(&heading.title)));
    assert_eq!(loaded.notes, ["text that Word hides was left out"]);
}

/// Of tracked changes it is the formatting there is that counts, and of a paragraph's mark nothing hides its text.
#[test]
fn what_a_run_or_paragraph_was_is_not_what_it_is() {
    let was = "<w:rPrChange><w:rPr><w:vanish/></w:rPr></w:rPrChange>";
    let heading = "<w:pPrChange><w:pPr><w:pStyle w:val=\"berschrift1\"/><w:outlineLvl w:val=\"0\"/></w:pPr></w:pPrChange>";
    let mark = "<w:pPr><w:rPr><w:vanish/></w:rPr></w:pPr>";
    let body = [
        format!("<w:p><w:pPr>{heading}</w:pPr><w:r><w:rPr>{was}</w:rPr><w:t>Shown now.</w:t></w:r></w:p>"),
        format!("<w:p>{mark}<w:r><w:txbxContent><w:p>{mark}<w:r><w:t>In the box.</w:t></w:r></w:p></w:txbxContent>\
                 <w:t>Around it.</w:t></w:r></w:p>"),
        paragraph("Eigene", "Keys"),
    ]
    .concat();
    let loaded =
        of(&packed(&[("word/document.xml", &document(&body)), ("word/styles.xml", STYLES)])).unwrap();
    assert_eq!(loaded.text, "Shown now.\n\nIn the box.\n\nAround it.\n\nKeys\n\n");
    assert_eq!(loaded.headings.iter().map(|heading| &*heading.title).collect::<Vec<_>>(), ["Keys"]);
    assert!(loaded.notes.is_empty(), "{:?}", loaded.notes);
}

#[test]
fn bombs_and_other_files_are_refused() {
    let bomb = document(&" ".repeat(65 << 20));
    let bytes = packed(&[("word/document.xml", &bomb)]);
    assert!(bytes.len() < 1 << 20);
    assert!(refusal(&bytes).contains("unpacks to more than"), "{}", refusal(&bytes));
    // Two parts share the bound.
    let half = document(&" ".repeat(40 << 20));
    let bytes = packed(&[("word/document.xml", &half), ("word/footnotes.xml", &half)]);
    assert!(refusal(&bytes).contains("unpacks to more than"));
    let deep = document(&"<w:p>".repeat(100_000));
    assert!(refusal(&packed(&[("word/document.xml", &deep)])).contains("nests more than"));
    let laughs = "<!DOCTYPE x [<!ENTITY a \"ha\"><!ENTITY b \"&a;&a;\">]>".to_owned()
        + &document(&paragraph("", "&b;!"));
    assert_eq!(of(&packed(&[("word/document.xml", &laughs)])).unwrap().text, "!\n\n");
    let old = [COMPOUND_FILE, &[0; 600]].concat();
    assert!(refusal(&old).contains("encrypted"));
    assert!(refusal(b"no archive").contains("not a readable Word document"));
    assert!(refusal(&packed(&[("a.txt", "text")])).contains("there is no word/document.xml"));
    let many: Vec<(String, &str)> = (0..10_001).map(|part| (format!("{part}"), "")).collect();
    let many: Vec<(&str, &str)> = many.iter().map(|(name, text)| (name.as_str(), *text)).collect();
    assert!(refusal(&packed(&many)).contains("10001 parts"));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn damaged_documents_never_take_the_process_down(at in 0usize..1 << 16, byte: u8, cut: bool) {
        let body: String = (0..20).map(|line| paragraph("berschrift1", &format!("line {line}"))).collect();
        let mut bytes = packed(&[("word/document.xml", &document(&body)), ("word/styles.xml", STYLES)]);
        let at = at % bytes.len();
        bytes[at] = byte;
        if cut {
            bytes.truncate(at);
        }
        let _ = of(&bytes);
    }
}
