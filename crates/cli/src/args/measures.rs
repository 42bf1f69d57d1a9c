//! What `evalign show` takes to look at a run from another side.

use std::path::PathBuf;

use clap::Args;
use evalign_bench::CalibrationOptions;

/// What else to say about a run's scores. None of it asks the model again.
#[derive(Clone, Debug, Default, Args)]
#[command(next_help_heading = "Measures")]
pub(crate) struct MeasureArgs {
    /// Scores by the value of a column of the dataset (`subject`, `level`, `meta.source`).
    #[arg(long, conflicts_with = "samples", value_name = "COLUMN")]
    pub(crate) by: Option<String>,

    /// With `--by`: items with the same value in this column are no independent evidence (the passage they
    /// are about).
    #[arg(long, requires = "by", value_name = "COLUMN")]
    pub(crate) cluster: Option<String>,

    /// Scores with and without the items whose question stands in a corpus (13 words in a row): .txt, .jsonl
    /// (also .gz, .zst), .parquet, or directories of them. It is streamed.
    #[arg(long, conflicts_with = "samples", num_args = 1.., value_name = "FILE")]
    pub(crate) corpus: Vec<PathBuf>,

    /// With `--corpus`: the field of .jsonl and .parquet files that holds the text.
    #[arg(long, requires = "corpus", default_value = "text", value_name = "NAME")]
    pub(crate) corpus_field: String,

    /// How often choices of a given confidence are right, in bins: `equal-width:10`, `equal-mass:15`.
    #[arg(
        long,
        conflicts_with = "samples",
        num_args = 0..=1,
        default_missing_value = "equal-width:10",
        value_name = "BINS"
    )]
    pub(crate) calibration: Option<CalibrationOptions>,

    /// The same items about different groups (columns `item` and `group`): paired differences with intervals.
    #[arg(long, conflicts_with = "samples")]
    pub(crate) swaps: bool,
}
