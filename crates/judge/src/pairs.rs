//! From answers to preference pairs: which two answers to a prompt make a pair.

use std::fmt;
use std::str::FromStr;

use evalign_core::Digest;
use serde::{Deserialize, Serialize};

/// How pairs are made from the answers to one prompt.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Strategy {
    /// The best answer and the worst.
    BestVsWorst,
    /// The best answer and a random other (Tunstall et al. 2023, arXiv 2310.16944, section 3).
    BestVsRandom,
    /// Every two answers that differ in score.
    AllPairs,
    /// A right answer and a wrong one, by the task's own scoring.
    RightVsWrong,
    /// A verified revision and what it revised.
    RevisionVsOriginal,
}

impl Strategy {
    const ALL: [Self; 5] =
        [Self::BestVsWorst, Self::BestVsRandom, Self::AllPairs, Self::RightVsWrong, Self::RevisionVsOriginal];

    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::BestVsWorst => "best-vs-worst",
            Self::BestVsRandom => "best-vs-random",
            Self::AllPairs => "all-pairs",
            Self::RightVsWrong => "right-vs-wrong",
            Self::RevisionVsOriginal => "revision-vs-original",
        }
    }
}

impl fmt::Display for Strategy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Strategy {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Self::ALL.iter().find(|strategy| strategy.name() == text).copied().ok_or_else(|| {
            format!("unknown strategy `{text}`, expected one of {}", Self::ALL.map(Self::name).join(", "))
        })
    }
}

/// Which answers make pairs: indices of the chosen and the rejected one. `scores` are those of the answers to one
/// prompt, `None` where nothing was decided; of equal scores the earlier answer counts as better, so that an order
/// always exists, but two equal ones make no pair. `draw` seeds what is random.
#[must_use]
pub fn select(strategy: Strategy, scores: &[Option<f64>], draw: u64) -> Vec<(usize, usize)> {
    let mut ranked: Vec<(usize, f64)> =
        scores.iter().enumerate().filter_map(|(index, score)| Some((index, (*score)?))).collect();
    ranked.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
    let (Some(best), Some(worst)) = (ranked.first(), ranked.last()) else { return Vec::new() };
    let differ = |a: &(usize, f64), b: &(usize, f64)| a.1 > b.1;
    match strategy {
        Strategy::BestVsWorst | Strategy::RightVsWrong | Strategy::RevisionVsOriginal => {
            if differ(best, worst) { vec![(best.0, worst.0)] } else { Vec::new() }
        }
        Strategy::BestVsRandom => {
            let others: Vec<_> = ranked.iter().filter(|other| differ(best, other)).collect();
            let drawn = usize::try_from(draw % others.len().max(1) as u64).unwrap_or(0);
            others.get(drawn).map(|other| (best.0, other.0)).into_iter().collect()
        }
        Strategy::AllPairs => {
            let pairs = ranked.iter().enumerate().flat_map(|(rank, better)| {
                ranked[rank + 1..]
                    .iter()
                    .filter(move |worse| differ(better, worse))
                    .map(|worse| (better.0, worse.0))
            });
            pairs.collect()
        }
    }
}

/// Whether a prompt belongs to the held-out rows: by a hash of the prompt alone, so that all rows of a prompt are on
/// one side, in every file and whatever else is in it. `share`: of all prompts, 0 to 1.
#[must_use]
pub fn is_held_out(prompt: &str, share: f64) -> bool {
    let digest = Digest::of(format!("evalign split 1 {prompt}"));
    let bits = digest.as_str().get(..8).and_then(|hex| u32::from_str_radix(hex, 16).ok()).unwrap_or(0);
    f64::from(bits) / (f64::from(u32::MAX) + 1.0) < share
}

/// Which pairs to leave out so that the chosen side is the longer one about as often as it is the shorter one: of the
/// larger group those with the smallest margin, later ones first. Input: chosen length minus rejected length, and
/// margin (`None` counts as 0). Output: whether to keep each.
#[must_use]
pub fn balanced_by_length(pairs: &[(i64, Option<f64>)]) -> Vec<bool> {
    let mut keep = vec![true; pairs.len()];
    let of_sign = |sign: i64| -> Vec<usize> {
        pairs.iter().enumerate().filter(|(_, pair)| pair.0.signum() == sign).map(|(index, _)| index).collect()
    };
    let (longer, shorter) = (of_sign(1), of_sign(-1));
    let (mut larger, fewer) =
        if longer.len() > shorter.len() { (longer, shorter.len()) } else { (shorter, longer.len()) };
    let margin = |index: usize| pairs[index].1.unwrap_or(0.0);
    larger.sort_by(|a, b| margin(*b).total_cmp(&margin(*a)).then(a.cmp(b)));
    for index in larger.into_iter().skip(fewer) {
        keep[index] = false;
    }
    keep
}

#[cfg(test)]
mod tests {
    use super::{Strategy, balanced_by_length, is_held_out, select};
    use proptest::collection::vec;
    use proptest::{option, prop_assert_eq, proptest};

    #[test]
    fn strategies_choose_what_they_say() {
        let scores = [Some(0.2), None, Some(0.9), Some(0.9), Some(0.5)];
        assert_eq!(select(Strategy::BestVsWorst, &scores, 0), [(2, 0)]);
        assert_eq!(select(Strategy::BestVsRandom, &scores, 0), [(2, 4)]);
        assert_eq!(select(Strategy::BestVsRandom, &scores, 1), [(2, 0)]);
        assert_eq!(select(Strategy::AllPairs, &scores, 0), [(2, 4), (2, 0), (3, 4), (3, 0), (4, 0)]);
        for scores in [&[][..], &[None, None], &[Some(1.0)], &[Some(1.0), Some(1.0)]] {
            for strategy in Strategy::ALL {
                assert_eq!(select(strategy, scores, 3), [], "{strategy}");
            }
        }
    }

    #[test]
    fn the_split_is_a_function_of_the_prompt_and_has_its_share() {
        let held_out = |share: f64| (0..2000).filter(|i| is_held_out(&format!("prompt {i}"), share)).count();
        assert_eq!((held_out(0.0), held_out(1.0)), (0, 2000));
        assert!((300..500).contains(&held_out(0.2)), "{}", held_out(0.2));
        // A larger share holds out what a smaller one does, and more.
        assert!((0..500).map(|i| i.to_string()).all(|p| !is_held_out(&p, 0.1) || is_held_out(&p, 0.3)));
    }

    #[test]
    fn balancing_drops_the_least_certain_of_the_larger_group() {
        let pairs = [(5, Some(0.9)), (3, Some(0.1)), (7, None), (-2, Some(0.0)), (0, None)];
        assert_eq!(balanced_by_length(&pairs), [true, false, false, true, true]);
        assert_eq!(balanced_by_length(&[(1, None), (1, None)]), [false, false]);
        assert!(balanced_by_length(&[]).is_empty());
    }

    proptest! {
        #[test]
        fn balanced_files_are_balanced(pairs in vec((-3i64..4, option::of(0.0f64..1.0)), 0..40)) {
            let keep = balanced_by_length(&pairs);
            let kept = |sign: i64| pairs.iter().zip(&keep).filter(|(p, k)| **k && p.0.signum() == sign).count();
            prop_assert_eq!(kept(1), kept(-1));
        }
    }
}
