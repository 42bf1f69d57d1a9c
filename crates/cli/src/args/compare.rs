//! What `evalign compare` takes.

use clap::Args;

#[derive(Debug, Args)]
pub(crate) struct CompareArgs {
    /// The run to compare with: its id, the beginning of it, or `last`.
    #[arg(value_name = "RUN_A")]
    pub(crate) a: String,

    /// The run that is compared.
    #[arg(value_name = "RUN_B")]
    pub(crate) b: String,

    /// Only this metric.
    #[arg(long, value_name = "METRIC")]
    pub(crate) metric: Option<String>,

    /// Documents that share this are not independent: `subject` (of groups: the task), or a column of
    /// the documents.
    #[arg(long, value_name = "subject|FIELD")]
    pub(crate) cluster: Option<String>,

    /// Compare what was measured in different ways (chat template on and off, say) and mark it.
    #[arg(long)]
    pub(crate) allow_different_protocols: bool,

    /// Print one JSON document.
    #[arg(long)]
    pub(crate) json: bool,
}
