//! What reading a page would cost, before it is parsed. Two things grow faster than a page: at most tags the parser looks
//! at all elements that are open, and formatting that is still open when a paragraph ends (`<p><b><i>` ... `</p>`) is
//! opened anew in the next one, all of it.

use std::collections::BTreeMap;

/// Steps that reading a page may take: at about 9 ns each, a second. A long page takes a hundredth of them.
pub(super) const MOST_STEPS: u64 = 100_000_000;
/// Steps that an element costs which is opened anew: it also takes some hundred bytes.
const STEPS_PER_COPY: u64 = 50;

/// Elements that hold nothing, and elements that the next of their kind closes.
const NEVER_DEEP: [&str; 25] = [
    "a", "area", "base", "br", "col", "dd", "dt", "embed", "hr", "img", "input", "li", "link", "meta",
    "option", "p", "param", "source", "td", "tfoot", "th", "thead", "tr", "track", "wbr",
];

/// Elements that are opened anew (HTML standard, "formatting"), but for those that the next of their kind closes.
const FORMATTING: [&str; 12] =
    ["b", "big", "code", "em", "font", "i", "s", "small", "strike", "strong", "tt", "u"];
/// Of tags that are the same, letter by letter, no more are opened anew (HTML standard, "Noah's Ark clause").
const COPIES_OF_ONE: u64 = 3;
/// Formatting that pages in use leave open: costs nothing here.
const USUAL_COPIES: u64 = 8;

/// Elements in which the parser looks for nothing but their end.
const RAW: [&str; 5] = ["script", "style", "textarea", "title", "iframe"];
/// Elements in which, or after which, those of [`RAW`] may be read otherwise.
const UNSURE: [&str; 9] =
    ["frameset", "math", "noembed", "noframes", "noscript", "plaintext", "select", "svg", "xmp"];

/// No name that is told from others here is longer, in bytes.
const LONGEST_NAME: usize = 32;

/// Sum over all tags of the elements that are open there, and of those that may be opened anew. Counted by the tags
/// alone, so roughly, and no further than to [`MOST_STEPS`].
///
/// Code, styles and comments are passed over as long as it is sure that the parser does so too. From the first element
/// on that could make it read otherwise (`<svg><script/>`), each `<` counts: rather too many than a page that hides
/// its tags.
pub(super) fn steps(page: &str) -> u64 {
    let mut count = Count::default();
    let (mut rest, mut is_sure) = (page, true);
    while let Some(at) = rest.find('<')
        && count.steps <= MOST_STEPS
    {
        rest = &rest[at + 1..];
        let tag = Tag::at(rest);
        if let Some(tag) = &tag {
            let text = rest.split(['<', '>']).next().unwrap_or_default();
            count.see(tag, if is_sure { &rest[..tag_end(rest)] } else { text });
            is_sure = is_sure && !tag.is_one_of(&UNSURE);
        }
        if is_sure {
            match passed_over(rest, tag.as_ref()) {
                Some(length) => rest = &rest[length..],
                None => is_sure = false,
            }
        }
    }
    count.steps
}

struct Tag<'a> {
    /// Cut to [`LONGEST_NAME`].
    name: &'a [u8],
    opens: bool,
}

impl<'a> Tag<'a> {
    /// The tag behind a `<`, `None` where none begins there.
    fn at(rest: &'a str) -> Option<Self> {
        let (text, opens) = match rest.strip_prefix('/') {
            Some(text) => (text, false),
            None => (rest, true),
        };
        let text = &text.as_bytes()[..text.len().min(LONGEST_NAME)];
        let end = text.iter().position(|byte| is_name_end(*byte)).unwrap_or(text.len());
        text.first()?.is_ascii_alphabetic().then_some(Self { name: &text[..end], opens })
    }

    fn is_one_of(&self, names: &[&str]) -> bool {
        names.iter().any(|known| known.as_bytes().eq_ignore_ascii_case(self.name))
    }
}

fn is_name_end(byte: u8) -> bool {
    byte.is_ascii_whitespace() || matches!(byte, b'/' | b'>')
}

/// Bytes behind a `<` up to where the parser looks for the next tag (HTML standard, "Tokenization"), where that is sure.
fn passed_over(rest: &str, tag: Option<&Tag<'_>>) -> Option<usize> {
    let Some(tag) = tag else {
        return Some(match rest.as_bytes() {
            [b'!', b'-', b'-', ..] => comment_end(rest),
            [b'!' | b'?' | b'/', ..] => rest.find('>').unwrap_or(rest.len()),
            _ => 0,
        });
    };
    let end = tag_end(rest);
    if !tag.opens || !tag.is_one_of(&RAW) {
        return Some(end);
    }
    let raw = &rest[end..];
    let is_end = |at: &usize| {
        let behind = &raw.as_bytes()[at + 2..];
        behind.get(..tag.name.len()).is_some_and(|name| name.eq_ignore_ascii_case(tag.name))
            && behind.get(tag.name.len()).is_some_and(|byte| is_name_end(*byte))
    };
    let length = raw.match_indices("</").map(|(at, _)| at).find(is_end).unwrap_or(raw.len());
    // In a script, `<!-- <script>` makes the next end tag one that ends nothing.
    let is_sure = !tag.is_one_of(&["script"]) || !raw[..length].contains("<!--");
    is_sure.then_some(end + length)
}

/// Where the `>` of a comment is. `<!-->` and `<!--->` are whole ones, and `--!>` ends one too.
fn comment_end(rest: &str) -> usize {
    let ends = |at: &usize| {
        let before = &rest[..*at];
        before.ends_with("--") || *at >= "!----!".len() && before.ends_with("--!")
    };
    rest.match_indices('>').map(|(at, _)| at).find(ends).unwrap_or(rest.len())
}

/// Where the `>` of a tag is: the first one that stands in no quotes.
fn tag_end(tag: &str) -> usize {
    #[derive(Clone, Copy)]
    enum At {
        Space,
        Name,
        AfterName,
        BeforeValue,
        Value,
        Quoted(u8),
    }
    let name = tag.bytes().skip(1).position(is_name_end).map_or(tag.len(), |at| at + 1);
    let mut at = At::Space;
    for (position, byte) in tag.bytes().enumerate().skip(name) {
        at = match (at, byte) {
            (At::Quoted(quote), _) if byte == quote => At::Space,
            (At::Quoted(_), _) => at,
            (_, b'>') => return position,
            (At::BeforeValue, b'"' | b'\'') => At::Quoted(byte),
            (At::BeforeValue | At::AfterName, _) if byte.is_ascii_whitespace() => at,
            (At::Name | At::AfterName, b'=') => At::BeforeValue,
            (At::Name, _) if byte.is_ascii_whitespace() => At::AfterName,
            (_, _) if byte.is_ascii_whitespace() => At::Space,
            (At::BeforeValue | At::Value, _) => At::Value,
            (_, b'/') => At::Space,
            _ => At::Name,
        };
    }
    tag.len()
}

/// What was counted so far.
#[derive(Default)]
struct Count<'a> {
    steps: u64,
    depth: u64,
    formatting: Formatting<'a>,
}

impl<'a> Count<'a> {
    /// `text`: the tag without its brackets.
    fn see(&mut self, tag: &Tag<'_>, text: &'a str) {
        let is = |known: &&str| tag.is_one_of(&[known]);
        if let Some(kind) = FORMATTING.iter().position(is) {
            self.formatting.see(kind, text, tag.opens);
        }
        if !tag.is_one_of(&NEVER_DEEP) {
            self.depth = if tag.opens { self.depth + 1 } else { self.depth.saturating_sub(1) };
        }
        self.steps += self.depth + STEPS_PER_COPY * self.formatting.copies.saturating_sub(USUAL_COPIES);
    }
}

/// Formatting that is open.
#[derive(Default)]
struct Formatting<'a> {
    /// The tags of each of [`FORMATTING`], in their order.
    open: [Vec<&'a str>; FORMATTING.len()],
    /// How often each tag is open.
    tags: BTreeMap<&'a str, u64>,
    /// Elements that the next paragraph may open anew.
    copies: u64,
}

impl<'a> Formatting<'a> {
    fn see(&mut self, kind: usize, tag: &'a str, opens: bool) {
        if opens {
            self.open[kind].push(tag);
            let count = self.tags.entry(tag).or_default();
            *count += 1;
            self.copies += u64::from(*count <= COPIES_OF_ONE);
        } else if let Some(tag) = self.open[kind].pop()
            && let Some(count) = self.tags.get_mut(tag)
        {
            self.copies -= u64::from(*count <= COPIES_OF_ONE);
            *count -= 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn deep_pages_are_told_from_long_ones() {
        assert_eq!(steps("<div><P>a<p>b<br><b>c</b></DIV> 1 < 2 </x>"), 1 + 1 + 1 + 1 + 2 + 1);
        assert!(steps(&"<div><span>a</span><p>b".repeat(5_000)) < MOST_STEPS);
        assert!(steps(&"<div><p>a<b>b</b></p></div>".repeat(1_000_000)) < MOST_STEPS / 10);
        assert!(steps(&"<div>".repeat(50_000)) > MOST_STEPS);
    }

    #[test]
    fn formatting_that_every_paragraph_opens_anew_is_counted() {
        let open = |count: usize| (0..count).map(|at| format!("<b id={at}>")).collect::<String>();
        let paragraphs = "</p>a<p>b".repeat(10_000);
        assert!(steps(&format!("<p>{}{paragraphs}", open(1_000))) > MOST_STEPS);
        // A font that nobody closed, on every line of a long page.
        assert!(steps(&"<p><font size=2>a".repeat(5_000)) < MOST_STEPS / 2);
        assert!(steps(&format!("<p>{}{paragraphs}", open(10))) < MOST_STEPS / 10);
    }

    #[test]
    fn code_styles_and_comments_are_passed_over() {
        let forms = (0..600).map(|at| format!("for(i{at}=0;i<s;)x<b &&y<i >z{at};if(a<n )<u id={at}>"));
        let code: String = forms.collect();
        let page = "<p>a<a href='b'>c</a>".repeat(50_000);
        let plain = steps(&page);
        for (open, close) in [("<script>", "</SCRIPT >"), ("<style>", "</style>"), ("<!--", "-->")] {
            assert!(steps(&format!("{open}{code}{close}{page}")) < plain + 100_000, "{open}");
        }
        // Behind a drawing all counts, and still does no harm where the code is ordinary.
        let minified = (0..600).map(|at| format!("for(i=0;i<s;)x{at}(a<b&&c)")).collect::<String>();
        let ordinary = "<p>a<a href='b'>c</a>".repeat(10_000);
        assert!(steps(&format!("<svg></svg><script>{minified}</script>{ordinary}")) < MOST_STEPS);
    }

    #[test]
    fn nothing_that_looks_passed_over_hides_a_deep_page() {
        let deep = "<div>".repeat(50_000);
        let disguises = [
            "<svg><script/>",
            "<svg><script>",
            "<select><title></select>",
            "<textarea><script></textarea>",
            "<p title='<script>'>",
            "<p title=a'b c=\"<script>\">",
            "<script></script x='>'>",
            "<script><!--<script></script><a b=\"</script>",
            "<style><a b=\"</style>",
            "<!-->",
            "<!--->",
            "<!-- --!>",
            "<!--!> <a b=\" -->",
            "<!---!> <a b=\" -->",
            "<!doctype \">",
            "</ a=\">",
            "<? a=\">",
            "<a =\">",
            "<xmp><script></xmp>",
            "<script<x>",
        ];
        for disguise in disguises {
            assert!(steps(&format!("{disguise}{deep}")) > MOST_STEPS, "{disguise}");
        }
    }
}
