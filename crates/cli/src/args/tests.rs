use super::*;
use clap::CommandFactory;

#[test]
fn the_command_line_is_consistent() {
    Cli::command().debug_assert();
}

#[test]
fn habits_of_lm_eval_users_parse() {
    let line = "evalign run --model hf --model_args pretrained=a/b --tasks mmlu,gsm8k --num_fewshot 5 --limit 10 \
                --batch_size auto --apply_chat_template --gen_kwargs temperature=0.5 --seed 0,1234,1234,1234";
    let cli = Cli::try_parse_from(line.split_whitespace()).unwrap();
    let Command::Eval(args) = cli.command else { panic!("not eval") };
    assert_eq!(args.tasks_flag, ["mmlu", "gsm8k"]);
    assert_eq!((args.shots, args.seed, args.chat_template), (Some(5), 1234, true));
    assert_eq!(args.limit, Some(Extent::First(Limit::Docs(10))));
}

#[test]
fn limits_are_numbers_shares_or_ranges() {
    let limit = |text: &str| {
        let cli = Cli::try_parse_from(["evalign", "eval", "gsm8k", "--limit", text]).unwrap();
        let Command::Eval(args) = cli.command else { panic!("not eval") };
        args.limit.unwrap()
    };
    assert_eq!(limit("7"), Extent::First(Limit::Docs(7)));
    assert_eq!(limit("0.25"), Extent::First(Limit::Fraction(0.25)));
    assert_eq!(limit("10..20"), Extent::Range(evalign_bench::DocRange { start: 10, end: 20 }));
}

#[test]
fn search_options_that_change_nothing_are_refused() {
    let options = |line: &str| {
        let cli = Cli::try_parse_from(["evalign", "rag", "search", "x"].into_iter().chain(line.split(' ')));
        let Command::Rag(command) = cli.unwrap().command else { panic!("{line}") };
        let RagCommand::Search(args) = *command else { panic!("{line}") };
        args.search.options(!args.expansions.is_empty())
    };
    for idle in [
        "--mode bm25 --fusion dbsf",
        "--mode dense --bm25-weight 2",
        "--mode hybrid --feedback-hits 3",
        "--mode hybrid --feedback-weight 0.1",
        "--mode feedback --rrf-k 10",
        "--mode bm25 --rrf-k 10",
    ] {
        assert!(options(idle).is_err(), "{idle}");
    }
    let several = options("--mode bm25 --rrf-k 10 --expand multi-query --model local/a").unwrap();
    assert_eq!(several.fusion, evalign_rag::Fusion::Rrf { k: 10.0 });
    let all =
        options("--fusion rrf --rrf-k 5 --bm25-weight 2 --feedback-hits 3 --feedback-weight 0.1").unwrap();
    assert_eq!((all.fusion, all.bm25_weight), (evalign_rag::Fusion::Rrf { k: 5.0 }, 2.0));
    assert_eq!(all.feedback, Some(evalign_rag::Feedback { hits: 3, weight: 0.1 }));
    assert_eq!(options("--depth 100").unwrap(), evalign_rag::SearchOptions::recommended());
}

#[test]
fn everything_that_is_shown_is_explained() {
    fn unexplained(command: &clap::Command, path: &str, found: &mut Vec<String>) {
        let path = format!("{path} {}", command.get_name());
        let bare = command.get_arguments().filter(|a| !a.is_hide_set() && a.get_help().is_none());
        found.extend(bare.map(|a| format!("{path}: {}", a.get_id())));
        if command.get_about().is_none() {
            found.push(path.clone());
        }
        for inner in command.get_subcommands() {
            unexplained(inner, &path, found);
        }
    }
    let mut found = Vec::new();
    unexplained(&Cli::command(), "", &mut found);
    assert!(found.is_empty(), "no help for {found:#?}");
}

#[test]
fn impossible_values_are_refused() {
    for bad in [
        "--limit 0",
        "--limit 5..5",
        "--limit a..b",
        "--limit 1.5",
        "--memory-gib 0",
        "--max-concurrency 0",
        "--dtype f64",
        "--limit 5 --samples 1..2",
    ] {
        let line = format!("evalign eval gsm8k --model local/x {bad}");
        assert!(Cli::try_parse_from(line.split_whitespace()).is_err(), "{bad}");
    }
}

#[test]
fn tolerances() {
    assert!(Tolerance::Samples(0).exceeded(1, 10));
    assert!(!Tolerance::Share(0.1).exceeded(1, 10));
    assert!(Tolerance::Share(0.1).exceeded(2, 10));
}
