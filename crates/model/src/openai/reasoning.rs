//! Thoughts and answers apart, where a server leaves both in one text.

use super::generate::without_begun;

/// A text, and what came before it between the tags.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Parted {
    pub(super) reasoning: Option<String>,
    pub(super) text: String,
}

/// Parts a text at its tags. The opening one counts only at the beginning: later it is something the
/// model writes about. A text with the closing tag alone comes from a template that opened the thoughts
/// itself (DeepSeek-R1, QwQ). Thoughts that never end leave no answer.
pub(super) fn part(text: String, [open, close]: &[String; 2]) -> Parted {
    let begun = text.trim_start().strip_prefix(open.as_str());
    let inside = begun.unwrap_or(&text);
    match (inside.split_once(close.as_str()), begun) {
        (Some((thoughts, answer)), _) => {
            let reasoning = Some(thoughts.trim().to_owned()).filter(|thoughts| !thoughts.is_empty());
            Parted { reasoning, text: answer.trim_start().to_owned() }
        }
        (None, Some(thoughts)) => Parted { reasoning: Some(thoughts.trim().to_owned()), text: String::new() },
        (None, None) => Parted { reasoning: None, text },
    }
}

/// What of a text's answer is settled while it is being written: nothing as long as it may be, or is, a thought, and
/// nothing that may become the closing tag.
pub(super) fn begun<'t>(text: &'t str, [open, close]: &[String; 2]) -> &'t str {
    if let Some((_, answer)) = text.split_once(close.as_str()) {
        return answer.trim_start();
    }
    let start = text.trim_start();
    if open.starts_with(start) || start.starts_with(open.as_str()) {
        return "";
    }
    without_begun(text, std::slice::from_ref(close))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// However the text is cut: what is settled is a beginning of the answer, unless the thoughts had no opening tag.
    #[test]
    fn a_beginning_of_the_answer_is_settled() {
        let tags = ["<think>".to_owned(), "</think>".to_owned()];
        for text in [
            "42",
            "  a < b",
            "<think>\nso\n</think>\n\n42 </think> 43",
            "\n<think>never done",
            "<thinking> is no tag",
            "ends in a part </thi",
        ] {
            let answer = part(text.to_owned(), &tags).text;
            let settled: Vec<&str> = (0..=text.len()).map(|end| begun(&text[..end], &tags)).collect();
            for (end, settled) in settled.iter().enumerate() {
                assert!(answer.starts_with(settled), "{settled:?} of {:?}", &text[..end]);
            }
            assert!(settled.is_sorted_by_key(|settled| settled.len()), "{settled:?}");
            assert!(answer.len() - settled[text.len()].len() < "</think>".len(), "{settled:?}");
        }
        assert_eq!(begun("I think so </think>\n42", &tags), "42");
    }

    #[test]
    fn texts_are_parted() {
        let tags = ["<think>".to_owned(), "</think>".to_owned()];
        for (text, reasoning, answer) in [
            ("42", None, "42"),
            ("<think>\nso\n</think>\n\n42", Some("so"), "42"),
            ("\n<think>so</think> 42 </think>", Some("so"), "42 </think>"),
            ("so it is\n</think>\n42", Some("so it is"), "42"),
            ("<think>\n\n</think>\n\n42", None, "42"),
            ("<think>never done", Some("never done"), ""),
            ("The tag <think> opens", None, "The tag <think> opens"),
        ] {
            let parted = part(text.to_owned(), &tags);
            assert_eq!((parted.reasoning.as_deref(), parted.text.as_str()), (reasoning, answer), "{text:?}");
        }
    }
}
