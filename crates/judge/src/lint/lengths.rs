use serde::Serialize;

/// Pairs from which on a share says something about the file.
const ENOUGH_PAIRS: u64 = 50;
/// From this share on, length alone tells the sides apart well enough to be learnt instead of quality.
const SKEWED_SHARE: f64 = 0.75;

/// How long chosen and rejected answers are, in characters.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct LengthCounts {
    pub pairs: u64,
    pub chosen_longer: u64,
    pub rejected_longer: u64,
    pub chosen_characters: u64,
    pub rejected_characters: u64,
}

impl LengthCounts {
    pub fn add(&mut self, chosen: u64, rejected: u64) {
        self.pairs += 1;
        self.chosen_longer += u64::from(chosen > rejected);
        self.rejected_longer += u64::from(rejected > chosen);
        self.chosen_characters += chosen;
        self.rejected_characters += rejected;
    }

    /// Share of pairs whose chosen side is the longer one, among those that differ in length. `None` over none.
    #[must_use]
    pub fn chosen_longer_share(&self) -> Option<f64> {
        let differ = self.chosen_longer + self.rejected_longer;
        (differ > 0).then(|| self.chosen_longer as f64 / differ as f64)
    }

    /// What to say about the file, where always taking the longer (or the shorter) side would be right too often.
    #[must_use]
    pub fn skew(&self) -> Option<String> {
        let share = self.chosen_longer_share().filter(|_| self.pairs >= ENOUGH_PAIRS)?;
        let (word, share) = if share >= 0.5 { ("longer", share) } else { ("shorter", 1.0 - share) };
        (share >= SKEWED_SHARE).then(|| {
            format!(
                "the chosen side is the {word} one in {:.0} % of {} pairs: a model learns lengths from this",
                100.0 * share,
                self.pairs
            )
        })
    }
}
