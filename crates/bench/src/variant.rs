//! Asking a task's questions in other ways: which ways a request wants of a task, and what they do to a
//! row. What is asked in another way is stored beside the plain samples, as a task of its own (see
//! [`Variant::task_name`]), so that resuming, exporting and comparing need not know of it.

use evalign_core::{SampleKey, Variant, sample_seed};
use evalign_stats::SplitMix64;
use serde_json::{Map, Value, json};

use crate::document::FieldError;
use crate::error::BenchError;
use crate::option_order::{self, OptionOrder};
use crate::perturb::{self, Perturbation};
use crate::plan::Notes;
use crate::planned::PlannedTask;
use crate::request::RunRequest;
use crate::task::{OptionsDefinition, TaskDefinition};

/// Changes the rows of one variant, after computed columns are there and before templates read them.
/// Worked examples are never changed.
#[derive(Debug)]
pub(crate) struct Rewriter {
    /// The variant's name, part of every row's seed.
    task: String,
    seed: u64,
    rule: Rule,
}

#[derive(Debug)]
enum Rule {
    Order {
        options: OptionsDefinition,
        places: u32,
    },
    Question {
        columns: Vec<String>,
        change: Change,
    },
    /// Other templates, the same row.
    Paraphrase,
}

#[derive(Clone, Copy, Debug)]
enum Change {
    Typos { rate: f64 },
    LowerCase,
    Spaces,
}

impl Rewriter {
    pub(crate) fn new(
        definition: &TaskDefinition,
        variant: Variant,
        request: &RunRequest,
    ) -> Result<Self, BenchError> {
        let missing = |field: &str| BenchError::Definition {
            task: definition.name.clone(),
            field: field.to_owned(),
            message: format!("is missing, and the variant `{variant}` needs it"),
        };
        let question = |change: Change| match definition.question.as_slice() {
            [] => Err(missing("question")),
            columns => Ok(Rule::Question { columns: columns.to_vec(), change }),
        };
        let rule = match variant {
            Variant::Order(places) => {
                let options = definition.options.clone().ok_or_else(|| missing("options"))?;
                Rule::Order { options, places }
            }
            Variant::Typos => question(Change::Typos { rate: perturb::typo_rate(request) })?,
            Variant::Case => question(Change::LowerCase)?,
            Variant::Whitespace => question(Change::Spaces)?,
            Variant::Paraphrase(_) => Rule::Paraphrase,
        };
        Ok(Self { task: variant.task_name(&definition.name), seed: request.seed, rule })
    }

    /// What the variant adds to the protocol of its numbers.
    pub(crate) fn protocol(&self) -> Value {
        match &self.rule {
            Rule::Order { options, places } => json!({"order": places, "options": options}),
            Rule::Paraphrase => json!({"paraphrase": self.task}),
            Rule::Question { columns, change } => {
                let change = match change {
                    Change::Typos { rate } => json!({"typos": rate, "seed": self.seed}),
                    Change::LowerCase => json!("lower_case"),
                    Change::Spaces => json!({"spaces": perturb::MOST_SPACES, "seed": self.seed}),
                };
                json!({"columns": columns, "change": change, "version": perturb::VERSION})
            }
        }
    }

    /// Changes row `doc` in place, as a function of the run's seed and the row only.
    pub(crate) fn rewrite(&self, doc: u64, row: &mut Map<String, Value>) -> Result<(), FieldError> {
        let fail = |field: &str, message: String| FieldError { field: field.to_owned(), message };
        let (columns, change) = match &self.rule {
            Rule::Paraphrase => return Ok(()),
            Rule::Order { options, places } => {
                return option_order::rotate(row, options, *places)
                    .map_err(|message| fail("options", message));
            }
            Rule::Question { columns, change } => (columns, change),
        };
        let key = SampleKey { task: self.task.clone(), doc, repeat: 0 };
        let mut random = SplitMix64::new(sample_seed(self.seed, &key));
        for column in columns {
            let Some(Value::String(text)) = row.get_mut(column) else {
                return Err(fail("question", format!("there is no column `{column}` with a text")));
            };
            *text = match change {
                Change::Typos { rate } => perturb::typos(text, *rate, &mut random),
                Change::LowerCase => perturb::lower_case(text),
                Change::Spaces => perturb::spaces(text, &mut random),
            };
        }
        Ok(())
    }
}

/// The variants of a task a request wants, in the order in which they are asked. Where the task's file
/// does not say enough for one, a note does.
pub(crate) fn wanted(request: &RunRequest, definition: &TaskDefinition, notes: &mut Notes) -> Vec<Variant> {
    let mut found = Vec::new();
    let mut lacks = |flag: &str, field: &str| {
        notes.add(format!("`{flag}` does not apply: its task file has no `{field}`"), &definition.name);
    };
    if request.option_order == OptionOrder::Cyclic {
        match &definition.options {
            Some(options) => found.extend((1..options.labels.len() as u32).map(Variant::Order)),
            None => lacks("--option-order cyclic", "options"),
        }
    }
    for perturbation in &request.perturb {
        let flag = format!("--perturb {}", perturbation.name());
        match perturbation {
            Perturbation::Paraphrase if definition.paraphrases.is_empty() => lacks(&flag, "paraphrases"),
            Perturbation::Paraphrase => {
                found.extend((1..=definition.paraphrases.len() as u32).map(Variant::Paraphrase));
            }
            Perturbation::Typos | Perturbation::Case | Perturbation::Whitespace
                if definition.question.is_empty() =>
            {
                lacks(&flag, "question");
            }
            Perturbation::Typos => found.push(Variant::Typos),
            Perturbation::Case => found.push(Variant::Case),
            Perturbation::Whitespace => found.push(Variant::Whitespace),
        }
    }
    found
}

/// Refuses a request for variants under the reference's rule book, which knows none.
pub(crate) fn check_request(request: &RunRequest) -> Result<(), BenchError> {
    let asked = request.option_order != OptionOrder::AsGiven || !request.perturb.is_empty();
    if asked && request.mode == evalign_core::ScoringMode::LmEval {
        return Err(BenchError::request(
            "`--option-order` and `--perturb` ask what lm-evaluation-harness does not ask",
            "leave out `--compat lm-eval`",
        ));
    }
    match request.typo_rate {
        Some(rate) if !(rate > 0.0 && rate <= 1.0) => Err(BenchError::request(
            format!("`--typo-rate` is {rate}"),
            "use a share of letters above 0, up to 1",
        )),
        _ => Ok(()),
    }
}

/// Refuses a request of which a part applies to none of the tasks.
pub(crate) fn check_applies(request: &RunRequest, tasks: &[PlannedTask]) -> Result<(), BenchError> {
    let any = |fits: &dyn Fn(Variant) -> bool| tasks.iter().any(|task| task.spec().variant.is_some_and(fits));
    let none = |flag: &str, field: &str| {
        let names: Vec<&str> = request.tasks.iter().map(String::as_str).collect();
        Err(BenchError::request(
            format!("`{flag}` applies to no task of {}", names.join(", ")),
            format!("the task file must have `{field}`; benchmarks/schema.json says what it means"),
        ))
    };
    if request.option_order == OptionOrder::Cyclic && !any(&|v| matches!(v, Variant::Order(_))) {
        return none("--option-order cyclic", "options");
    }
    for perturbation in &request.perturb {
        // With `all`, what a task has no words for is left out and noted.
        let alone = request.perturb.len() == 1;
        if !any(&|variant| Perturbation::of(variant) == Some(*perturbation)) && alone {
            let field = if *perturbation == Perturbation::Paraphrase { "paraphrases" } else { "question" };
            return none(&format!("--perturb {}", perturbation.name()), field);
        }
    }
    let perturbed = any(&|variant| Perturbation::of(variant).is_some());
    if !request.perturb.is_empty() && !perturbed { none("--perturb", "question") } else { Ok(()) }
}
