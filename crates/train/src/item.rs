//! What a loss sees: token ids, and which of them count.

/// One tokenised text.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sequence {
    pub ids: Vec<u32>,
    /// Of each id: it is a label that counts (TRL's `completion_mask`, or `labels != -100`). The first id of a
    /// text is predicted by nothing and never counts, whatever stands here. As long as `ids`.
    pub trained: Vec<bool>,
}

impl Sequence {
    /// A text of which everything behind the first `prompt_tokens` ids counts.
    #[must_use]
    pub fn new(ids: Vec<u32>, prompt_tokens: usize) -> Self {
        let trained = (0..ids.len()).map(|position| position >= prompt_tokens).collect();
        Self { ids, trained }
    }

    /// Labels that count: `trained` without its first entry (`labels[:, 1:] != -100`).
    #[must_use]
    pub fn labels(&self) -> usize {
        self.trained.iter().skip(1).filter(|trained| **trained).count()
    }

    /// Keeps the first `tokens` ids.
    pub fn truncate(&mut self, tokens: usize) {
        self.ids.truncate(tokens);
        self.trained.truncate(tokens);
    }
}

/// One example of a training set.
#[derive(Clone, Debug, PartialEq)]
pub enum Item {
    Pair {
        chosen: Sequence,
        rejected: Sequence,
        /// How much better `chosen` is said to be (reward models: subtracted from the difference of rewards).
        margin: Option<f32>,
        /// Probability that `chosen` is the better one; absent means 1 (soft labels).
        label: Option<f32>,
    },
    Single {
        text: Sequence,
        /// The completion is wanted (KTO).
        desirable: Option<bool>,
        /// What was cut off its end. KTO also looks at completions behind other prompts, which may leave more room.
        beyond: Vec<u32>,
    },
}

impl Item {
    /// The texts of the item: chosen first, then rejected.
    pub fn sequences(&self) -> impl Iterator<Item = &Sequence> {
        let (first, second) = match self {
            Self::Pair { chosen, rejected, .. } => (chosen, Some(rejected)),
            Self::Single { text, .. } => (text, None),
        };
        std::iter::once(first).chain(second)
    }

    /// Tokens of all its texts, a shared prompt counted once for each (TRL's `num_tokens`).
    #[must_use]
    pub fn tokens(&self) -> usize {
        self.sequences().map(|sequence| sequence.ids.len()).sum()
    }

    /// Tokens of its longest text.
    #[must_use]
    pub fn longest(&self) -> usize {
        self.sequences().map(|sequence| sequence.ids.len()).max().unwrap_or(0)
    }
}

/// Items that go through the model together.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct MicroBatch {
    /// Row of the data file of each item, from 0.
    pub rows: Vec<u64>,
    pub items: Vec<Item>,
}

impl MicroBatch {
    /// Tokens of all texts, without padding.
    #[must_use]
    pub fn tokens(&self) -> u64 {
        self.items.iter().map(|item| item.tokens() as u64).sum()
    }

    /// Labels that count, of all texts.
    #[must_use]
    pub fn labels(&self) -> u64 {
        self.items.iter().flat_map(Item::sequences).map(|sequence| sequence.labels() as u64).sum()
    }

    /// Labels that count, of single texts and chosen sides: what a language-modelling loss is divided by.
    #[must_use]
    pub fn likelihood_labels(&self) -> u64 {
        self.items.iter().filter_map(|item| item.sequences().next()).map(|text| text.labels() as u64).sum()
    }
}
