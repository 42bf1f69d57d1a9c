//! Thoughts and answers apart, where a server leaves both in one text.

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

#[cfg(test)]
mod tests {
    use super::*;

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
