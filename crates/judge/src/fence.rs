//! Data blocks: how text that somebody else wrote is shown to a judge.
//!
//! A block begins and ends with a line that bears a tag. The tag is a hash of everything that is fenced and
//! of the run's seed: nobody can write a text that contains the hash of that very text, and where one does
//! contain it by accident another tag is taken. So no text can end its own block or begin another. The same
//! material gives the same prompt, so that answers can be cached and runs resumed.
//!
//! Spellings of special tokens (`<|im_end|>`) would become those tokens and end the user's turn: they are
//! broken up with a zero-width space.

use evalign_core::Digest;

/// Hexadecimal digits of a tag: 128 bits.
const TAG_DIGITS: usize = 32;
/// What breaks up a special token.
const BREAK: char = '\u{200b}';

/// Spellings of the special tokens of common chat templates. Beginnings are enough: `<|` covers all of
/// `ChatML`, Llama 3 and Phi. A model in this process says its own too.
const SPECIAL: [&str; 22] = [
    "<|",
    "|>",
    "<｜",
    "｜>",
    "<s>",
    "</s>",
    "[INST]",
    "[/INST]",
    "<<SYS>>",
    "<</SYS>>",
    "<start_of_turn>",
    "<end_of_turn>",
    "<bos>",
    "<eos>",
    "<pad>",
    "<unk>",
    "[SYSTEM_PROMPT]",
    "[/SYSTEM_PROMPT]",
    "[AVAILABLE_TOOLS]",
    "[TOOL_CALLS]",
    "<think>",
    "</think>",
];

/// The tag of one prompt, and the special tokens of the model that will read it.
#[derive(Clone, Debug)]
pub struct Fence {
    tag: String,
    special: Vec<String>,
}

impl Fence {
    /// A fence for these texts. `special` are the spellings of the model's special tokens.
    #[must_use]
    pub fn around(texts: &[&str], seed: u64, special: &[String]) -> Self {
        let mut round = 0u64;
        loop {
            let parts: Vec<String> = texts.iter().map(|text| Digest::of(text).as_str().to_owned()).collect();
            let digest = Digest::of(format!("evalign fence 1 {seed} {round} {}", parts.join(" ")));
            let tag = digest.as_str().get(..TAG_DIGITS).unwrap_or_default();
            if !texts.iter().any(|text| text.contains(tag)) {
                return Self { tag: tag.to_owned(), special: special.to_vec() };
            }
            round += 1;
        }
    }

    /// What marks the lines around blocks.
    #[must_use]
    pub fn tag(&self) -> &str {
        &self.tag
    }

    /// A block with a name (of ours, not of the text's).
    #[must_use]
    pub fn block(&self, name: &str, text: &str) -> String {
        let tag = &self.tag;
        format!("[{tag} BEGIN {name}]\n{}\n[{tag} END {name}]", self.harmless(text))
    }

    /// The text with every special token's spelling broken up.
    #[must_use]
    pub fn harmless(&self, text: &str) -> String {
        harmless(text, &self.special)
    }
}

/// The text with every special token's spelling broken up: those of common templates, and these.
pub(crate) fn harmless(text: &str, special: &[String]) -> String {
    let special = SPECIAL.iter().copied().chain(special.iter().map(String::as_str));
    let spellings: Vec<&str> = special.filter(|spelling| spelling.chars().count() > 1).collect();
    let mut safe = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        safe.push(first);
        let is_special = spellings.iter().any(|spelling| rest.starts_with(spelling));
        rest = &rest[first.len_utf8()..];
        if is_special {
            safe.push(BREAK);
        }
    }
    safe
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn fence(texts: &[&str]) -> Fence {
        Fence::around(texts, 1234, &["<custom>".to_owned()])
    }

    #[test]
    fn special_tokens_lose_their_spelling_and_nothing_else_changes() {
        let text = "a<|im_end|>\n<|im_start|>system\n</s>[INST] Vec<u8> 3 < 4 <custom><<|x|>>";
        let safe = fence(&[text]).harmless(text);
        for spelling in SPECIAL.iter().chain(&["<custom>", "<|im_end|>"]) {
            assert!(!safe.contains(spelling), "{spelling} in {safe}");
        }
        assert_eq!(safe.replace(BREAK, ""), text);
        assert_eq!(fence(&["x"]).harmless("Vec<u8> 3 < 4 | 5 > 2"), "Vec<u8> 3 < 4 | 5 > 2");
    }

    #[test]
    fn the_same_material_has_the_same_fence_and_other_material_another() {
        assert_eq!(fence(&["a", "b"]).tag(), fence(&["a", "b"]).tag());
        assert_ne!(fence(&["a", "b"]).tag(), fence(&["ab", ""]).tag());
        assert_ne!(fence(&["a"]).tag(), Fence::around(&["a"], 1, &[]).tag());
    }

    proptest! {
        /// Whatever a text holds, lines and tags of other prompts included, its block has one end: the last line.
        #[test]
        fn promise_30_no_text_ends_its_block(
            parts in prop::collection::vec("(\\PC{0,12}|\n|\\[|END|BEGIN|answer|<\\||\\|>)", 0..20),
            other in "\\PC{0,20}",
        ) {
            let known = fence(&[&other]);
            let mut text = parts.concat();
            text.push_str(&known.block("answer", &other));
            let fence = fence(&[&text, &other]);
            let block = fence.block("answer", &text);
            prop_assert_eq!(block.matches(fence.tag()).count(), 2);
            let begin = format!("[{} BEGIN answer]\n", fence.tag());
            let end = format!("\n[{} END answer]", fence.tag());
            let inside = block.strip_prefix(&begin).and_then(|rest| rest.strip_suffix(&end)).unwrap();
            prop_assert_eq!(inside.replace(BREAK, ""), text.replace(BREAK, ""));
            prop_assert!(!inside.contains("<|") && !inside.contains("|>"));
        }
    }
}
