//! A reward model as a benchmark: how often does it prefer what people (or a rule) chose?

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use evalign_core::Dtype;
use evalign_data::Dataset;
use evalign_lm::{LanguageModel, LoadOptions, pooled_index};
use evalign_stats::wilson_interval;
use serde::Serialize;
use serde_json::Value;

use crate::{DatasetOptions, Item, Prepared, Purpose, TrainError, prepare};

/// Level of all intervals.
const LEVEL: f64 = 0.95;

/// Chosen against rejected under a reward model, over one category or (without a name) over all pairs.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct RewardAccuracy {
    pub category: Option<String>,
    pub pairs: u64,
    /// The chosen side has strictly the higher reward.
    pub correct: u64,
    pub ties: u64,
    /// Of all pairs; a tie is not correct.
    pub accuracy: f64,
    /// Wilson's interval at 95 %.
    pub interval: Option<[f64; 2]>,
    /// Mean of chosen minus rejected.
    pub margin: f64,
}

#[derive(Default)]
struct Tally {
    pairs: u64,
    correct: u64,
    ties: u64,
    margin: f64,
}

impl Tally {
    fn add(&mut self, chosen: f32, rejected: f32) {
        self.pairs += 1;
        self.correct += u64::from(chosen > rejected);
        self.ties += u64::from(chosen == rejected);
        self.margin += f64::from(chosen) - f64::from(rejected);
    }

    fn result(&self, category: Option<String>) -> RewardAccuracy {
        RewardAccuracy {
            category,
            pairs: self.pairs,
            correct: self.correct,
            ties: self.ties,
            accuracy: self.correct as f64 / self.pairs as f64,
            interval: wilson_interval(self.correct, self.pairs, LEVEL),
            margin: self.margin / self.pairs as f64,
        }
    }
}

/// How a reward model is scored on a file of pairs.
#[derive(Clone, Debug)]
pub struct ScoreOptions<'a> {
    /// Column that names a pair's category.
    pub category: &'a str,
    /// Tokens; longer pairs are left out.
    pub max_length: usize,
    /// TRL's rules of tokenisation, and rewards read at the last token that is not the padding token.
    pub compat_trl: bool,
}

/// How often a reward model prefers what was chosen, over the pairs of a file.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct RewardScore {
    /// Pairs that are too long.
    pub left_out: usize,
    pub results: Vec<RewardAccuracy>,
}

/// Scores the reward model in a directory, or the one that an adapter makes of a model, in f32. `None` where `stop` was
/// raised before its end: it is looked at between steps of some thousand tokens, of which `read` is told how many they were.
///
/// # Errors
/// A model that cannot be loaded or has no reward head, rows that are no pairs.
pub fn score_rewards(
    model: &Path,
    adapter: Option<&Path>,
    dataset: &Dataset,
    options: &ScoreOptions<'_>,
    stop: &AtomicBool,
    read: &mut dyn FnMut(u64),
) -> Result<Option<RewardScore>, TrainError> {
    let load = LoadOptions {
        adapter: adapter.map(Path::to_owned),
        dtype: Some(Dtype::F32),
        ..LoadOptions::default()
    };
    let model = LanguageModel::load(model, &load)?;
    let rules = DatasetOptions {
        purpose: Purpose::Reward,
        max_length: Some(options.max_length),
        keep_end: false,
        completion_only: None,
        assistant_only: false,
        text_field: "text".to_owned(),
        soft_labels: false,
        compat_trl: options.compat_trl,
    };
    let data = prepare(dataset, model.tokenizer(), model.chat_template(), &rules)?;
    let pad = if options.compat_trl { model.pad_token() } else { model.reward_pad() };
    let category = |row: u64| match dataset.get(row).ok()?.get(options.category)? {
        Value::String(name) => Some(name.clone()),
        Value::Null => None,
        other => Some(other.to_string()),
    };
    let results = reward_accuracy(&model, &data, pad, &category, stop, read)?;
    Ok(results.map(|results| RewardScore { left_out: data.report.too_long.len(), results }))
}

/// Accuracies over all pairs, then by category in order of their names. `category_of` names the category of a row of the
/// file; `pad` as in [`pooled_index`]; `read` is told of tokens step by step. `None` where `stop` was raised before the end.
///
/// # Errors
/// The model has no reward head, an item is no pair, or computing fails.
pub fn reward_accuracy(
    model: &LanguageModel,
    data: &Prepared,
    pad: Option<u32>,
    category_of: &dyn Fn(u64) -> Option<String>,
    stop: &AtomicBool,
    read: &mut dyn FnMut(u64),
) -> Result<Option<Vec<RewardAccuracy>>, TrainError> {
    let mut texts = Vec::with_capacity(2 * data.items.len());
    for item in &data.items {
        let Item::Pair { chosen, rejected, .. } = item else {
            return Err(TrainError::Unsupported {
                what: "rewards are compared over pairs".to_owned(),
                hint: "give rows with `chosen` and `rejected`".to_owned(),
            });
        };
        texts.extend([chosen, rejected].map(|text| (text.ids.clone(), pooled_index(&text.ids, pad))));
    }
    let mut rewards = Vec::with_capacity(texts.len());
    for some in model.reward_steps(&texts)? {
        let first = rewards.len();
        rewards.extend(some?);
        read(texts[first..rewards.len()].iter().map(|(ids, _)| ids.len() as u64).sum());
        if stop.load(Ordering::Relaxed) {
            return Ok(None);
        }
    }
    let mut all = Tally::default();
    let mut by_category: BTreeMap<String, Tally> = BTreeMap::new();
    for (row, pair) in data.rows.iter().zip(rewards.chunks_exact(2)) {
        all.add(pair[0], pair[1]);
        if let Some(category) = category_of(*row) {
            by_category.entry(category).or_default().add(pair[0], pair[1]);
        }
    }
    let categories = by_category.into_iter().map(|(name, tally)| tally.result(Some(name)));
    Ok(Some(std::iter::once(all.result(None)).chain(categories).collect()))
}
