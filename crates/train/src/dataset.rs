//! A file of rows to items: read, tokenised, cut to length, with a report of everything that was not taken as it
//! was written.

mod example;
mod preview;
#[cfg(test)]
mod tests;
mod tokenise;

use std::path::{Path, PathBuf};

use evalign_core::Prompt;
use evalign_data::{Dataset, Row};
use evalign_lm::{ChatTemplate, Tokenizer};

pub use preview::preview;

use crate::{Item, Sequence, TrainError};
use example::{Example, Misfit};
use tokenise::{Cut, Failed, PromptEnd, Tokeniser};

/// What the items are for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    Sft,
    Reward,
    /// Pairs under a loss of the DPO family.
    Preference,
    /// Single completions that are wanted or not; pairs become two of them.
    Unpaired,
}

/// How rows become items.
#[derive(Clone, Debug)]
pub struct DatasetOptions {
    pub purpose: Purpose,
    /// Tokens of one text, at most.
    pub max_length: Option<usize>,
    /// Too long a text keeps its end instead of its beginning.
    pub keep_end: bool,
    /// SFT: prompts are not trained. `None`: so, where rows have a prompt.
    pub completion_only: Option<bool>,
    /// SFT: only what the assistant says is trained.
    pub assistant_only: bool,
    /// SFT: the column with texts.
    pub text_field: String,
    /// Pairs are believed as far as their column `label` says, or as their judge believed them: `probability_first` and
    /// `probability_second` of `evalign pairs`.
    pub soft_labels: bool,
    /// TRL's rules to the letter.
    pub compat_trl: bool,
}

/// Items ready to train on.
#[derive(Clone, Debug, Default)]
pub struct Prepared {
    /// Row of the file of each item, from 0.
    pub rows: Vec<u64>,
    pub items: Vec<Item>,
    pub report: Report,
}

/// What was not taken as it was written. Rows count from 0.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    pub rows: u64,
    /// Left out: the prompt alone, or the whole of a reward model's text, is longer than `max_length`.
    pub too_long: Vec<u64>,
    /// Cut to `max_length`.
    pub cut: Vec<u64>,
    /// The completion was made to begin before the end of the prompt, where tokens merged over the boundary.
    pub boundary_moved: Vec<u64>,
    /// The completion was made to begin where the chat template renders the prompt alone and the whole conversation
    /// differently.
    pub rendered_apart: Vec<u64>,
    /// A completion without text: it is trained as the end-of-text token alone.
    pub empty: Vec<u64>,
    /// Both sides of the pair are the same tokens: nothing can be learnt from it.
    pub identical: Vec<u64>,
    /// What is trained does not end in an end-of-text or end-of-turn token: the model is not taught to stop.
    pub unended: Vec<u64>,
}

/// Reads and tokenises all rows.
///
/// # Errors
/// The first row that has no usable layout, with its field; no row is left.
pub fn prepare(
    dataset: &Dataset,
    tokenizer: &Tokenizer,
    template: Option<&ChatTemplate>,
    options: &DatasetOptions,
) -> Result<Prepared, TrainError> {
    let tokeniser = Tokeniser {
        tokenizer,
        template,
        assistant_only: options.assistant_only,
        by_marks: options.compat_trl,
    };
    let path = dataset.files().first().cloned().unwrap_or_else(|| PathBuf::from(dataset.name()));
    let mut prepared = Prepared::default();
    for (row, values) in (0u64..).zip(dataset.iter()) {
        prepared.report.rows = row + 1;
        prepared.add(row, &values?, &tokeniser, options).map_err(|failed| in_row(failed, &path, row))?;
    }
    if options.compat_trl && options.purpose == Purpose::Unpaired {
        prepared.sides_in_order();
    }
    if prepared.items.is_empty() {
        return Err(nothing_left(&path, &prepared.report, options));
    }
    Ok(prepared)
}

fn in_row(failed: Failed, path: &Path, row: u64) -> TrainError {
    match failed {
        Failed::Row(Misfit { field, problem, hint }) => {
            TrainError::Row { path: path.to_owned(), row: row + 1, field, problem, hint }
        }
        Failed::Model(error) => error.into(),
    }
}

fn nothing_left(path: &Path, report: &Report, options: &DatasetOptions) -> TrainError {
    let limit = options.max_length.unwrap_or_default();
    let (problem, hint) = match report.rows {
        0 => ("it has no rows".to_owned(), "name a file with rows"),
        rows => (
            format!(
                "no row can be used: {} of {rows} are too long for {limit} tokens",
                report.too_long.len()
            ),
            "raise `--max-length`, or shorten the prompts",
        ),
    };
    TrainError::File { path: path.to_owned(), problem, hint: hint.to_owned() }
}

/// Rows that TRL makes unpaired together.
const UNPAIRED_TOGETHER: u64 = 1000;

impl Prepared {
    /// TRL's order of pairs that were made unpaired (`unpair_preference_dataset`): a thousand rows at a time, all chosen
    /// sides, then all rejected ones. Rows that were unpaired before stay where they are.
    fn sides_in_order(&mut self) {
        let from_pairs = self.rows.windows(2).any(|rows| rows[0] == rows[1]);
        if !from_pairs {
            return;
        }
        let mut items: Vec<(u64, Item)> = self.rows.drain(..).zip(self.items.drain(..)).collect();
        items.sort_by_key(|(row, item)| {
            let rejected = matches!(item, Item::Single { desirable: Some(false), .. });
            (row / UNPAIRED_TOGETHER, rejected)
        });
        (self.rows, self.items) = items.into_iter().unzip();
    }

    fn add(
        &mut self,
        row: u64,
        values: &Row,
        tokeniser: &Tokeniser<'_>,
        options: &DatasetOptions,
    ) -> Result<(), Failed> {
        let example = example::read(values, &options.text_field, options.soft_labels)?;
        self.note_empty(row, &example);
        match (options.purpose, example) {
            (Purpose::Sft, Example::Language(text)) => {
                if options.completion_only == Some(true) {
                    return Err(Misfit::new(
                        "completion",
                        "is missing, and `completion_only_loss` trains on completions alone",
                        "give rows `prompt` and `completion`; for conversations use `--assistant-only-loss`",
                    )
                    .into());
                }
                let text = tokeniser.language(&text)?;
                self.add_single(row, text, None, tokeniser, options);
            }
            (Purpose::Sft, Example::Completion { prompt, completion, .. }) => {
                let only = options.completion_only.unwrap_or(true);
                let (text, cut) = tokeniser.completion(&prompt, &completion, only)?;
                self.note_cut(row, &cut);
                self.add_single(row, text, None, tokeniser, options);
            }
            (Purpose::Reward, Example::Preference { prompt, chosen, rejected, margin, label }) => {
                let side =
                    |text: &Prompt| tokeniser.whole(Some(&prompt), text).map(|ids| Sequence::new(ids, 0));
                let (chosen, rejected) = (side(&chosen)?, side(&rejected)?);
                self.add_scored(row, Item::Pair { chosen, rejected, margin, label }, options);
            }
            (Purpose::Preference, Example::Preference { prompt, chosen, rejected, margin, label }) => {
                self.add_pair(row, (&prompt, &chosen, &rejected), (margin, label), tokeniser, options)?;
            }
            (Purpose::Unpaired, Example::Completion { prompt, completion, desirable: Some(desirable) }) => {
                self.add_unpaired(row, (&prompt, &completion), desirable, tokeniser, options)?;
            }
            (Purpose::Unpaired, Example::Preference { prompt, chosen, rejected, .. }) => {
                self.add_unpaired(row, (&prompt, &chosen), true, tokeniser, options)?;
                self.add_unpaired(row, (&prompt, &rejected), false, tokeniser, options)?;
            }
            (purpose, example) => return Err(misplaced(purpose, &example).into()),
        }
        Ok(())
    }

    /// An SFT example: cut first, then left out if nothing of it is trained.
    fn add_single(
        &mut self,
        row: u64,
        mut text: Sequence,
        desirable: Option<bool>,
        tokeniser: &Tokeniser<'_>,
        options: &DatasetOptions,
    ) {
        let whole = text.ids.clone();
        shorten(&mut text, options);
        if !text.trained.contains(&true) {
            note(&mut self.report.too_long, row);
            return;
        }
        let last = text.ids.iter().zip(&text.trained).rfind(|(_, trained)| **trained).map(|(id, _)| *id);
        if text.ids.len() < whole.len() {
            note(&mut self.report.cut, row);
        } else if !last.is_some_and(|id| ends(tokeniser.tokenizer, id)) {
            note(&mut self.report.unended, row);
        }
        let beyond = match desirable {
            Some(_) if !options.keep_end => whole[text.ids.len()..].to_vec(),
            _ => Vec::new(),
        };
        self.push(row, Item::Single { text, desirable, beyond });
    }

    /// A reward model's pair: scores are read at the end, so nothing may be cut.
    fn add_scored(&mut self, row: u64, item: Item, options: &DatasetOptions) {
        if options.max_length.is_some_and(|limit| item.longest() > limit) {
            note(&mut self.report.too_long, row);
            return;
        }
        self.push(row, item);
    }

    fn add_pair(
        &mut self,
        row: u64,
        (prompt, chosen, rejected): (&Prompt, &Prompt, &Prompt),
        (margin, label): (Option<f32>, Option<f32>),
        tokeniser: &Tokeniser<'_>,
        options: &DatasetOptions,
    ) -> Result<(), Failed> {
        let ids = |side| tokeniser.whole(Some(prompt), side);
        let (chosen_ids, rejected_ids) = (ids(chosen)?, ids(rejected)?);
        let sides = [(chosen, &chosen_ids[..]), (rejected, &rejected_ids)];
        let cut = tokeniser.cut(prompt, &sides)?;
        if fills(cut.prompt_tokens, options) {
            note(&mut self.report.too_long, row);
            return Ok(());
        }
        self.note_cut(row, &cut);
        let mut sides = [chosen_ids, rejected_ids].map(|ids| Sequence::new(ids, cut.prompt_tokens));
        let before: usize = sides.iter().map(|side| side.ids.len()).sum();
        for side in &mut sides {
            shorten(side, options);
        }
        if sides.iter().map(|side| side.ids.len()).sum::<usize>() < before {
            note(&mut self.report.cut, row);
        }
        let [chosen, rejected] = sides;
        self.push(row, Item::Pair { chosen, rejected, margin, label });
        Ok(())
    }

    fn add_unpaired(
        &mut self,
        row: u64,
        (prompt, completion): (&Prompt, &Prompt),
        desirable: bool,
        tokeniser: &Tokeniser<'_>,
        options: &DatasetOptions,
    ) -> Result<(), Failed> {
        let (text, cut) = tokeniser.completion(prompt, completion, true)?;
        if fills(cut.prompt_tokens, options) {
            note(&mut self.report.too_long, row);
            return Ok(());
        }
        self.note_cut(row, &cut);
        self.add_single(row, text, Some(desirable), tokeniser, options);
        Ok(())
    }

    fn push(&mut self, row: u64, item: Item) {
        if let Item::Pair { chosen, rejected, .. } = &item
            && chosen.ids == rejected.ids
        {
            note(&mut self.report.identical, row);
        }
        self.rows.push(row);
        self.items.push(item);
    }

    fn note_cut(&mut self, row: u64, cut: &Cut) {
        match cut.end {
            PromptEnd::Kept => {}
            PromptEnd::Merged => note(&mut self.report.boundary_moved, row),
            PromptEnd::RenderedApart => note(&mut self.report.rendered_apart, row),
        }
    }

    fn note_empty(&mut self, row: u64, example: &Example) {
        let empty = |text: &Prompt| match text {
            Prompt::Text(text) => text.is_empty(),
            Prompt::Chat(messages) => messages.iter().all(|message| message.content.is_empty()),
        };
        let says_nothing = match example {
            Example::Language(text) => empty(text),
            Example::Completion { completion, .. } => empty(completion),
            Example::Preference { chosen, rejected, .. } => empty(chosen) || empty(rejected),
        };
        if says_nothing {
            note(&mut self.report.empty, row);
        }
    }
}

/// Rows come in order, and a row's two sides may have the same to report.
fn note(rows: &mut Vec<u64>, row: u64) {
    if rows.last() != Some(&row) {
        rows.push(row);
    }
}

/// The prompt alone leaves no room for a completion. What keeps its end keeps the completion.
fn fills(prompt_tokens: usize, options: &DatasetOptions) -> bool {
    !options.keep_end && options.max_length.is_some_and(|limit| prompt_tokens >= limit)
}

fn shorten(text: &mut Sequence, options: &DatasetOptions) {
    let Some(limit) = options.max_length else { return };
    if options.keep_end {
        let surplus = text.ids.len().saturating_sub(limit);
        text.ids.drain(..surplus);
        text.trained.drain(..surplus);
    } else {
        text.truncate(limit);
    }
}

/// The id ends a text or a turn, or is white space that a template puts behind one.
fn ends(tokenizer: &Tokenizer, id: u32) -> bool {
    tokenizer.eos_ids().contains(&id)
        || tokenizer.decode(&[id], false).is_ok_and(|text| !text.is_empty() && text.trim().is_empty())
}

fn misplaced(purpose: Purpose, example: &Example) -> Misfit {
    let (field, is) = match example {
        Example::Language(_) => ("text", "is a text for SFT"),
        Example::Completion { desirable: None, .. } => ("completion", "is a completion for SFT"),
        Example::Completion { .. } => ("label", "marks a completion as wanted or not, for the loss `kto`"),
        Example::Preference { .. } => ("chosen", "is one side of a pair, for `train reward` and `train dpo`"),
    };
    let hint = match purpose {
        Purpose::Sft => "`train sft` takes `text`, `messages`, or `prompt` and `completion`",
        Purpose::Reward | Purpose::Preference => "this takes `prompt`, `chosen` and `rejected`",
        Purpose::Unpaired => {
            "this takes `prompt`, `completion` and `label`, or `prompt`, `chosen` and `rejected`"
        }
    };
    Misfit::new(field, is, hint)
}
