//! What a PDF must not do before it is read: the reader follows whatever it says, without end, and a stack that
//! overflows takes the process down.

use std::io::Read;
use std::sync::OnceLock;

use flate2::read::ZlibDecoder;
use pdf_extract::content::Content;
use pdf_extract::{Dictionary, Document, Object, ObjectId, Stream};
use regex::bytes::Regex;

/// Bytes that one packed part, and all of them together, may unpack to.
const LARGEST_PART_BYTES: u64 = 256 << 20;
const LARGEST_BYTES: u64 = 2 << 30;
/// How deep pages lie in the tree of pages, and forms in forms: more than any real file has.
const DEEPEST: usize = 48;
/// Forms that are drawn, those within others each time anew.
const MOST_FORMS: usize = 20_000;

/// Refuses a file whose packed parts unpack to far more than a document holds. Looks at the bytes alone: to know the
/// parts, the reader has to unpack some of them.
///
/// # Errors
/// What it would do.
pub(super) fn check_bytes(bytes: &[u8]) -> Result<(), String> {
    static PACKED_TWICE: OnceLock<Option<Regex>> = OnceLock::new();
    let twice = r"(?s-u)/(?:Filter|F)\s*\[[^\]]*(?:Flate|LZW|Fl\b)[^\]]*(?:Flate|LZW|Fl\b)";
    let twice = PACKED_TWICE.get_or_init(|| Regex::new(twice).ok());
    if twice.as_ref().is_some_and(|twice| twice.is_match(bytes)) {
        return Err("a part of it is packed more than once".to_owned());
    }
    let mut all = 0;
    for start in memchr_all(bytes, b"stream") {
        let rest = &bytes[start..];
        let rest = rest.strip_prefix(b"\r").unwrap_or(rest);
        let packed = rest.strip_prefix(b"\n").unwrap_or(rest);
        // The first byte of zlib's format with its usual window (RFC 1950).
        if packed.first() != Some(&0x78) {
            continue;
        }
        let mut unpacked = ZlibDecoder::new(packed).take(LARGEST_PART_BYTES + 1);
        // What is no packed part after all ends in an error, after some bytes.
        let Ok(length) = std::io::copy(&mut unpacked, &mut std::io::sink()) else { continue };
        all += length;
        if length > LARGEST_PART_BYTES || all > LARGEST_BYTES {
            return Err("it unpacks to more than a document holds".to_owned());
        }
    }
    Ok(())
}

/// Places after each occurrence of a word.
fn memchr_all<'a>(bytes: &'a [u8], word: &'a [u8]) -> impl Iterator<Item = usize> + 'a {
    let places = (0..bytes.len().saturating_sub(word.len())).filter(move |at| bytes[*at..].starts_with(word));
    places.map(move |at| at + word.len())
}

/// Refuses a file in which pages or forms hold themselves.
///
/// # Errors
/// What it would do.
pub(super) fn check_nesting(document: &Document) -> Result<(), String> {
    let mut drawn = Drawn { document, forms: 0 };
    for page in document.get_pages().into_values() {
        let resources = resources_of_page(document, page)?;
        if let Ok(content) = document.get_page_content(page) {
            drawn.draw(&content, resources, 0)?;
        }
    }
    Ok(())
}

/// The page's own resources, or those of what it lies in.
fn resources_of_page(document: &Document, page: ObjectId) -> Result<Option<&Dictionary>, String> {
    let mut found = None;
    let mut place = document.get_dictionary(page).ok();
    for _ in 0..DEEPEST {
        let Some(dictionary) = place else { return Ok(found) };
        found =
            found.or_else(|| part(document, dictionary, b"Resources").and_then(|part| part.as_dict().ok()));
        let parent = dictionary.get(b"Parent").and_then(Object::as_reference);
        place = parent.ok().and_then(|parent| document.get_dictionary(parent).ok());
    }
    Err("its pages lie in themselves".to_owned())
}

fn part<'a>(document: &'a Document, dictionary: &'a Dictionary, name: &[u8]) -> Option<&'a Object> {
    Some(document.dereference(dictionary.get(name).ok()?).ok()?.1)
}

struct Drawn<'a> {
    document: &'a Document,
    forms: usize,
}

impl<'a> Drawn<'a> {
    fn draw(
        &mut self,
        content: &[u8],
        resources: Option<&'a Dictionary>,
        depth: usize,
    ) -> Result<(), String> {
        let Ok(content) = Content::decode(content) else { return Ok(()) };
        let named = resources.and_then(|resources| part(self.document, resources, b"XObject"));
        let Some(named) = named.and_then(|named| named.as_dict().ok()) else { return Ok(()) };
        for operation in content.operations.iter().filter(|operation| operation.operator == "Do") {
            let name = operation.operands.first().and_then(|name| name.as_name().ok());
            let object = name.and_then(|name| part(self.document, named, name));
            let Some(form) = object.and_then(|object| object.as_stream().ok()).filter(|form| !is_image(form))
            else {
                continue;
            };
            self.forms += 1;
            if depth == DEEPEST || self.forms > MOST_FORMS {
                return Err("its forms hold themselves, or too many others".to_owned());
            }
            let own = part(self.document, &form.dict, b"Resources").and_then(|part| part.as_dict().ok());
            let content = form.decompressed_content().unwrap_or_else(|_| form.content.clone());
            self.draw(&content, own.or(resources), depth + 1)?;
        }
        Ok(())
    }
}

fn is_image(stream: &Stream) -> bool {
    stream.dict.get(b"Subtype").and_then(Object::as_name).is_ok_and(|name| name == b"Image")
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::super::read_pdf;
    use super::*;

    /// A file of these objects, the first of which is the catalogue.
    fn pdf(objects: &[Vec<u8>]) -> Vec<u8> {
        let mut file = b"%PDF-1.5\n".to_vec();
        let mut places = Vec::new();
        for (number, object) in (1..).zip(objects) {
            places.push(file.len());
            writeln!(file, "{number} 0 obj").unwrap();
            file.extend_from_slice(object);
            file.extend_from_slice(b"\nendobj\n");
        }
        let start = file.len();
        write!(file, "xref\n0 {}\n0000000000 65535 f \n", places.len() + 1).unwrap();
        places.iter().for_each(|place| writeln!(file, "{place:010} 00000 n ").unwrap());
        write!(file, "trailer\n<< /Root 1 0 R /Size {} >>\n", places.len() + 1).unwrap();
        write!(file, "startxref\n{start}\n%%EOF\n").unwrap();
        file
    }

    fn stream(dictionary: &str, content: &[u8]) -> Vec<u8> {
        let mut object = format!("<< {dictionary} /Length {} >>\nstream\n", content.len()).into_bytes();
        object.extend_from_slice(content);
        object.extend_from_slice(b"\nendstream");
        object
    }

    fn one_page(page: &str, content: Vec<u8>, form: Vec<u8>) -> Vec<u8> {
        pdf(&[
            b"<< /Type /Catalog /Pages 2 0 R >>".to_vec(),
            b"<< /Type /Pages /Kids [3 0 R] /Count 1 >>".to_vec(),
            format!("<< /Type /Page /Contents 4 0 R /Resources << /XObject << /F 5 0 R >> >> {page} >>")
                .into_bytes(),
            content,
            form,
        ])
    }

    fn zipped(content: &[u8]) -> Vec<u8> {
        let mut encoder = flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::best());
        encoder.write_all(content).unwrap();
        encoder.finish().unwrap()
    }

    fn refused(file: &[u8]) -> String {
        read_pdf(file).unwrap_err().message
    }

    #[test]
    fn files_that_hold_themselves_or_unpack_without_end_are_refused() {
        let page = "/Parent 2 0 R /MediaBox [0 0 9 9]";
        let form = |content: &[u8]| stream("/Type /XObject /Subtype /Form /BBox [0 0 9 9]", content);
        let plain = || stream("", b"/F Do");
        let found = refused(&one_page(page, plain(), form(b"/F Do /F Do")));
        assert!(found.contains("hold themselves"), "{found}");
        let found = refused(&one_page("/Parent 3 0 R", plain(), form(b"")));
        assert!(found.contains("lie in themselves"), "{found}");
        let nothing = vec![0u8; 300 << 20];
        let bomb = stream("/Filter /FlateDecode", &zipped(&nothing));
        assert!(bomb.len() < 1 << 20);
        let found = refused(&one_page(page, bomb, form(b"")));
        assert!(found.contains("unpacks to more"), "{found}");
        let twice = stream("/Filter [/FlateDecode /FlateDecode]", &zipped(&zipped(&nothing)));
        let found = refused(&one_page(page, twice, form(b"")));
        assert!(found.contains("packed more than once"), "{found}");
    }

    #[test]
    fn a_form_that_is_drawn_often_is_no_fault() {
        let page = "/Parent 2 0 R /MediaBox [0 0 9 9]";
        let form = stream("/Type /XObject /Subtype /Form /BBox [0 0 9 9]", b"0 0 m");
        let file = one_page(page, stream("", "/F Do ".repeat(40).as_bytes()), form);
        check_bytes(&file).unwrap();
        check_nesting(&Document::load_mem(&file).unwrap()).unwrap();
    }
}
