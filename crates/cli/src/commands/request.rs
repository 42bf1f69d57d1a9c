use evalign_bench::RunRequest;
use evalign_core::{Dtype, ModelRef, Provider};
use evalign_model::{ModelSettings, ServerKind};

use crate::args::{BudgetArgs, EvalArgs, Extent, SamplingArgs};
use crate::commands::context::{DEFAULT_MODEL, absolute};
use crate::commands::model_args::model_args;
use crate::commands::procedure::located;
use crate::output::{Failure, Output};

/// What was typed, as a request.
pub(super) fn request_of(args: &EvalArgs, output: Output) -> Result<RunRequest, Failure> {
    tell_without_effect(args, output);
    let tasks: Vec<String> = args.tasks.iter().chain(&args.tasks_flag).cloned().collect();
    let sampling = with_gen_kwargs(&args.sampling)?;
    let (model, dtype) = model_of(args, output)?;
    let mut request = RunRequest::new(model, tasks);
    request.shots = args.shots;
    (request.limit, request.samples) = match args.limit {
        None => (None, args.samples),
        Some(Extent::First(limit)) => (Some(limit), None),
        Some(Extent::Range(range)) => (None, Some(range)),
    };
    request.repeats = sampling.repeats;
    request.temperature = sampling.temperature;
    request.top_p = sampling.top_p;
    request.top_k = sampling.top_k;
    request.min_p = sampling.min_p;
    request.max_tokens = sampling.max_tokens;
    request.chat_template = match (args.chat_template, args.no_chat_template) {
        (true, _) => Some(true),
        (false, true) => Some(false),
        (false, false) => None,
    };
    request.multiturn = args.multiturn;
    request.system_instruction.clone_from(&args.system_instruction);
    request.mode = args.compat;
    let mut judges = args.judge.iter().map(located);
    request.judge = judges.next();
    request.jury = judges.collect();
    request.option_order = args.variants.order();
    request.perturb = args.variants.perturbations();
    request.typo_rate = args.variants.typo_rate;
    request.seed = args.seed;
    request.dtype = dtype;
    request.device.clone_from(&args.engine.device);
    request.memory_gib = args.engine.memory_gib;
    request.deterministic = args.engine.deterministic;
    set_server(&mut request, args)?;
    request.max_concurrency = args.limits.max_concurrency.0;
    request.max_retries = args.limits.max_retries;
    set_budget(&mut request, &args.limits.budget);
    // A run may be resumed from another directory.
    request.data_root = args.data.data_root.as_deref().map(absolute);
    request.include_path = args.data.include_path.iter().map(|path| absolute(path)).collect();
    request.offline = args.data.offline;
    Ok(request)
}

/// Sets what was typed about the budget; what was not stays.
pub(super) fn set_budget(request: &mut RunRequest, budget: &BudgetArgs) {
    request.budget_tokens = budget.budget_tokens.or(request.budget_tokens);
    request.budget_usd = budget.budget_usd.or(request.budget_usd);
    request.budget_requests = budget.budget_requests.or(request.budget_requests);
    request.prices = budget.prices.as_deref().map(absolute).or(request.prices.take());
}

/// Where a model on a server is. The environment's address is kept with the run, so that a resumed one
/// goes to the same place; a settings file has its own.
fn set_server(request: &mut RunRequest, args: &EvalArgs) -> Result<(), Failure> {
    request.generated_choices = args.generated_choices;
    let server = &args.server;
    let on_server = |model: &ModelRef| model.provider == Provider::Openai;
    if !on_server(&request.model) && !request.judges().any(on_server) {
        let given = [
            ("--base-url", server.base_url.is_some()),
            ("--server", server.server.is_some()),
            ("--model-settings", server.model_settings.is_some()),
            ("--stream", server.stream),
        ];
        return match given.into_iter().find(|(_, given)| *given) {
            Some((flag, _)) => Err(Failure::new(
                format!("`{flag}` is about a model on a server, and {} runs here", request.model),
                "leave it out, or name the model on the server as `openai/NAME`",
            )),
            None => Ok(()),
        };
    }
    let settings = server.model_settings.as_deref().map(ModelSettings::read).transpose()?;
    let in_settings = settings.is_some_and(|settings| settings.base_url.is_some());
    let from_env = || ServerKind::base_url_from_env(server.server, |name| std::env::var(name).ok());
    request.base_url = server.base_url.clone().or_else(|| if in_settings { None } else { from_env() });
    request.server = server.server;
    request.model_settings = server.model_settings.as_deref().map(absolute);
    request.stream = server.stream;
    Ok(())
}

/// `--model REF --dtype D`, or lm-evaluation-harness's `--model hf --model_args pretrained=NAME,dtype=D`.
fn model_of(args: &EvalArgs, output: Output) -> Result<(ModelRef, Option<Dtype>), Failure> {
    let no_model = || {
        Failure::new("no model is named", format!("add `--model REF`, for example `--model {DEFAULT_MODEL}`"))
    };
    let name = args.model.as_deref().ok_or_else(no_model)?;
    let mut dtype = args.engine.dtype;
    let reference: ModelRef = match (&args.model_args, name) {
        (Some(text), "hf" | "huggingface") => {
            let given = model_args(text, output)?;
            if dtype.is_some() && given.dtype.is_some() && dtype != given.dtype {
                return Err(Failure::new(
                    "`--dtype` and `--model_args dtype=` differ",
                    "leave one of them out",
                ));
            }
            dtype = dtype.or(given.dtype);
            format!("local/{}", given.name).parse()?
        }
        (Some(_), _) => {
            return Err(Failure::new(
                format!("`--model_args` does not apply to `{name}`"),
                "name the model by its reference alone, for example `--model local/ORG/REPO`",
            ));
        }
        (None, name) => name.parse()?,
    };
    Ok((located(&reference), dtype))
}

/// `temperature=0.7,top_p=0.9,max_gen_toks=64` where the flag of its own is absent.
fn with_gen_kwargs(sampling: &SamplingArgs) -> Result<SamplingArgs, Failure> {
    let mut sampling = sampling.clone();
    for part in sampling.gen_kwargs.clone().iter().flat_map(|kwargs| kwargs.split(',')) {
        let (name, value) = part.trim().split_once('=').unwrap_or((part.trim(), ""));
        let bad = || {
            Failure::new(
                format!("cannot use `{part}` of `--gen_kwargs`"),
                "it takes temperature, top_p, top_k, min_p, max_gen_toks and do_sample; each also has a flag of its own",
            )
        };
        let number = || value.parse::<f64>().map_err(|_| bad());
        let count = || value.parse::<u32>().map_err(|_| bad());
        match name {
            "temperature" => sampling.temperature = sampling.temperature.or(Some(number()?)),
            "top_p" => sampling.top_p = sampling.top_p.or(Some(number()?)),
            "min_p" => sampling.min_p = sampling.min_p.or(Some(number()?)),
            "top_k" => sampling.top_k = sampling.top_k.or(Some(count()?)),
            "max_gen_toks" | "max_new_tokens" | "max_tokens" => {
                sampling.max_tokens = sampling.max_tokens.or(Some(count()?));
            }
            "do_sample" if value.eq_ignore_ascii_case("false") => sampling.temperature = Some(0.0),
            "do_sample" if value.eq_ignore_ascii_case("true") => {}
            _ => return Err(bad()),
        }
    }
    Ok(sampling)
}

fn tell_without_effect(args: &EvalArgs, output: Output) {
    let unused = &args.without_effect;
    for (flag, given, why) in [
        ("--batch_size", unused.batch_size.is_some(), "batches are planned from the memory there is"),
        ("--max_batch_size", unused.max_batch_size.is_some(), "batches are planned from the memory there is"),
        ("--log_samples", unused.log_samples, "samples are always kept"),
        ("--use_cache", unused.use_cache.is_some(), "answers are always cached by their content"),
        (
            "--predict_only",
            unused.predict_only,
            "answers are always kept; `evalign rescore` scores them again",
        ),
    ] {
        if given {
            output.note(&format!("note: `{flag}` has no effect: {why}"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::args::{Cli, Command};
    use clap::Parser;

    fn request(line: &str) -> Result<RunRequest, Failure> {
        let cli = Cli::try_parse_from(line.split_whitespace()).unwrap();
        let Command::Eval(args) = cli.command else { panic!("not eval") };
        request_of(&args, Output::new(true))
    }

    #[test]
    fn lm_eval_spellings_mean_the_same() {
        let ours =
            request("evalign eval gsm8k mmlu -M local/a/b@v1 --dtype bf16 --shots 5 --temperature 0.5 --max-tokens 64")
                .unwrap();
        let theirs = request(
            "evalign run --model hf --model_args pretrained=a/b,dtype=bfloat16,revision=v1,trust_remote_code=True --tasks gsm8k,mmlu --num_fewshot 5 \
             --gen_kwargs temperature=0.5,max_gen_toks=64",
        )
        .unwrap();
        assert_eq!(ours, theirs);
    }

    #[test]
    fn no_model_argument_is_dropped_in_silence() {
        let given = |args: &str| {
            let line = format!("evalign eval gsm8k -M hf --model_args pretrained=a/b,{args}");
            request(&line).map_err(|failure| match failure {
                Failure::Error { error, hint } => format!("{error}; {}", hint.unwrap_or_default()),
                Failure::BrokenPipe => String::new(),
            })
        };
        for (args, dtype) in [
            ("dtype=float32", Some(Dtype::F32)),
            ("dtype=torch.float16", Some(Dtype::F16)),
            ("dtype=auto", None),
            ("device=cpu", None),
        ] {
            assert_eq!(given(args).unwrap().dtype, dtype, "{args}");
        }
        assert_eq!(given("revision=abc").unwrap().model.name, "a/b@abc");
        for (args, hint) in [
            ("tokenizer=c/d", "beside the weights"),
            ("peft=c/d", "merge it"),
            ("load_in_4bit=True", "--dtype q"),
            ("max_length=512", "pretrained, revision and dtype"),
            ("dtype=int8", "float32, bfloat16"),
        ] {
            let error = given(args).unwrap_err();
            assert!(error.contains(&format!("`{args}`")) && error.contains(hint), "{error}");
        }
        assert!(
            request("evalign eval gsm8k -M hf --dtype f32 --model_args pretrained=a/b,dtype=float16")
                .is_err()
        );
    }

    #[test]
    fn nonsense_is_refused() {
        assert!(request("evalign eval gsm8k -M hf --model_args dtype=float32").is_err());
        assert!(request("evalign eval gsm8k -M local/x --gen_kwargs beams=4").is_err());
        assert!(request("evalign eval gsm8k -M nowhere").is_err());
    }
}
