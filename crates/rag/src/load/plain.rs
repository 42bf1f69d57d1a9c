use pulldown_cmark::{Event, HeadingLevel, Options, Parser, Tag, TagEnd};

use super::{DocumentKind, Heading, LoadedText};

const UTF8_MARK: &[u8] = b"\xef\xbb\xbf";

/// Text as it is, without its byte order mark. What is not UTF-8 is read with replacement characters.
pub(super) fn load(bytes: &[u8], kind: DocumentKind) -> LoadedText {
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
pub(super) fn load_markdown(bytes: &[u8]) -> LoadedText {
    let mut loaded = load(bytes, DocumentKind::Markdown);
    let options = Options::ENABLE_YAML_STYLE_METADATA_BLOCKS | Options::ENABLE_TABLES;
    let mut open: Option<Heading> = None;
    for (event, range) in Parser::new_ext(&loaded.text, options).into_offset_iter() {
        match event {
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
    loaded
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
