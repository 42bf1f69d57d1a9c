use std::sync::LazyLock;

use regex::Regex;

/// Whether a text plainly declines to answer. Conservative on purpose: only set phrases at its beginning
/// count, and it is asked only where no answer could be read, so that a wrong answer is never excused.
pub(crate) fn is_refusal(text: &str) -> bool {
    static PHRASES: LazyLock<Option<Regex>> = LazyLock::new(|| {
        Regex::new(
            r"(?ix)^\W{0,3}(?:
            (?:i['’]?m|i\ am)\ (?:very\ |really\ |so\ )?sorry,?\ (?:but\ )?(?:i|as\ an?\ )
            | (?:i['’]?m|i\ am)\ (?:unable|not\ able|not\ allowed)\ to\b
            | (?:sorry|apologies|i\ apologi[sz]e),?\ (?:but\ )?i\ (?:can['’]?t|cannot|can\ not|won['’]?t|am\ unable|['’]m\ unable)
            | i\ (?:can['’]?t|cannot|can\ not|won['’]?t|will\ not|must\ decline\ to)\ (?:answer|assist|help|provide|comply|fulfil|do\ that|discuss|engage)
            | i\ (?:must|have\ to)\ decline
            | as\ an?\ (?:ai|artificial\ intelligence|large\ language|language)\b.{0,40}?\bi\ (?:can['’]?t|cannot|am\ unable|am\ not\ able|do\ not|don['’]?t)
            )",
        )
        .ok()
    });
    PHRASES.as_ref().is_some_and(|phrases| phrases.is_match(text))
}

#[cfg(test)]
mod tests {
    use super::is_refusal;

    #[test]
    fn plain_refusals() {
        for text in [
            "I'm sorry, but I can't help with that.",
            " I cannot answer this question.",
            "I’m unable to provide that.",
            "As an AI language model, I do not have opinions.",
            "Sorry, I can't do this.",
            "I must decline.",
        ] {
            assert!(is_refusal(text), "{text}");
        }
    }

    #[test]
    fn answers_are_no_refusals() {
        for text in [
            "",
            "The answer is (B).",
            "She said: I'm sorry, but I can't. So 5 apples remain.",
            "I cannot see how 5 could be right, so the answer is 6",
            "I am not sure. Let me count.",
            "Sorry was the name of the dog.",
        ] {
            assert!(!is_refusal(text), "{text}");
        }
    }
}
