use evalign_stats::SplitMix64;

use crate::python;

/// Most spaces that stand for one.
pub(crate) const MOST_SPACES: u64 = 3;

/// The letters next to each letter on a QWERTY keyboard.
const NEIGHBOURS: [(u8, &[u8]); 26] = [
    (b'a', b"qwsz"),
    (b'b', b"vghn"),
    (b'c', b"xdfv"),
    (b'd', b"serfcx"),
    (b'e', b"wsdr"),
    (b'f', b"drtgvc"),
    (b'g', b"ftyhbv"),
    (b'h', b"gyujnb"),
    (b'i', b"ujko"),
    (b'j', b"huikmn"),
    (b'k', b"jiolm"),
    (b'l', b"kop"),
    (b'm', b"njk"),
    (b'n', b"bhjm"),
    (b'o', b"iklp"),
    (b'p', b"ol"),
    (b'q', b"wa"),
    (b'r', b"edft"),
    (b's', b"awedxz"),
    (b't', b"rfgy"),
    (b'u', b"yhji"),
    (b'v', b"cfgb"),
    (b'w', b"qase"),
    (b'x', b"zsdc"),
    (b'y', b"tghu"),
    (b'z', b"asx"),
];

/// Every letter of the Latin alphabet without accents is replaced with probability `rate` by a
/// neighbour on the keyboard, in its own case. Digits and everything else stay: 12 does not become 13.
pub(crate) fn typos(text: &str, rate: f64, random: &mut SplitMix64) -> String {
    let slip = |c: char, random: &mut SplitMix64| {
        if !c.is_ascii_alphabetic() || uniform(random) >= rate {
            return c;
        }
        let near = NEIGHBOURS[usize::from(c.to_ascii_lowercase() as u8 - b'a')].1;
        let hit = char::from(near[random.below(near.len() as u64) as usize]);
        if c.is_ascii_uppercase() { hit.to_ascii_uppercase() } else { hit }
    };
    text.chars().map(|c| slip(c, random)).collect()
}

pub(crate) fn lower_case(text: &str) -> String {
    python::lower(text)
}

/// Every run of spaces becomes one to [`MOST_SPACES`] spaces.
pub(crate) fn spaces(text: &str, random: &mut SplitMix64) -> String {
    let mut out = String::with_capacity(text.len() * 2);
    let mut in_space = false;
    for c in text.chars() {
        match (c, in_space) {
            (' ', true) => {}
            (' ', false) => out.extend(std::iter::repeat_n(' ', 1 + random.below(MOST_SPACES) as usize)),
            _ => out.push(c),
        }
        in_space = c == ' ';
    }
    out
}

/// Uniform in [0, 1).
fn uniform(random: &mut SplitMix64) -> f64 {
    (random.next_u64() >> 11) as f64 / (1u64 << 53) as f64
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn neighbours_are_mutual_and_in_order() {
        for (index, (key, near)) in NEIGHBOURS.iter().enumerate() {
            assert_eq!(usize::from(key - b'a'), index);
            for other in *near {
                assert_ne!(other, key);
                let back = NEIGHBOURS[usize::from(other - b'a')].1;
                assert!(back.contains(key), "{} and {}", char::from(*key), char::from(*other));
            }
        }
    }

    #[test]
    fn as_many_letters_as_the_rate_says() {
        let text = "abcdefghij".repeat(1000);
        let changed = |rate| {
            let out = typos(&text, rate, &mut SplitMix64::new(5));
            text.chars().zip(out.chars()).filter(|(a, b)| a != b).count()
        };
        // 10,000 draws at 0.05: a standard deviation of 22.
        assert!((400..600).contains(&changed(0.05)), "{}", changed(0.05));
        assert_eq!(changed(1.0), 10_000);
    }

    #[test]
    fn known_texts() {
        assert_eq!(lower_case("What did NASA find in 1969?"), "what did nasa find in 1969?");
        assert_eq!(typos("1969 €ß漢", 1.0, &mut SplitMix64::new(1)), "1969 €ß漢");
        assert_eq!(typos("QP", 1.0, &mut SplitMix64::new(1)).len(), 2);
    }

    proptest! {
        #[test]
        fn typos_keep_the_shape(text in "\\PC{0,80}", seed in any::<u64>()) {
            let out = typos(&text, 0.5, &mut SplitMix64::new(seed));
            prop_assert_eq!(&out, &typos(&text, 0.5, &mut SplitMix64::new(seed)));
            prop_assert_eq!(text.chars().count(), out.chars().count());
            for (before, after) in text.chars().zip(out.chars()) {
                prop_assert_eq!(before.is_ascii_uppercase(), after.is_ascii_uppercase());
                prop_assert!(before == after || before.is_ascii_alphabetic() && after.is_ascii_alphabetic());
            }
        }

        #[test]
        fn spaces_only_repeat(text in "[a-z \\n\\t]{0,80}", seed in any::<u64>()) {
            let out = spaces(&text, &mut SplitMix64::new(seed));
            let words = |text: &str| text.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
            prop_assert_eq!(words(&text), words(&out));
            prop_assert!(!out.contains("    "));
            prop_assert_eq!(text.matches('\n').count(), out.matches('\n').count());
        }
    }
}
