use std::io::BufRead;

use evalign_bench::{ArenaRequest, Vote, VoteQuestion, Votes};

use crate::Verdict;
use crate::args::JudgeVoteArgs;
use crate::commands::context::{find, owner};
use crate::output::{Failure, Output};

/// One question after the other, until there are none, the person stops, or input ends.
pub(super) fn vote(args: &JudgeVoteArgs, output: Output) -> Result<Verdict, Failure> {
    let (store, mut id, _) = find(&args.run)?;
    if args.run == "last"
        && let Some(arena) = store.runs_of_procedure(ArenaRequest::PROCEDURE, None, 1, None)?.first()
    {
        id = arena.id.clone();
    }
    let owner = owner("judge vote");
    let votes = Votes::open(&store, &id, &args.voter, &owner)?;
    let total = votes.questions().len();
    output.note(&format!("{total} pairs to vote on, kept in {}; q stops", votes.run()));
    let mut input = std::io::stdin().lock();
    let mut cast = 0;
    for (number, question) in votes.questions().iter().enumerate() {
        output.result(&shown(question, number + 1, total))?;
        match ask(&mut input, output)? {
            Some(vote) => votes.cast_one(question, vote)?,
            None => break,
        }
        cast += 1;
    }
    let arena = votes.arena().clone();
    let counted = match votes.close(&owner)? {
        true => format!("and counted: `evalign show {arena}` and `evalign leaderboard` have the ratings"),
        false => format!("; they count when `evalign resume {arena}` is through"),
    };
    let more = if cast < total { "; `evalign judge vote` goes on" } else { "" };
    output.note(&format!("{cast} votes kept {counted}{more}"));
    Ok(Verdict::Good)
}

fn shown(question: &VoteQuestion, number: usize, total: usize) -> String {
    let rule = "-".repeat(40);
    format!(
        "\n{number} of {total}\n{rule}\n{}\n{rule} 1\n{}\n{rule} 2\n{}\n{rule}",
        question.prompt, question.first, question.second
    )
}

/// `None` when the person stops.
fn ask(input: &mut impl BufRead, output: Output) -> Result<Option<Vote>, Failure> {
    loop {
        output.note("which answer is better? 1, 2, t (tie), q (stop)");
        let mut line = String::new();
        if input.read_line(&mut line).map_err(Failure::from_io)? == 0 {
            return Ok(None);
        }
        match line.trim().to_lowercase().as_str() {
            "1" => return Ok(Some(Vote::First)),
            "2" => return Ok(Some(Vote::Second)),
            "t" | "tie" => return Ok(Some(Vote::Tie)),
            "q" | "quit" => return Ok(None),
            _ => {}
        }
    }
}
