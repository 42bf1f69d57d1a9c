/// One way to write a number, so that `$1,000.00`, `1000` and `1,000.` are the same answer: sign, digits
/// without leading zeros, fraction without trailing zeros. `None` for what is no number.
pub(crate) fn canonical_number(text: &str) -> Option<String> {
    let text = text.trim();
    let (negative, text) = match text.strip_prefix(['-', '\u{2212}']) {
        Some(rest) => (true, rest),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    let text = text.trim_start().strip_prefix('$').unwrap_or(text);
    let digits: String = text.trim().chars().filter(|c| *c != ',').collect();
    let (whole, fraction) = digits.split_once('.').unwrap_or((digits.as_str(), ""));
    let only_digits = |part: &str| part.bytes().all(|b| b.is_ascii_digit());
    if !only_digits(whole) || !only_digits(fraction) || (whole.is_empty() && fraction.is_empty()) {
        return None;
    }
    let whole = whole.trim_start_matches('0');
    let fraction = fraction.trim_end_matches('0');
    let mut out = String::with_capacity(digits.len() + 1);
    if negative && !(whole.is_empty() && fraction.is_empty()) {
        out.push('-');
    }
    out.push_str(if whole.is_empty() { "0" } else { whole });
    if !fraction.is_empty() {
        out.push('.');
        out.push_str(fraction);
    }
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_same_number_is_written_the_same_way() {
        for (text, expected) in [
            ("18", "18"),
            ("18.00", "18"),
            ("18.", "18"),
            ("$18.50", "18.5"),
            ("-$1,000", "-1000"),
            ("1,000", "1000"),
            (" 007 ", "7"),
            (".5", "0.5"),
            ("-0.0", "0"),
            ("\u{2212}3", "-3"),
        ] {
            assert_eq!(canonical_number(text).as_deref(), Some(expected), "{text}");
        }
        for text in ["", ".", "$", "-", "...", "1.2.3", "a1", "1e5", "18%", "1 2"] {
            assert_eq!(canonical_number(text), None, "{text}");
        }
    }

    proptest! {
        #[test]
        fn writing_twice_changes_nothing(text in "[-+$]{0,2}[0-9,.]{0,12}") {
            if let Some(once) = canonical_number(&text) {
                prop_assert_eq!(canonical_number(&once), Some(once));
            }
        }

        #[test]
        fn values_survive(whole in -1_000_000i64..1_000_000, cents in 0u32..100) {
            let text = format!("{whole}.{cents:02}");
            let canonical = canonical_number(&text).unwrap();
            prop_assert_eq!(canonical.parse::<f64>().unwrap() + 0.0, text.parse::<f64>().unwrap() + 0.0);
        }
    }
}
