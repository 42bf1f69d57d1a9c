use clap::CommandFactory;
use clap_complete::Shell;

use crate::Verdict;
use crate::args::Cli;
use crate::output::{Failure, Output};

pub(super) fn completions(shell: Shell, output: Output) -> Result<Verdict, Failure> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "evalign", &mut script);
    output.result(String::from_utf8_lossy(&script).trim_end())?;
    Ok(Verdict::Good)
}
