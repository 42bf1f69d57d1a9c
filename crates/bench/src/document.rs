//! A task's templates and expressions, compiled, and what they make of one row.

use evalign_core::Digest;
use minijinja::Value as TemplateValue;
use serde_json::{Map, Value};

use crate::error::BenchError;
use crate::python;
use crate::task::{Choices, TargetDefinition, TaskDefinition};
use crate::template::{self, Formula, Templates};

/// Which field of the definition failed, and how. The caller knows the row.
#[derive(Debug)]
pub(crate) struct FieldError {
    pub(crate) field: String,
    pub(crate) message: String,
}

impl FieldError {
    fn new(field: &str, message: impl Into<String>) -> Self {
        Self { field: field.to_owned(), message: message.into() }
    }
}

/// The right answer of a document.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Target {
    One(String),
    Any(Vec<String>),
}

impl Target {
    /// `str(target)` in Python: what the target hash is taken of.
    pub(crate) fn to_python(&self) -> String {
        match self {
            Self::One(text) => text.clone(),
            Self::Any(texts) => python::list_repr(texts),
        }
    }

    /// Every text that is the target.
    pub(crate) fn all(&self) -> &[String] {
        match self {
            Self::One(text) => std::slice::from_ref(text),
            Self::Any(texts) => texts,
        }
    }

    /// The answer a worked example shows.
    pub(crate) fn shown(&self) -> &str {
        match self {
            Self::One(text) => text,
            Self::Any(texts) => texts.first().map_or("", String::as_str),
        }
    }
}

/// A row after `process`, ready for templates.
#[derive(Debug)]
pub(crate) struct Document {
    pub(crate) row: Map<String, Value>,
    value: TemplateValue,
}

impl Document {
    /// What templates see of it.
    pub(crate) fn value(&self) -> &TemplateValue {
        &self.value
    }

    /// SHA-256 of the row as lm-evaluation-harness writes it.
    pub(crate) fn hash(&self) -> Digest {
        Digest::of(python::json_dumps(&Value::Object(self.row.clone())))
    }
}

/// The compiled form of a [`TaskDefinition`].
#[derive(Debug)]
pub(crate) struct Reader {
    templates: Templates,
    process: Vec<(String, Formula)>,
    choices: Option<CompiledChoices>,
    targets: Option<Formula>,
    has_gen_prefix: bool,
}

#[derive(Debug)]
enum CompiledChoices {
    Fixed(Vec<String>),
    Expression(Formula),
}

impl Reader {
    pub(crate) fn new(task: &TaskDefinition) -> Result<Self, BenchError> {
        let fail = |field: &str, message: String| BenchError::Definition {
            task: task.name.clone(),
            field: field.to_owned(),
            message,
        };
        let mut templates = Templates::new();
        let gen_prefix = task.gen_prefix.as_deref();
        for (field, source) in [
            ("description", task.description.as_str()),
            ("prompt", task.prompt.as_str()),
            ("gen_prefix", gen_prefix.unwrap_or_default()),
        ] {
            templates.add(field, source).map_err(|message| fail(field, message))?;
        }
        let targets = match &task.target {
            TargetDefinition::One(source) => {
                templates.add("target", source).map_err(|message| fail("target", message))?;
                None
            }
            TargetDefinition::Any(source) => {
                Some(Formula::new(source).map_err(|message| fail("targets", message))?)
            }
        };
        let choices = match &task.choices {
            None => None,
            Some(Choices::Fixed(choices)) => Some(CompiledChoices::Fixed(choices.clone())),
            Some(Choices::Expression(source)) => Some(CompiledChoices::Expression(
                Formula::new(source).map_err(|message| fail("choices", message))?,
            )),
        };
        let process = task.process.iter().map(|(name, source)| {
            let formula =
                Formula::new(source).map_err(|message| fail(&format!("process.{name}"), message))?;
            Ok((name.clone(), formula))
        });
        let process = process.collect::<Result<_, BenchError>>()?;
        Ok(Self { templates, process, choices, targets, has_gen_prefix: gen_prefix.is_some() })
    }

    /// The row with the computed columns, as the reference's `process_docs` leaves it.
    pub(crate) fn document(&self, mut row: Map<String, Value>) -> Result<Document, FieldError> {
        let mut value = template::document(&row);
        for (name, formula) in &self.process {
            let computed = formula.eval(&value);
            let computed =
                computed.map_err(|message| FieldError::new(&format!("process.{name}"), message))?;
            row.insert(name.clone(), computed);
            value = template::document(&row);
        }
        Ok(Document { row, value })
    }

    /// A row that was processed before.
    pub(crate) fn processed(row: &Map<String, Value>) -> Document {
        Document { row: row.clone(), value: template::document(row) }
    }

    /// A name that a template or expression uses and that is neither a column nor computed, with the
    /// field that uses it. (It may be guarded by `is defined`, so this explains a failure, it is none.)
    pub(crate) fn missing_column(&self, columns: &[String]) -> Option<(String, String)> {
        let known =
            |name: &String| columns.contains(name) || self.process.iter().any(|(known, _)| known == name);
        let mut used: Vec<(String, String)> = self.templates.variables();
        let mut of = |field: &str, formula: &Formula| {
            used.extend(formula.variables().into_iter().map(|name| (name, field.to_owned())));
        };
        for (name, formula) in &self.process {
            of(&format!("process.{name}"), formula);
        }
        if let Some(CompiledChoices::Expression(formula)) = &self.choices {
            of("choices", formula);
        }
        if let Some(formula) = &self.targets {
            of("targets", formula);
        }
        used.sort();
        used.into_iter().find(|(name, _)| !known(name))
    }

    pub(crate) fn description(&self, document: &Document) -> Result<String, FieldError> {
        self.render("description", document)
    }

    pub(crate) fn prompt(&self, document: &Document) -> Result<String, FieldError> {
        self.render("prompt", document)
    }

    /// `None` where the task has none, or it is empty for this row.
    pub(crate) fn gen_prefix(&self, document: &Document) -> Result<Option<String>, FieldError> {
        if !self.has_gen_prefix {
            return Ok(None);
        }
        Ok(Some(self.render("gen_prefix", document)?).filter(|prefix| !prefix.is_empty()))
    }

    /// The choices of a row; empty where the task has none.
    pub(crate) fn choices(&self, document: &Document) -> Result<Vec<String>, FieldError> {
        match &self.choices {
            None => Ok(Vec::new()),
            Some(CompiledChoices::Fixed(choices)) => Ok(choices.clone()),
            Some(CompiledChoices::Expression(formula)) => {
                let choices = texts("choices", formula.eval(&document.value))?;
                if choices.is_empty() {
                    return Err(FieldError::new("choices", "the list is empty"));
                }
                Ok(choices)
            }
        }
    }

    pub(crate) fn target(&self, document: &Document) -> Result<Target, FieldError> {
        match &self.targets {
            None => Ok(Target::One(self.render("target", document)?)),
            Some(formula) => Ok(Target::Any(texts("targets", formula.eval(&document.value))?)),
        }
    }

    fn render(&self, field: &'static str, document: &Document) -> Result<String, FieldError> {
        self.templates.render(field, &document.value).map_err(|message| FieldError::new(field, message))
    }
}

fn texts(field: &str, value: Result<Value, String>) -> Result<Vec<String>, FieldError> {
    let wrong = |value: &Value| FieldError::new(field, format!("must be a list of texts, is {value}"));
    match value.map_err(|message| FieldError::new(field, message))? {
        Value::Array(items) => items
            .into_iter()
            .map(|item| match item {
                Value::String(text) => Ok(text),
                other => Err(wrong(&other)),
            })
            .collect(),
        other => Err(wrong(&other)),
    }
}
