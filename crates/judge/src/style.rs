//! How an answer looks, whatever it says.

/// What Chatbot Arena's style control counts (LMSYS 2024; `add_markdown_info.py` of arena-hard-auto), with characters in
/// the place of a tokenizer's tokens. Code is no prose: what stands in closed fences has no headings or lists.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Style {
    pub characters: usize,
    /// Lines that begin with one to six `#` and a space.
    pub headers: usize,
    /// Lines that begin with `-`, `*`, `+` or `1.` and a space.
    pub list_items: usize,
    /// `**so**` or `__so__`, within a line.
    pub bold: usize,
    /// Closed fences.
    pub code_blocks: usize,
}

impl Style {
    #[must_use]
    pub fn of(text: &str) -> Self {
        let parts: Vec<&str> = text.split("```").collect();
        let code_blocks = (parts.len() - 1) / 2;
        // Behind a fence that nothing closes stands prose.
        let is_prose = |part: usize| part.is_multiple_of(2) || part > 2 * code_blocks;
        let prose: String =
            parts.iter().enumerate().filter(|(part, _)| is_prose(*part)).map(|(_, text)| *text).collect();
        let lines = |begins: fn(&str) -> bool| prose.lines().filter(|line| begins(line)).count();
        Self {
            characters: text.chars().count(),
            headers: lines(is_header),
            list_items: lines(is_list_item),
            bold: prose.lines().map(|line| enclosed(line, "**") + enclosed(line, "__")).sum(),
            code_blocks,
        }
    }

    /// Headers, list items, bold text and code together.
    #[must_use]
    pub fn marks(&self) -> usize {
        self.headers + self.list_items + self.bold + self.code_blocks
    }

    /// The names of [`Style::over`]'s numbers.
    pub const FEATURES: [&'static str; 4] = ["length", "headers", "lists", "bold"];

    /// By how much this has more than the other, (a - b) / (a + b + 1), of each thing.
    #[must_use]
    pub fn over(&self, other: &Self) -> [f64; 4] {
        let parts = |style: &Self| [style.characters, style.headers, style.list_items, style.bold];
        let (ours, theirs) = (parts(self).map(|n| n as f64), parts(other).map(|n| n as f64));
        std::array::from_fn(|i| (ours[i] - theirs[i]) / (ours[i] + theirs[i] + 1.0))
    }
}

/// Headings, list items, bold text and fenced code.
#[must_use]
pub fn formatting_marks(text: &str) -> usize {
    Style::of(text).marks()
}

fn is_header(line: &str) -> bool {
    let rest = line.trim_start_matches('#');
    (1..=6).contains(&(line.len() - rest.len())) && rest.starts_with(char::is_whitespace)
}

fn is_list_item(line: &str) -> bool {
    let line = line.trim_start();
    let numbered = line.trim_start_matches(|c: char| c.is_ascii_digit());
    let rest = match line.len() > numbered.len() {
        true => numbered.strip_prefix('.'),
        false => line.strip_prefix(['-', '*', '+']),
    };
    rest.is_some_and(|rest| rest.starts_with(char::is_whitespace))
}

/// Texts of a line between two such marks, without the mark's sign inside.
fn enclosed(line: &str, mark: &str) -> usize {
    let (mut rest, mut count) = (line, 0);
    while let Some(place) = rest.find(mark) {
        let inside = &rest[place + mark.len()..];
        match inside.find(&mark[..1]) {
            Some(end) if end > 0 && inside[end..].starts_with(mark) => {
                count += 1;
                rest = &inside[end + mark.len()..];
            }
            _ => rest = &rest[place + 1..],
        }
    }
    count
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn marks_are_counted_outside_of_code() {
        let text = "# H\n####### no\n#no\n- a\n * b\n12. c\n3.5 d\n**bold** x ***y** __z__ ** **\n\
                    ```\n# code\n- code\n```\n## I";
        let style = Style::of(text);
        assert_eq!((style.headers, style.list_items, style.bold, style.code_blocks), (2, 3, 4, 1));
        assert_eq!((style.characters, style.marks()), (text.chars().count(), 10));
        // Nothing closes this fence.
        assert_eq!(Style::of("```\n- a\n- b").list_items, 2);
        assert_eq!(Style::of(""), Style::default());
        assert_eq!(formatting_marks("a - b * c. 3.5 # no ** x"), 0);
    }

    #[test]
    fn differences_are_relative_and_of_opposite_sign() {
        let (a, b) = (Style::of("- a\n- b\n- cd"), Style::of("- a"));
        let over = a.over(&b);
        assert_eq!((over[0], over[1], over[2]), (9.0 / 16.0, 0.0, 2.0 / 5.0));
        assert_eq!(b.over(&a), over.map(|x| 0.0 - x));
    }
}
