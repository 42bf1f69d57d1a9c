//! What each command does.

mod bench;
mod compare;
mod completions;
mod config;
mod context;
mod critique;
mod dry_run;
mod eval;
mod export;
mod injections;
mod judge;
mod keys;
mod leaderboard;
mod man;
mod measures;
mod model_args;
mod models;
mod pairs;
mod procedure;
mod progress;
mod quickstart;
mod rag;
mod repeats;
mod request;
mod rescore;
mod resume;
mod runs;
mod sensitivity;
mod serve;
mod session;
mod show;
mod spending;
mod tasks;
mod train;
mod verify;

use crate::Verdict;
use crate::args::{BenchCommand, Command, ConfigCommand, ModelsCommand, PairsCommand, TasksCommand};
use crate::output::{Failure, Output};

pub(crate) fn run(command: Command, output: Output) -> Result<Verdict, Failure> {
    match command {
        Command::Quickstart(args) => quickstart::quickstart(&args, output),
        Command::Eval(args) => eval::eval(&args, output),
        Command::Resume(args) => resume::resume(&args, output),
        Command::Runs(args) => runs::runs(&args, output),
        Command::Show(args) => show::show(&args, output),
        Command::Compare(args) => compare::compare(&args, output),
        Command::Leaderboard(args) => leaderboard::leaderboard(&args, output),
        Command::Export(args) => export::export(&args, output),
        Command::Import(args) => export::import(&args, output),
        Command::Verify(args) => verify::verify(&args, output),
        Command::Rescore(args) => rescore::rescore(&args, output),
        Command::Judge(command) => judge::judge(command, output),
        Command::Critique(args) => critique::critique(&args, output),
        Command::Pairs(PairsCommand::Build(args)) => pairs::build(&args, output),
        Command::Pairs(PairsCommand::Check(args)) => pairs::check(&args, output),
        Command::Pairs(PairsCommand::Export(args)) => pairs::export(&args, output),
        Command::Train(command) => train::train(&command, output),
        Command::Tasks(TasksCommand::List { all, json, include_path }) => {
            tasks::list(all, json, &include_path, output)
        }
        Command::Tasks(TasksCommand::Validate { files, include_path, schema }) => {
            tasks::validate(&files, &include_path, schema, output)
        }
        Command::Models(ModelsCommand::Pull { models, file, offline }) => {
            models::pull(&models, file, offline, output)
        }
        Command::Rag(command) => rag::rag(*command, output),
        Command::Models(ModelsCommand::Quantise { model, out, offline }) => {
            models::quantise(&model, out, offline, output)
        }
        Command::Models(ModelsCommand::List { verify, json }) => models::list(verify, json, output),
        Command::Bench(BenchCommand::Engine { model, engine, offline, json }) => {
            bench::engine(&model, &engine, offline, json, output)
        }
        Command::Serve(args) => serve::serve(&args, output),
        Command::Keys(command) => keys::keys(command, output),
        Command::Config(ConfigCommand::Show { config, json }) => config::show(config, json, output),
        Command::Completions { shell } => completions::completions(shell, output),
        Command::Man { out } => man::man(out.as_deref(), output),
    }
}
