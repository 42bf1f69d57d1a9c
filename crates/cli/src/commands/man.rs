use std::path::Path;

use clap::CommandFactory;
use clap_mangen::Man;

use crate::Verdict;
use crate::args::Cli;
use crate::output::{Failure, Output};

/// The page of `evalign` itself, or with a directory those of all commands.
pub(super) fn man(out: Option<&Path>, output: Output) -> Result<Verdict, Failure> {
    // `help` would repeat every command on a page of its own.
    let mut command = Cli::command().disable_help_subcommand(true);
    command.build();
    match out {
        Some(directory) => {
            fs_err::create_dir_all(directory).map_err(anyhow::Error::from)?;
            write_pages(&command, directory, output)?;
        }
        None => {
            let mut page = Vec::new();
            Man::new(command).render(&mut page).map_err(anyhow::Error::from)?;
            output.result(String::from_utf8_lossy(&page).trim_end())?;
        }
    }
    Ok(Verdict::Good)
}

/// `evalign.1`, `evalign-eval.1`, `evalign-tasks-list.1` and so on.
fn write_pages(command: &clap::Command, directory: &Path, output: Output) -> Result<(), Failure> {
    let file = Man::new(command.clone()).generate_to(directory).map_err(anyhow::Error::from)?;
    output.result(&file.display().to_string())?;
    for inner in command.get_subcommands().filter(|inner| !inner.is_hide_set()) {
        write_pages(inner, directory, output)?;
    }
    Ok(())
}
