//! Rules of style sheets that make text unreadable.
//!
//! A page chooses how many rules and how many elements it has, and holding every rule against every element would
//! take their product. So every rule has a price, the steps that matching it can take, and a page has a budget;
//! which rules were left out for it is told.

use std::collections::BTreeSet;

use ego_tree::NodeId;
use scraper::{Html, Selector};

/// Steps that one page may take: a second or so. A page of 20,000 elements pays for some hundred rules.
const BUDGET: u64 = 50_000_000;
/// Characters of a selector that cost one step at each element.
const CHARACTERS_PER_STEP: u64 = 8;

/// A rule that hides what its selector selects.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct HidingRule<'a> {
    selector: &'a str,
}

/// Elements that the rules of its sheets hide, and how many hiding rules were not followed.
pub(super) fn hidden_by_rules(page: &Html, sheets: &[String]) -> (BTreeSet<NodeId>, usize) {
    let (mut hidden, mut left_out) = (BTreeSet::new(), 0);
    let mut rules: Vec<HidingRule<'_>> = Vec::new();
    for sheet in sheets {
        rules_of(sheet, &mut rules);
    }
    if rules.is_empty() {
        return (hidden, left_out);
    }
    let size = Size::of(page);
    let (mut budget, mut seen) = (BUDGET, BTreeSet::new());
    for HidingRule { selector } in rules {
        // The same rule many times costs once.
        if !seen.insert(selector) {
            continue;
        }
        let Some(left) = budget.checked_sub(size.price(selector)) else {
            left_out += 1;
            continue;
        };
        // What is no selector hides nothing in a browser either.
        let Ok(parsed) = Selector::parse(selector) else { continue };
        budget = left;
        hidden.extend(page.select(&parsed).map(|element| element.id()));
    }
    (hidden, left_out)
}

/// What matching has to look at.
struct Size {
    elements: u64,
    /// Sum over all elements of how deep they lie.
    depths: u64,
}

impl Size {
    fn of(page: &Html) -> Self {
        let (mut size, mut depth) = (Self { elements: 0, depths: 0 }, 0);
        for edge in page.tree.root().traverse() {
            match edge {
                ego_tree::iter::Edge::Open(_) => {
                    depth += 1;
                    size.elements += 1;
                    size.depths += depth;
                }
                ego_tree::iter::Edge::Close(_) => depth -= 1,
            }
        }
        size
    }

    /// Most steps that matching a selector takes: relations to siblings and what begins with a colon may look at all
    /// elements from each, relations to ancestors at all ancestors.
    fn price(&self, selector: &str) -> u64 {
        let each = 1 + selector.len() as u64 / CHARACTERS_PER_STEP;
        let looks_at = if selector.contains([':', '+', '~']) {
            self.elements.saturating_mul(self.elements)
        } else if selector.contains(|char: char| char.is_whitespace() || char == '>') {
            self.depths
        } else {
            self.elements
        };
        looks_at.saturating_mul(each)
    }
}

/// The hiding rules of a sheet, also those within `@layer`, `@supports` and `@media` for all or screens; rules for
/// printers or narrow screens hide nothing from most readers.
fn rules_of<'a>(sheet: &'a str, rules: &mut Vec<HidingRule<'a>>) {
    let mut open: Vec<Block<'a>> = Vec::new();
    let mut start = 0;
    for (at, mark) in marks(sheet) {
        let before = without_comments_before(&sheet[start..at]);
        start = at + 1;
        let followed = open.last().is_none_or(|block| matches!(block, Block::Group));
        match mark {
            '{' if followed => open.push(Block::of(before)),
            // Rules within a rule.
            '{' => open.push(Block::Other),
            '}' => {
                rules.extend(open.pop().and_then(|block| block.with(before).closed()));
            }
            _ => {
                if let Some(block) = open.pop() {
                    open.push(block.with(before));
                }
            }
        }
    }
    // The end of a sheet closes what is open.
    rules.extend(open.pop().and_then(|block| block.with(&sheet[start..]).closed()));
}

/// What stands between braces.
#[derive(Debug)]
enum Block<'a> {
    Rule {
        selector: &'a str,
        hides: bool,
    },
    /// Rules that count as if they stood outside.
    Group,
    Other,
}

impl<'a> Block<'a> {
    fn of(head: &'a str) -> Self {
        let Some(name) = head.strip_prefix('@') else {
            return Self::Rule { selector: head, hides: false };
        };
        let (name, rest) = name.split_once(char::is_whitespace).unwrap_or((name, ""));
        match (name.to_ascii_lowercase().as_str(), rest.trim().to_ascii_lowercase().as_str()) {
            ("layer" | "supports", _) | ("media", "all" | "screen") => Self::Group,
            _ => Self::Other,
        }
    }

    /// After one more declaration.
    fn with(self, declaration: &str) -> Self {
        match self {
            Self::Rule { selector, hides } => {
                Self::Rule { selector, hides: hides || super::hides(declaration) }
            }
            other => other,
        }
    }

    fn closed(self) -> Option<HidingRule<'a>> {
        match self {
            Self::Rule { selector, hides: true } => Some(HidingRule { selector }),
            Self::Rule { .. } | Self::Group | Self::Other => None,
        }
    }
}

/// Braces and semicolons that are none of a string's or a comment's, with their places.
fn marks(sheet: &str) -> impl Iterator<Item = (usize, char)> + '_ {
    let bytes = sheet.as_bytes();
    let (mut at, mut quote) = (0, None);
    std::iter::from_fn(move || {
        while let Some(byte) = bytes.get(at).copied() {
            let here = at;
            at += 1;
            match (quote, byte) {
                (_, b'\\') => at += 1,
                // A string that is not closed ends with its line.
                (Some(open), _) if byte == open || byte == b'\n' => quote = None,
                (Some(_), _) => {}
                (None, b'"' | b'\'') => quote = Some(byte),
                (None, b'/') if bytes.get(at) == Some(&b'*') => {
                    at = sheet
                        .get(at + 1..)
                        .and_then(|rest| rest.find("*/"))
                        .map_or(bytes.len(), |end| at + 1 + end + 2);
                }
                (None, b'{' | b'}' | b';') => return Some((here, char::from(byte))),
                (None, _) => {}
            }
        }
        None
    })
}

/// Comments stand in front of rules; within a selector they are rare, and such a rule selects nothing here.
fn without_comments_before(text: &str) -> &str {
    let mut text = text.trim();
    while let Some(end) = text.strip_prefix("/*").and_then(|rest| rest.find("*/")) {
        text = text[end + 4..].trim_start();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn selectors(sheet: &str) -> Vec<&str> {
        let mut rules = Vec::new();
        rules_of(sheet, &mut rules);
        rules.into_iter().map(|rule| rule.selector).collect()
    }

    #[test]
    fn hiding_rules_are_found_wherever_they_stand() {
        let sheet = "@charset \"utf-8\"; @import url(a.css);
            .a { display: none } .b{color:red;display:none !important}
            /* } .no{display:none} */ .c, .d { content: \"}\"; visibility: hidden; }
            @media print { .no { display: none } } @media screen { .e { opacity: 0 } }
            @font-face { src: url(f) } @layer base { @supports (a: b) { .f { font-size: 0px } } }
            .g { color: red; .no { display: none } } .h { display: block }
            .i { .no { color: red } display: none } .j { display: none";
        assert_eq!(selectors(sheet), [".a", ".b", ".c, .d", ".e", ".f", ".i", ".j"]);
    }

    #[test]
    fn no_sheet_makes_it_fail() {
        for sheet in
            ["", "}", "{", "\\", "'", "/*", "/*/", "@", "@media", "}{", "a{", "{}}", "\"\\", ";;{;};"]
        {
            selectors(sheet);
        }
    }
}
