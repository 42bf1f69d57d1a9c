use std::io::{BufReader, Cursor, Read};

use quick_xml::Reader;
use quick_xml::escape::resolve_predefined_entity;
use quick_xml::events::{BytesRef, BytesStart, Event};
use zip::ZipArchive;
use zip::result::ZipError;

/// Of all parts that are read together: more than ten thousand pages.
const MOST_UNPACKED_BYTES: u64 = 64 << 20;
const MOST_ENTRIES: usize = 10_000;
/// Elements inside each other; Word's own go some twenty deep.
const DEEPEST: usize = 500;

/// What a part consists of, in its order.
pub(super) enum Piece<'a> {
    Open { name: &'a str, attributes: Attributes<'a> },
    Close { name: &'a str },
    Text(&'a str),
}

/// Of one element, without their prefixes.
pub(super) struct Attributes<'a>(&'a BytesStart<'a>);

impl Attributes<'_> {
    pub(super) fn get(&self, name: &str) -> Option<String> {
        let mut attributes = self.0.attributes();
        let found = attributes
            .with_checks(false)
            .filter_map(Result::ok)
            .find(|found| found.key.local_name().as_ref() == name.as_bytes())?;
        Some(found.unescape_value().ok()?.into_owned())
    }
}

/// The packed parts of a document.
pub(super) struct Package<'a> {
    archive: ZipArchive<Cursor<&'a [u8]>>,
    /// Bytes that may still be unpacked.
    left: u64,
}

impl<'a> Package<'a> {
    pub(super) fn open(bytes: &'a [u8]) -> Result<Self, String> {
        let archive = ZipArchive::new(Cursor::new(bytes)).map_err(|error| error.to_string())?;
        if archive.len() > MOST_ENTRIES {
            return Err(format!("it has {} parts", archive.len()));
        }
        Ok(Self { archive, left: MOST_UNPACKED_BYTES })
    }

    /// Shows everything in a part, in its order; `false` where there is no such part.
    pub(super) fn walk(&mut self, name: &str, see: &mut dyn FnMut(Piece<'_>)) -> Result<bool, String> {
        let part = match self.archive.by_name(name) {
            Ok(part) => part,
            Err(ZipError::FileNotFound) => return Ok(false),
            Err(error) => return Err(error.to_string()),
        };
        let bounded = Bounded { inner: part, left: &mut self.left };
        let mut reader = Reader::from_reader(BufReader::new(bounded));
        reader.config_mut().expand_empty_elements = true;
        let (mut buffer, mut depth) = (Vec::new(), 0usize);
        loop {
            buffer.clear();
            let event = reader.read_event_into(&mut buffer).map_err(|error| format!("{name}: {error}"))?;
            match event {
                Event::Start(start) => {
                    depth += 1;
                    if depth > DEEPEST {
                        return Err(format!("{name} nests more than {DEEPEST} elements"));
                    }
                    let element = start.local_name();
                    let name = std::str::from_utf8(element.as_ref()).unwrap_or_default();
                    see(Piece::Open { name, attributes: Attributes(&start) });
                }
                Event::End(end) => {
                    depth = depth.saturating_sub(1);
                    let element = end.local_name();
                    see(Piece::Close { name: std::str::from_utf8(element.as_ref()).unwrap_or_default() });
                }
                Event::Text(text) => {
                    let text = text.decode().map_err(|error| format!("{name}: {error}"))?;
                    see(Piece::Text(&text));
                }
                Event::CData(text) => {
                    let text = text.decode().map_err(|error| format!("{name}: {error}"))?;
                    see(Piece::Text(&text));
                }
                Event::GeneralRef(entity) => see(Piece::Text(&resolved(&entity))),
                Event::Eof => return Ok(true),
                _ => {}
            }
        }
    }
}

/// A character by its number, or one of the five that XML itself names. Entities of a document's own are nothing.
fn resolved(entity: &BytesRef<'_>) -> String {
    if let Ok(Some(char)) = entity.resolve_char_ref() {
        return char.to_string();
    }
    let name = entity.decode().unwrap_or_default();
    resolve_predefined_entity(&name).unwrap_or_default().to_owned()
}

/// Fails where more comes out than is left.
struct Bounded<'a, R> {
    inner: R,
    left: &'a mut u64,
}

impl<R: Read> Read for Bounded<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let count = self.inner.read(buffer)?;
        match self.left.checked_sub(count as u64) {
            Some(left) => *self.left = left,
            None => {
                return Err(std::io::Error::other(format!(
                    "it unpacks to more than {MOST_UNPACKED_BYTES} bytes"
                )));
            }
        }
        Ok(count)
    }
}
