//! Source code cut between its items.

use std::ops::Range;

use tree_sitter::{Language, Node, Parser};

use super::Unit;
use super::split::Splitter;
use crate::load::DocumentKind;

/// Items within items are followed so deep.
const DEEPEST: usize = 6;

/// Items of a source file; items that fit no chunk are cut between the items inside them. What the grammar cannot
/// read is one unit.
pub(super) fn units(text: &str, kind: DocumentKind, splitter: &Splitter<'_>) -> Vec<Unit> {
    let whole = || vec![Unit { range: 0..text.len(), section: Vec::new(), joins: true }];
    let Some(language) = language(kind) else { return whole() };
    let mut parser = Parser::new();
    if parser.set_language(&language).is_err() {
        return whole();
    }
    let Some(tree) = parser.parse(text, None) else { return whole() };
    let mut cutter = Cutter { text, splitter, units: Vec::new() };
    cutter.cut(tree.root_node(), 0..text.len(), &[], 0);
    cutter.units
}

fn language(kind: DocumentKind) -> Option<Language> {
    match kind {
        DocumentKind::Rust => Some(tree_sitter_rust::LANGUAGE.into()),
        DocumentKind::Python => Some(tree_sitter_python::LANGUAGE.into()),
        DocumentKind::Javascript => Some(tree_sitter_javascript::LANGUAGE.into()),
        DocumentKind::Go => Some(tree_sitter_go::LANGUAGE.into()),
        _ => None,
    }
}

struct Cutter<'a> {
    text: &'a str,
    splitter: &'a Splitter<'a>,
    units: Vec<Unit>,
}

impl Cutter<'_> {
    /// Cuts `range` between the children of a node. Comments and attributes stay with the item after them.
    fn cut(&mut self, node: Node<'_>, range: Range<usize>, section: &[String], depth: usize) {
        let mut start = range.start;
        let mut cursor = node.walk();
        let items: Vec<Node<'_>> = node.named_children(&mut cursor).collect();
        for item in items.iter().filter(|item| !belongs_to_next(item)) {
            let end = self.line_end(item.end_byte()).min(range.end);
            if end <= start {
                continue;
            }
            self.item(*item, start..end, section, depth);
            start = end;
        }
        if start < range.end {
            self.push(start..range.end, section);
        }
    }

    fn item(&mut self, item: Node<'_>, range: Range<usize>, section: &[String], depth: usize) {
        let mut section = section.to_vec();
        section.extend(self.name(item));
        let body = body(item).filter(|body| body.named_child_count() > 1 && depth < DEEPEST);
        match body {
            Some(body) if self.splitter.tokens(range.clone()).is_none() => {
                self.cut(body, range, &section, depth + 1);
            }
            _ => self.push(range, &section),
        }
    }

    fn push(&mut self, range: Range<usize>, section: &[String]) {
        self.units.push(Unit { range, section: section.to_vec(), joins: true });
    }

    fn name(&self, item: Node<'_>) -> Option<String> {
        let named = item.child_by_field_name("definition").unwrap_or(item);
        let name = named.child_by_field_name("name").or_else(|| named.child_by_field_name("type"))?;
        self.text.get(name.byte_range()).map(str::to_owned)
    }

    /// The end of the line that `byte` is in, if nothing but space or a delimiter follows in it.
    fn line_end(&self, byte: usize) -> usize {
        let rest = &self.text[byte..];
        let line = rest.split_inclusive('\n').next().unwrap_or_default();
        let blank = line.trim_matches(|char: char| char.is_whitespace() || matches!(char, ',' | ';'));
        if blank.is_empty() { byte + line.len() } else { byte }
    }
}

fn belongs_to_next(node: &Node<'_>) -> bool {
    node.kind().contains("comment") || matches!(node.kind(), "attribute_item" | "decorator")
}

/// What holds an item's own items.
fn body<'t>(item: Node<'t>) -> Option<Node<'t>> {
    let inner = item.child_by_field_name("definition").unwrap_or(item);
    let body = inner.child_by_field_name("body")?;
    // Statements of a function are no items: a function is cut at blank lines and lines.
    let holds_items = matches!(body.kind(), "declaration_list" | "class_body")
        || (body.kind() == "block" && inner.kind() == "class_definition");
    holds_items.then_some(body)
}
