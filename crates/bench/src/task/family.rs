//! Families: many tasks that differ in one word, and the groups they form.

use evalign_core::ScoringMode;
use serde_json::{Map, Value};

use super::catalog::{GroupDefinition, check_name};
use super::definition::{
    DatasetSource, FilterPipeline, FilterStep, MetricDefinition, MetricName, OutputKind, ShotsDefinition,
    TargetDefinition, TaskDefinition,
};
use super::file::{FamilyFile, ShotsFile, TaskFile, Version};
use super::robustness::{self, Paraphrase};
use crate::error::BenchError;
use crate::scorer::Scorer;

/// The word a family's task stands for.
#[derive(Clone, Debug, Default)]
pub(super) struct Member {
    pub(super) name: String,
    pub(super) category: String,
}

impl Member {
    pub(super) fn fill(&self, text: &str) -> String {
        text.replace("%{member}", &self.name)
            .replace("%{member_words}", &self.name.replace('_', " "))
            .replace("%{category}", &self.category)
    }
}

/// A leaf task before it is completed: its file, and its member of the family.
#[derive(Clone, Debug)]
pub(super) struct Leaf {
    pub(super) name: String,
    pub(super) member: Member,
}

/// Tasks and groups of a family, in category order.
pub(super) fn expand(
    file: &str,
    family: &FamilyFile,
    summary: &str,
) -> Result<(Vec<Leaf>, Vec<GroupDefinition>), BenchError> {
    let missing = |field: &str| BenchError::TaskFile {
        at: file.to_owned(),
        message: format!("field `family`: `{field}` is missing"),
    };
    let name = family.name.as_ref().ok_or_else(|| missing("name"))?;
    let categories = family.categories.as_ref().ok_or_else(|| missing("categories"))?;
    let top = family.group.as_ref().ok_or_else(|| missing("group"))?;
    let version = family.group_version.clone().map_or_else(|| "1".to_owned(), |Version(text)| text);
    let group = |name: String, summary: String, members: Vec<String>| GroupDefinition {
        name,
        version: version.clone(),
        summary,
        members,
        weight_by_size: true,
    };
    let (mut leaves, mut groups) = (Vec::new(), Vec::new());
    for (category, members) in categories {
        let members: Vec<Member> =
            members.iter().map(|name| Member { name: name.clone(), category: category.clone() }).collect();
        let names: Vec<String> = members.iter().map(|member| member.fill(name)).collect();
        if let Some(template) = &family.category_group {
            let of = Member { name: String::new(), category: category.clone() };
            groups.push(group(
                of.fill(template),
                format!("{summary}: {}", category.replace('_', " ")),
                names.clone(),
            ));
        }
        leaves.extend(names.into_iter().zip(members).map(|(name, member)| Leaf { name, member }));
    }
    let members = match groups.is_empty() {
        true => leaves.iter().map(|leaf| leaf.name.clone()).collect(),
        false => groups.iter().map(|group| group.name.clone()).collect(),
    };
    groups.insert(0, group(top.clone(), summary.to_owned(), members));
    for name in leaves.iter().map(|leaf| &leaf.name).chain(groups.iter().map(|group| &group.name)) {
        check_name(file, name)?;
    }
    Ok((leaves, groups))
}

/// Turns a file (with everything included) into a complete definition. `examples` are the worked
/// examples of `examples_file`, read by the caller.
pub(super) fn complete(
    path: &str,
    file: &TaskFile,
    leaf: &Leaf,
    examples: Option<Vec<Map<String, Value>>>,
) -> Result<TaskDefinition, BenchError> {
    let missing = |field: &str| BenchError::TaskFile {
        at: path.to_owned(),
        message: format!("field `{field}` is missing"),
    };
    let fill = |text: &Option<String>| leaf.member.fill(text.as_deref().unwrap_or_default());
    let output = file.output.ok_or_else(|| missing("output"))?;
    let target = match (&file.target, &file.targets) {
        (Some(template), None) => TargetDefinition::One(template.clone()),
        (None, Some(expression)) => TargetDefinition::Any(expression.clone()),
        (None, None) => return Err(missing("target")),
        (Some(_), Some(_)) => {
            return Err(BenchError::TaskFile {
                at: path.to_owned(),
                message: "`target` and `targets` exclude each other".to_owned(),
            });
        }
    };
    let prompt = match (&file.prompt, output) {
        (Some(prompt), _) => leaf.member.fill(prompt),
        (None, OutputKind::Perplexity) => String::new(),
        (None, OutputKind::MultipleChoice | OutputKind::GenerateUntil) => return Err(missing("prompt")),
    };
    let definition = TaskDefinition {
        name: leaf.name.clone(),
        version: file.version.clone().ok_or_else(|| missing("version"))?.0,
        summary: fill(&file.summary),
        source: file.source.clone().unwrap_or_default(),
        tags: file.tags.clone().unwrap_or_default(),
        dataset: dataset(file.dataset.clone().ok_or_else(|| missing("dataset"))?, &leaf.member),
        process: file.process.clone().unwrap_or_default(),
        output,
        description: fill(&file.description),
        prompt,
        choices: file.choices.clone(),
        target,
        target_delimiter: file.target_delimiter.clone().unwrap_or_else(|| " ".to_owned()),
        gen_prefix: file.gen_prefix.clone(),
        shots: shots(file.shots.clone().unwrap_or_default(), examples),
        generation: file.generation.clone(),
        repeats: file.repeats.unwrap_or(1),
        filters: file.filters.clone().unwrap_or_else(|| vec![default_filter()]),
        metrics: file.metrics.clone().unwrap_or_else(|| default_metrics(output)),
        lm_eval: file.lm_eval.clone(),
        question: file.question.clone().unwrap_or_default(),
        options: file.options.clone(),
        paraphrases: paraphrases(file.paraphrases.as_deref().unwrap_or_default(), &leaf.member),
        judge: file.judge.clone(),
    };
    check(path, &definition)?;
    Ok(definition)
}

fn paraphrases(written: &[Paraphrase], member: &Member) -> Vec<Paraphrase> {
    let fill = |text: &Option<String>| text.as_ref().map(|text| member.fill(text));
    let each = |words: &Paraphrase| Paraphrase {
        description: fill(&words.description),
        prompt: fill(&words.prompt),
    };
    written.iter().map(each).collect()
}

fn dataset(mut source: DatasetSource, member: &Member) -> DatasetSource {
    for field in [&mut source.path, &mut source.config, &mut source.file, &mut source.shots_file] {
        *field = field.as_ref().map(|text| member.fill(text));
    }
    if let Some(filter) = &mut source.filter {
        filter.value = member.fill(&filter.value);
    }
    source
}

fn shots(file: ShotsFile, from_file: Option<Vec<Map<String, Value>>>) -> ShotsDefinition {
    ShotsDefinition {
        count: file.count.unwrap_or(0),
        fixed: file.fixed.unwrap_or(false),
        sampler: file.sampler.unwrap_or_default(),
        balance_by: file.balance_by,
        examples: from_file.or(file.examples).unwrap_or_default(),
        delimiter: file.delimiter.unwrap_or_else(|| "\n\n".to_owned()),
        extra_draw: file.extra_draw.unwrap_or(false),
    }
}

fn default_filter() -> FilterPipeline {
    FilterPipeline { name: "none".to_owned(), steps: vec![FilterStep::TakeFirst] }
}

fn default_metrics(output: OutputKind) -> Vec<MetricDefinition> {
    let names: &[MetricName] = match output {
        OutputKind::MultipleChoice => &[MetricName::Acc, MetricName::AccNorm],
        OutputKind::GenerateUntil => &[MetricName::ExactMatch],
        OutputKind::Perplexity => {
            &[MetricName::WordPerplexity, MetricName::BytePerplexity, MetricName::BitsPerByte]
        }
    };
    names.iter().map(|name| MetricDefinition::plain(*name)).collect()
}

/// What a definition must satisfy beyond its types.
fn check(path: &str, task: &TaskDefinition) -> Result<(), BenchError> {
    let fail = |field: &str, message: &str| {
        Err(BenchError::TaskFile { at: path.to_owned(), message: format!("field `{field}`: {message}") })
    };
    let source = &task.dataset;
    if source.path.is_none() == source.file.is_none() {
        return fail("dataset", "exactly one of `path` and `file` is needed");
    }
    if source.path.is_some() && source.split.is_none() {
        return fail(
            "dataset",
            "`split` is missing (`path` names a dataset of the hub; a file beside this one is `file`)",
        );
    }
    if task.repeats == 0 {
        return fail("repeats", "must be at least 1");
    }
    match task.output {
        OutputKind::MultipleChoice if task.choices.is_none() => {
            return fail("choices", "is missing (the output is `multiple_choice`)");
        }
        OutputKind::GenerateUntil if task.generation.is_none() => {
            return fail("generation", "is missing (the output is `generate_until`)");
        }
        OutputKind::MultipleChoice | OutputKind::GenerateUntil | OutputKind::Perplexity => {}
    }
    let overrides = task.lm_eval.clone().unwrap_or_default();
    for metric in task.metrics.iter().chain(overrides.metrics.iter().flatten()) {
        if metric.name.output() != task.output {
            let name = metric.name.name();
            return fail("metrics", &format!("`{name}` cannot be computed from `{}`", task.output.name()));
        }
    }
    if task.judge.is_some() && task.output != OutputKind::GenerateUntil {
        return fail("judge", "there is no text to judge (the output is not `generate_until`)");
    }
    if let Some(judge) = &task.judge {
        let temperature = judge.temperature.unwrap_or(0.0);
        if !(temperature.is_finite() && temperature >= 0.0) {
            return fail("judge.temperature", "use 0 or more");
        }
        match judge.repeats {
            Some(0) => return fail("judge.repeats", "use 1 or more"),
            Some(2..) if temperature == 0.0 => {
                return fail("judge.repeats", "the likeliest verdict is always the same: set `temperature`");
            }
            None | Some(_) => {}
        }
    }
    if task.filters.is_empty() || task.metrics.is_empty() {
        return fail("metrics", "at least one metric and one filter are needed");
    }
    if matches!(task.shots.sampler, super::Sampler::Balanced) && task.shots.balance_by.is_none() {
        return fail("shots", "the balanced sampler needs `balance_by`");
    }
    robustness::check(task).or_else(|(field, message)| fail(field, &message))
}

/// Compiles every template, expression and regular expression, for both rule books.
pub(crate) fn compile_check(task: &TaskDefinition) -> Result<(), BenchError> {
    for mode in [ScoringMode::Default, ScoringMode::LmEval] {
        for form in task.forms(mode) {
            Scorer::new(&form, mode, task.repeats)?;
        }
    }
    Ok(())
}
