//! How deep a page nests, before it is parsed: at many tags the parser looks at all elements that are open.

/// Looks at open elements that reading a page may take: at 9 ns each some 14 seconds, and a hundred times what a long
/// page needs.
pub(super) const MOST_STEPS: u64 = 1_500_000_000;

/// Elements that hold nothing, and elements that the next of their kind closes.
const NEVER_DEEP: [&str; 25] = [
    "a", "area", "base", "br", "col", "dd", "dt", "embed", "hr", "img", "input", "li", "link", "meta",
    "option", "p", "param", "source", "td", "tfoot", "th", "thead", "tr", "track", "wbr",
];

/// Sum over all tags of the elements that are open there. Counted by the tags alone, so roughly.
pub(super) fn steps(page: &str) -> u64 {
    let (mut steps, mut depth) = (0u64, 0u64);
    for tag in page.split('<').skip(1) {
        let (name, opens) = match tag.strip_prefix('/') {
            Some(name) => (name, false),
            None => (tag, true),
        };
        let length = name.bytes().take_while(u8::is_ascii_alphanumeric).count();
        let name = &name[..length];
        if length == 0 || NEVER_DEEP.iter().any(|shallow| shallow.eq_ignore_ascii_case(name)) {
            continue;
        }
        depth = if opens { depth + 1 } else { depth.saturating_sub(1) };
        steps += depth;
    }
    steps
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn deep_pages_are_told_from_long_ones() {
        assert_eq!(steps("<div><P>a<p>b<br><b>c</b></DIV> 1 < 2 </x>"), 1 + 2 + 1);
        assert!(steps(&"<div><span>a</span><p>b".repeat(20_000)) < MOST_STEPS);
        assert!(steps(&"<div><p>a<b>b</b></p></div>".repeat(1_000_000)) < MOST_STEPS / 100);
        assert!(steps(&"<div>".repeat(100_000)) > MOST_STEPS);
    }
}
