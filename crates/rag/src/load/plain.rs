use pulldown_cmark::{Event, HeadingLevel, MetadataBlockKind, Options, Parser, Tag, TagEnd};

use std::path::Path;

use super::{DocumentKind, Heading, LoadedText};
use crate::RagError;

const UTF8_MARK: &[u8] = b"\xef\xbb\xbf";

/// Of text, at most one character in so many is none.
const CHARACTERS_PER_UNREAD: usize = 3;

/// Text as it is, without its byte order mark. What is not UTF-8 is read with replacement characters.
///
/// # Errors
/// [`RagError::File`] where that is most of it: an encoding that is not known, or no text at all.
pub(super) fn load(path: &Path, bytes: &[u8], kind: DocumentKind) -> Result<LoadedText, RagError> {
    let loaded = decoded(bytes, kind);
    let (mut unread, mut characters) = (0usize, 0usize);
    for char in loaded.text.chars() {
        characters += 1;
        unread += usize::from(char == char::REPLACEMENT_CHARACTER || char.is_control() && !is_layout(char));
    }
    if unread * CHARACTERS_PER_UNREAD > characters {
        return Err(RagError::File {
            path: path.to_owned(),
            message: format!("not text: {unread} of its {characters} characters could not be read"),
            hint: Some("if it is text, save it as UTF-8".to_owned()),
        });
    }
    Ok(loaded)
}

/// Control characters that are found in text: white space, and what begins the colour of a log's line.
fn is_layout(char: char) -> bool {
    char.is_whitespace() || char == '\x1b'
}

fn decoded(bytes: &[u8], kind: DocumentKind) -> LoadedText {
    if let Some((text, unread)) = utf16(bytes) {
        let mut loaded = LoadedText::new(text, kind, None);
        loaded.notes.push(match unread {
            0 => "read as UTF-16".to_owned(),
            unread => format!("read as UTF-16: {unread} characters could not be read"),
        });
        return loaded;
    }
    let (start, rest) = match bytes.strip_prefix(UTF8_MARK) {
        Some(rest) => (UTF8_MARK.len() as u64, rest),
        None => (0, bytes),
    };
    match std::str::from_utf8(rest) {
        Ok(text) => LoadedText::new(text.to_owned(), kind, Some(start)),
        Err(error) => {
            let text = String::from_utf8_lossy(rest).replace('\0', "\u{fffd}");
            let replaced = text.matches('\u{fffd}').count();
            let mut loaded = LoadedText::new(text, kind, None);
            loaded.notes.push(format!(
                "not UTF-8 from byte {} on: {replaced} characters could not be read",
                start + error.valid_up_to() as u64
            ));
            loaded
        }
    }
}

/// Only with its byte order mark: without one nobody knows. Also how many of its characters could not be read: halves
/// of pairs, and the half of a unit at the end.
fn utf16(bytes: &[u8]) -> Option<(String, usize)> {
    let decode: fn([u8; 2]) -> u16 = match bytes.first_chunk::<2>()? {
        [0xff, 0xfe] => u16::from_le_bytes,
        [0xfe, 0xff] => u16::from_be_bytes,
        _ => return None,
    };
    let (units, rest) = bytes[2..].as_chunks::<2>();
    let (mut text, mut unread) = (String::new(), 0);
    let last = rest.iter().map(|_| None);
    for char in char::decode_utf16(units.iter().map(|unit| decode(*unit))).map(Result::ok).chain(last) {
        unread += usize::from(char.is_none());
        text.push(char.unwrap_or(char::REPLACEMENT_CHARACTER));
    }
    Some((text, unread))
}

/// Markdown stays as it is written; its headings are found.
///
/// # Errors
/// As [`load`].
pub(super) fn load_markdown(path: &Path, bytes: &[u8]) -> Result<LoadedText, RagError> {
    let mut loaded = load(path, bytes, DocumentKind::Markdown)?;
    let options = Options::ENABLE_YAML_STYLE_METADATA_BLOCKS | Options::ENABLE_TABLES;
    let mut open: Option<Heading> = None;
    for (event, range) in Parser::new_ext(&loaded.text, options).into_offset_iter() {
        match event {
            Event::Start(Tag::MetadataBlock(MetadataBlockKind::YamlStyle)) if range.start == 0 => {
                loaded.carried.read_front_matter(&loaded.text[range]);
            }
            Event::Start(Tag::Heading { level, .. }) => {
                open = Some(Heading { start: range.start, level: depth(level), title: String::new() });
            }
            Event::End(TagEnd::Heading(_)) => loaded.headings.extend(open.take()),
            Event::Text(text) | Event::Code(text) => {
                if let Some(heading) = &mut open {
                    heading.title.push_str(&text);
                }
            }
            _ => {}
        }
    }
    loaded.title = loaded.headings.first().map(|heading| heading.title.clone());
    Ok(loaded)
}

fn depth(level: HeadingLevel) -> u8 {
    match level {
        HeadingLevel::H1 => 1,
        HeadingLevel::H2 => 2,
        HeadingLevel::H3 => 3,
        HeadingLevel::H4 => 4,
        HeadingLevel::H5 => 5,
        HeadingLevel::H6 => 6,
    }
}
