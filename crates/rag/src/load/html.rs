//! The text of a page that a reader sees.

mod nesting;
mod style;

use std::path::Path;

use ego_tree::iter::Edge;
use scraper::node::Element;
use scraper::{Html, Node, Selector};

use super::{DocumentKind, Heading, LoadedText};
use crate::RagError;

/// Elements whose text nobody sees.
const UNSEEN: &[&str] = &[
    "script", "style", "template", "noscript", "head", "iframe", "object", "canvas", "datalist", "svg",
    "math",
];

/// Elements that begin a new line.
const BLOCKS: &[&str] = &[
    "address",
    "article",
    "aside",
    "blockquote",
    "body",
    "br",
    "caption",
    "dd",
    "details",
    "div",
    "dl",
    "dt",
    "fieldset",
    "figcaption",
    "figure",
    "footer",
    "form",
    "h1",
    "h2",
    "h3",
    "h4",
    "h5",
    "h6",
    "header",
    "hr",
    "li",
    "main",
    "nav",
    "ol",
    "p",
    "pre",
    "section",
    "summary",
    "table",
    "tr",
    "ul",
];

/// Visible text only: neither scripts, styles and comments nor what an attribute, an inline style or a rule of the
/// page's own style sheets hides.
///
/// # Errors
/// [`RagError::File`] for a page that nests so deep that reading it takes long.
pub(super) fn load(path: &Path, source: &LoadedText) -> Result<LoadedText, RagError> {
    if nesting::steps(&source.text) > nesting::MOST_STEPS {
        return Err(RagError::File {
            path: path.to_owned(),
            message: "its elements lie too deep in each other to be read".to_owned(),
            hint: Some("save it from a browser as text, and index that".to_owned()),
        });
    }
    let page = Html::parse_document(&source.text);
    let (hidden, left_out) = style::hidden_by_rules(&page, &sheets(&page));
    let mut out = LoadedText::new(String::new(), DocumentKind::Html, None);
    out.notes.clone_from(&source.notes);
    if left_out > 0 {
        out.notes.push(format!(
            "{left_out} of its style rules take too long to follow: text that they hide counts as seen"
        ));
    }
    out.title = title(&page);
    let mut writer = Writer { out, preformatted: 0, heading: None };
    let mut skipping = None;
    // By edges and not by recursion: a hostile page nests deeper than any stack.
    for edge in page.tree.root().traverse() {
        match edge {
            Edge::Open(_) if skipping.is_some() => {}
            Edge::Open(node) => match node.value() {
                Node::Text(text) => writer.text(text),
                Node::Element(element) => {
                    let named = UNSEEN.contains(&element.name());
                    if named || is_hidden(element) || hidden.contains(&node.id()) {
                        skipping = Some(node.id());
                    } else {
                        writer.open(element.name());
                    }
                }
                _ => {}
            },
            Edge::Close(node) => match (skipping, node.value()) {
                (Some(id), _) if id == node.id() => skipping = None,
                (None, Node::Element(element)) => writer.close(element.name()),
                _ => {}
            },
        }
    }
    Ok(writer.out)
}

fn title(page: &Html) -> Option<String> {
    let selector = Selector::parse("title").ok()?;
    let title: String = page.select(&selector).next()?.text().collect();
    let title = title.split_whitespace().collect::<Vec<_>>().join(" ");
    (!title.is_empty()).then_some(title)
}

fn is_hidden(element: &Element) -> bool {
    element.attr("hidden").is_some_and(|value| !value.eq_ignore_ascii_case("until-found"))
        || element.attr("style").is_some_and(hides)
}

/// Whether declarations of a style make text unreadable.
fn hides(declarations: &str) -> bool {
    declarations.split(';').any(|declaration| {
        let plain: String =
            declaration.chars().filter(|char| !char.is_whitespace()).collect::<String>().to_ascii_lowercase();
        let plain = plain.trim_end_matches("!important");
        match plain.split_once(':') {
            Some(("display", value)) => value == "none",
            Some(("visibility", value)) => matches!(value, "hidden" | "collapse"),
            Some(("font-size" | "opacity", value)) => {
                let number = value.trim_end_matches(|char: char| char.is_alphabetic() || char == '%');
                number.parse() == Ok(0.0f32)
            }
            _ => false,
        }
    })
}

/// The page's own style sheets.
fn sheets(page: &Html) -> Vec<String> {
    let Ok(styles) = Selector::parse("style") else { return Vec::new() };
    page.select(&styles).map(|style| style.text().collect()).collect()
}

/// Collapses white space as a browser does and keeps lines apart.
struct Writer {
    out: LoadedText,
    /// Open `pre` elements.
    preformatted: usize,
    /// Where the heading begins that is open, and its level.
    heading: Option<(usize, u8)>,
}

impl Writer {
    fn open(&mut self, name: &str) {
        match name {
            "td" | "th" => self.gap(" | "),
            "pre" => self.preformatted += 1,
            _ => {}
        }
        if BLOCKS.contains(&name) {
            self.new_line(if name == "p" { 2 } else { 1 });
        }
        if let Some(level) = heading_level(name) {
            self.new_line(2);
            self.heading = Some((self.out.text.len(), level));
        }
        if name == "li" {
            self.out.text.push_str("- ");
        }
    }

    fn close(&mut self, name: &str) {
        if name == "pre" {
            self.preformatted = self.preformatted.saturating_sub(1);
        }
        if heading_level(name).is_some()
            && let Some((start, level)) = self.heading.take()
        {
            let title = self.out.text[start..].trim().to_owned();
            if !title.is_empty() {
                self.out.headings.push(Heading { start, level, title });
            }
            self.new_line(2);
        } else if BLOCKS.contains(&name) {
            self.new_line(1);
        }
    }

    fn text(&mut self, text: &str) {
        if self.preformatted > 0 {
            self.out.text.push_str(text);
            return;
        }
        for (index, word) in text.split(is_space).enumerate() {
            if index > 0 {
                self.gap(" ");
            }
            self.out.text.push_str(word);
        }
    }

    /// Puts something between words, unless a line begins here or there is a space already.
    fn gap(&mut self, gap: &str) {
        let text = &mut self.out.text;
        if gap != " " && text.ends_with(' ') {
            text.truncate(text.trim_end_matches(' ').len());
        }
        if !text.is_empty() && !text.ends_with(['\n', ' ']) {
            text.push_str(gap);
        }
    }

    fn new_line(&mut self, lines: usize) {
        let text = &mut self.out.text;
        text.truncate(text.trim_end_matches(' ').len());
        if text.is_empty() {
            return;
        }
        let has = text.len() - text.trim_end_matches('\n').len();
        text.extend(std::iter::repeat_n('\n', lines.saturating_sub(has)));
    }
}

/// HTML's white space. A no-break space is not among it.
fn is_space(char: char) -> bool {
    matches!(char, ' ' | '\t' | '\n' | '\r' | '\x0c')
}

fn heading_level(name: &str) -> Option<u8> {
    match name.as_bytes() {
        [b'h', digit @ b'1'..=b'6'] => Some(digit - b'0'),
        _ => None,
    }
}
