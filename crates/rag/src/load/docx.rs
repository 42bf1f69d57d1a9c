//! Word documents (WordprocessingML, ECMA-376 part 1): body, footnotes and endnotes as paragraphs, with their headings.
//!
//! What a reader does not see is left out: hidden runs, deleted and moved text, field codes, fallbacks of drawings.
//! Nothing is unpacked to disk, entities are not expanded, and size, entries and nesting are bounded.

mod body;
mod package;

use std::collections::BTreeMap;
use std::path::Path;

use evalign_data::guarded;

use super::LoadedText;
use crate::RagError;
use body::Body;
use package::{Package, Piece};

/// Headings go no deeper in Word.
const DEEPEST_HEADING: u8 = 9;
/// What Word 97 and encrypted documents begin with (MS-CFB, section 2.2).
const COMPOUND_FILE: &[u8] = b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1";
/// Where the body is where nobody says otherwise.
const BODY: &str = "word/document.xml";

pub(super) fn load(path: &Path, bytes: &[u8]) -> Result<LoadedText, RagError> {
    let refused = |message: String, hint: &str| RagError::File {
        path: path.to_owned(),
        message,
        hint: Some(hint.to_owned()),
    };
    if bytes.starts_with(COMPOUND_FILE) {
        let message = "encrypted, or a document of Word 97".to_owned();
        return Err(refused(message, "save it as docx, without a password"));
    }
    // Unpacking and parsing must cost the document and nothing else.
    let read = guarded(|| read(bytes)).unwrap_or_else(|| Err("its structure is damaged".to_owned()));
    read.map_err(|message| {
        let hint = "open it and save it anew, or take it out of what is indexed";
        refused(format!("not a readable Word document: {message}"), hint)
    })
}

fn read(bytes: &[u8]) -> Result<LoadedText, String> {
    let mut package = Package::open(bytes)?;
    let main = main_part(&mut package)?;
    let folder = main.rsplit_once('/').map_or("", |(folder, _)| folder);
    let beside = |name: &str| if folder.is_empty() { name.to_owned() } else { format!("{folder}/{name}") };
    let levels = heading_levels(&mut package, &beside("styles.xml"))?;
    let mut body = Body::new(&levels);
    if !package.walk(&main, &mut |piece| body.take(piece))? {
        return Err(format!("there is no {main} in it"));
    }
    for notes in ["footnotes.xml", "endnotes.xml"] {
        package.walk(&beside(notes), &mut |piece| body.take(piece))?;
    }
    Ok(body.loaded())
}

/// The part that holds the body, as the package's relationships say (ECMA-376 part 2, section 9.3).
fn main_part(package: &mut Package<'_>) -> Result<String, String> {
    let mut target = None;
    package.walk("_rels/.rels", &mut |piece| {
        if let Piece::Open { name: "Relationship", attributes } = piece
            && attributes.get("Type").is_some_and(|kind| kind.ends_with("/officeDocument"))
        {
            target = attributes.get("Target").map(|target| target.trim_start_matches('/').to_owned());
        }
    })?;
    Ok(target.unwrap_or_else(|| BODY.to_owned()))
}

/// Styles that make a paragraph a heading, with its level: by their outline level, or by the name that Word gives them
/// whatever language it speaks.
fn heading_levels(package: &mut Package<'_>, part: &str) -> Result<BTreeMap<String, u8>, String> {
    let mut levels = BTreeMap::new();
    let mut style = String::new();
    package.walk(part, &mut |piece| {
        let Piece::Open { name, attributes } = piece else { return };
        let value = attributes.get("val").unwrap_or_default();
        let level = match name {
            "style" => {
                style = attributes.get("styleId").unwrap_or_default();
                None
            }
            "name" => level_of_name(&value),
            "outlineLvl" => outline_level(&value),
            _ => None,
        };
        levels.extend(level.map(|level| (style.clone(), level)));
    })?;
    Ok(levels)
}

fn level_of_name(name: &str) -> Option<u8> {
    match name.to_ascii_lowercase().as_str() {
        "title" => Some(1),
        name => {
            name.strip_prefix("heading ")?.parse().ok().filter(|level| (1..=DEEPEST_HEADING).contains(level))
        }
    }
}

/// Counts from 0; 9 is text.
fn outline_level(value: &str) -> Option<u8> {
    value.parse().ok().filter(|level| *level < DEEPEST_HEADING).map(|level: u8| level + 1)
}

#[cfg(test)]
mod tests;
