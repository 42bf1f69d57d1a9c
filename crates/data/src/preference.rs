//! Preference data in the layouts TRL 1.16 reads (its page "Dataset formats and types"): rows with TRL's columns and
//! [`ORIGIN_COLUMNS`] beside them, as JSONL or parquet, in both directions.
//!
//! | layout | columns | style |
//! |---|---|---|
//! | preference | `prompt`, `chosen`, `rejected` (or without `prompt`, which then is what both sides begin with) | messages or text |
//! | unpaired (KTO) | `prompt`, `completion`, `label` | messages or text |
//! | prompt-only | `prompt` | messages or text |
//! | prompt-completion (SFT) | `prompt`, `completion` | messages or text |
//! | language modelling (SFT) | `messages` or `text` | messages or text |

mod columns;
mod example;
mod layout;
mod numbered;
mod text;
mod write;

pub use columns::ORIGIN_COLUMNS;
pub use example::{Example, Misfit};
pub use layout::{Layout, Style};
pub use numbered::{NumberedRows, numbered_rows};
pub use text::column_text;
pub use write::{FileKind, PreferenceWriter};

#[cfg(test)]
mod tests;
