//! Texts as token trees: what the two sides of a pair share goes through the model once.

use std::ops::Range;

use evalign_lm::training::{Label, LabelStatistics, TokenTree};

use crate::random::mix;
use crate::{Item, MicroBatch, ReferenceLogps, Sequence, SequenceObserved};

/// A micro-batch as the engine computes it.
pub(super) struct Layout {
    pub(super) trees: Vec<TokenTree>,
    /// Labels of all sequences, sequence after sequence.
    pub(super) labels: Vec<Label>,
    /// Row that a sequence's reward is read at.
    pub(super) pooled: Vec<usize>,
    sequences: Vec<Place>,
}

/// One sequence in the batch.
struct Place {
    /// Row of each of its tokens.
    rows: Vec<usize>,
    ids: Vec<u32>,
    labels: Range<usize>,
    pooled_index: usize,
}

impl Layout {
    /// `sequences` are the batch's, in the order of [`crate::Observed::sequences`].
    pub(super) fn new(batch: &MicroBatch, sequences: &[&Sequence]) -> Self {
        let mut layout =
            Self { trees: Vec::new(), labels: Vec::new(), pooled: Vec::new(), sequences: Vec::new() };
        let mut rows = Vec::with_capacity(sequences.len());
        let mut rejected_rows = Vec::new();
        let mut next = 0;
        for item in &batch.items {
            let (tree, of_sequences) = tree_of(item, next);
            next += tree.rows();
            layout.trees.push(tree);
            let mut of_sequences = of_sequences.into_iter();
            rows.extend(of_sequences.next());
            rejected_rows.extend(of_sequences);
        }
        rows.append(&mut rejected_rows);
        for (sequence, rows) in sequences.iter().zip(rows) {
            let first = layout.labels.len();
            for position in (1..sequence.ids.len()).filter(|position| sequence.trained[*position]) {
                layout.labels.push(Label { row: rows[position - 1], token: sequence.ids[position] });
            }
            let labels = first..layout.labels.len();
            layout.sequences.push(Place { rows, ids: sequence.ids.clone(), labels, pooled_index: 0 });
        }
        layout.pooled_at(None)
    }

    /// Rewards are read at the last token that is not `pad`, at the first if all are (transformers'
    /// `*ForSequenceClassification`); without `pad` at the last.
    pub(super) fn pooled_at(mut self, pad: Option<u32>) -> Self {
        self.pooled.clear();
        for place in &mut self.sequences {
            place.pooled_index = evalign_lm::pooled_index(&place.ids, pad);
            self.pooled.extend(place.rows.get(place.pooled_index));
        }
        self
    }

    pub(super) fn rows(&self) -> usize {
        self.trees.iter().map(TokenTree::rows).sum()
    }

    /// Each sequence's part of the labels.
    pub(super) fn label_ranges(&self) -> impl Iterator<Item = Range<usize>> {
        self.sequences.iter().map(|place| place.labels.clone())
    }

    /// A key for each row that depends on the example and the token's place in it.
    pub(super) fn row_keys(&self, batch: &MicroBatch) -> Vec<u64> {
        let keys = self.trees.iter().enumerate().flat_map(|(index, tree)| {
            let item = mix(batch.rows.get(index).copied().unwrap_or(index as u64));
            (0..tree.rows() as u64).map(move |row| item.wrapping_add(mix(row)))
        });
        keys.collect()
    }

    pub(super) fn observe(
        &self,
        statistics: &[LabelStatistics],
        reference: Option<&ReferenceLogps>,
    ) -> Vec<SequenceObserved> {
        let observed = self.sequences.iter().enumerate().map(|(index, place)| {
            let labels = &statistics[place.labels.clone()];
            let sum = |values: &mut dyn Iterator<Item = f32>| values.map(f64::from).sum::<f64>();
            let reference = reference.map(|reference| reference.of(index).to_vec());
            SequenceObserved {
                logp: sum(&mut labels.iter().map(|label| label.logprob)) as f32,
                reference_logp: reference.as_ref().map(|logps| sum(&mut logps.iter().copied()) as f32),
                labels: labels.len(),
                logp_of_label: labels.iter().map(|label| label.logprob).collect(),
                reference_of_label: reference.unwrap_or_default(),
                entropy_of_label: labels.iter().map(|label| label.entropy).collect(),
                logits_sum: sum(&mut labels.iter().map(|label| label.mean_logit)),
                top1: labels.iter().filter(|label| label.top).count(),
                reward: None,
                pooled_index: None,
            }
        });
        observed.collect()
    }

    pub(super) fn observe_rewards(&self, rewards: &[f32]) -> Vec<SequenceObserved> {
        let observed = self.sequences.iter().zip(rewards).map(|(place, reward)| SequenceObserved {
            labels: place.labels.len(),
            reward: Some(*reward),
            pooled_index: Some(place.pooled_index),
            ..SequenceObserved::default()
        });
        observed.collect()
    }
}

/// An item's tree, whose first row is `first`, and the rows of each of its sequences.
fn tree_of(item: &Item, first: usize) -> (TokenTree, Vec<Vec<usize>>) {
    let sequences: Vec<&[u32]> = item.sequences().map(|sequence| sequence.ids.as_slice()).collect();
    let (Some(one), Some(other)) = (sequences.first(), sequences.get(1)) else {
        let ids = sequences.first().map_or(&[][..], |ids| ids);
        return (
            TokenTree { trunk: ids.to_vec(), branches: Vec::new() },
            vec![(first..first + ids.len()).collect()],
        );
    };
    let shared = one.iter().zip(*other).take_while(|(a, b)| a == b).count();
    let trunk = first..first + shared;
    let mut next = trunk.end;
    let mut rows = Vec::with_capacity(2);
    for sequence in [one, other] {
        let own = next..next + sequence.len() - shared;
        next = own.end;
        rows.push(trunk.clone().chain(own).collect());
    }
    let branches = vec![one[shared..].to_vec(), other[shared..].to_vec()];
    (TokenTree { trunk: one[..shared].to_vec(), branches }, rows)
}

/// Every prompt with the completion of the item before it, the first with the last's (TRL's rule for KTO), cut to
/// `max_length`.
pub(super) fn mismatched(batch: &MicroBatch, max_length: Option<usize>) -> MicroBatch {
    let cut = |text: &Sequence| text.trained.iter().position(|trained| *trained).unwrap_or(text.ids.len());
    let parts = batch.items.iter().filter_map(|item| match item {
        Item::Single { text, beyond, .. } => {
            let (prompt, completion) = text.ids.split_at(cut(text));
            Some((prompt, [completion, beyond].concat()))
        }
        Item::Pair { .. } => None,
    });
    let parts: Vec<(&[u32], Vec<u32>)> = parts.collect();
    let items = parts.iter().enumerate().map(|(index, (prompt, _))| {
        let (_, completion) = &parts[(index + parts.len() - 1) % parts.len()];
        let mut text = Sequence::new([prompt, completion.as_slice()].concat(), prompt.len());
        text.truncate(max_length.unwrap_or(usize::MAX));
        Item::Single { text, desirable: None, beyond: Vec::new() }
    });
    MicroBatch { rows: batch.rows.clone(), items: items.collect() }
}
