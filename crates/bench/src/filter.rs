//! From the model's answers to the one that is compared.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use evalign_core::ScoringMode;

use crate::number::canonical_number;
use crate::python::{self, Regex};
use crate::task::{FilterPipeline, FilterStep, MultiChoiceRegexStep, RegexStep};

/// An answer on its way through a pipeline.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Answer {
    pub(crate) text: String,
    /// False once a step found nothing in it; the text is then that step's fallback.
    pub(crate) readable: bool,
}

impl Answer {
    pub(crate) fn new(text: &str) -> Self {
        Self { text: text.to_owned(), readable: true }
    }

    fn map(self, text: impl FnOnce(&str) -> String) -> Self {
        Self { text: text(&self.text), ..self }
    }
}

/// A compiled [`FilterPipeline`].
#[derive(Debug)]
pub(crate) struct Pipeline {
    pub(crate) name: String,
    steps: Vec<Step>,
    mode: ScoringMode,
}

#[derive(Debug)]
enum Step {
    Regex(Extraction),
    MultiChoice(Extraction, MultiChoiceRegexStep),
    TakeFirst,
    TakeFirstK(usize),
    MajorityVote,
    Each(fn(&str) -> String),
    Map(BTreeMap<String, String>),
    Number,
}

#[derive(Debug)]
struct Extraction {
    regex: Regex,
    select: i64,
    fallback: String,
}

impl Pipeline {
    pub(crate) fn new(pipeline: &FilterPipeline, mode: ScoringMode) -> Result<Self, String> {
        let steps = pipeline.steps.iter().map(Step::new).collect::<Result<_, _>>()?;
        Ok(Self { name: pipeline.name.clone(), steps, mode })
    }

    /// Answers the pipeline needs per document.
    pub(crate) fn least_answers(&self) -> u32 {
        let need = |step: &Step| match step {
            Step::TakeFirstK(k) => *k as u32,
            _ => 1,
        };
        self.steps.iter().map(need).max().unwrap_or(1)
    }

    /// How many answers, counted from the first, decide the one that is compared, where a document has
    /// `repeats` of them. Later ones make no difference.
    pub(crate) fn answers_read(&self, repeats: u32) -> u32 {
        let mut left = repeats;
        for step in &self.steps {
            match step {
                Step::TakeFirst => left = left.min(1),
                Step::TakeFirstK(k) => left = left.min(*k as u32),
                Step::MajorityVote => return left,
                Step::Regex(_) | Step::MultiChoice(..) | Step::Each(_) | Step::Map(_) | Step::Number => {}
            }
        }
        // Without a vote the first of those that are left is compared.
        left.min(1)
    }

    /// Looks at more than the first answer.
    pub(crate) fn votes(&self) -> bool {
        self.steps.iter().any(|step| matches!(step, Step::MajorityVote))
    }

    /// The answer to compare, out of all answers to a document.
    pub(crate) fn apply(&self, answers: Vec<Answer>, choices: &[String]) -> Result<Answer, String> {
        let mut answers = answers;
        for step in &self.steps {
            answers = step.apply(answers, choices, self.mode)?;
        }
        Ok(answers.into_iter().next().unwrap_or(Answer { text: String::new(), readable: false }))
    }
}

impl Step {
    fn new(step: &FilterStep) -> Result<Self, String> {
        let extraction = |pattern: &str, select: i64, fallback: &str| {
            Ok::<_, String>(Extraction {
                regex: Regex::new(pattern).map_err(|error| format!("`{pattern}`: {error}"))?,
                select,
                fallback: fallback.to_owned(),
            })
        };
        Ok(match step {
            FilterStep::Regex(RegexStep { pattern, group_select, fallback }) => {
                Self::Regex(extraction(pattern, *group_select, fallback)?)
            }
            FilterStep::MultiChoiceRegex(step) => {
                Self::MultiChoice(extraction(&step.pattern, step.group_select, &step.fallback)?, step.clone())
            }
            FilterStep::TakeFirst => Self::TakeFirst,
            FilterStep::TakeFirstK(0) => return Err("`take_first_k` needs at least 1".to_owned()),
            FilterStep::TakeFirstK(k) => Self::TakeFirstK(*k as usize),
            FilterStep::MajorityVote => Self::MajorityVote,
            FilterStep::RemoveWhitespace => Self::Each(|text| python::strip(text).to_owned()),
            FilterStep::Lowercase => Self::Each(python::lower),
            FilterStep::Uppercase => Self::Each(str::to_uppercase),
            FilterStep::Map(map) => Self::Map(map.clone()),
            FilterStep::Number => Self::Number,
        })
    }

    fn apply(
        &self,
        mut answers: Vec<Answer>,
        choices: &[String],
        mode: ScoringMode,
    ) -> Result<Vec<Answer>, String> {
        match self {
            Self::Regex(extraction) => {
                answers.into_iter().map(|answer| extraction.apply(answer, mode)).collect()
            }
            Self::MultiChoice(extraction, step) => {
                let finder = ChoiceFinder::new(step, choices)?;
                answers.into_iter().map(|answer| finder.apply(extraction, answer, mode)).collect()
            }
            Self::TakeFirst => {
                answers.truncate(1);
                Ok(answers)
            }
            Self::TakeFirstK(k) => {
                answers.truncate(*k);
                Ok(answers)
            }
            Self::MajorityVote => Ok(majority(answers, mode).into_iter().collect()),
            Self::Each(change) => Ok(answers.into_iter().map(|answer| answer.map(change)).collect()),
            Self::Map(map) => Ok(answers
                .into_iter()
                .map(|answer| match map.get(&answer.text) {
                    Some(text) => Answer { text: text.clone(), ..answer },
                    None => Answer { readable: false, ..answer },
                })
                .collect()),
            Self::Number => Ok(answers
                .into_iter()
                .map(|answer| match canonical_number(&answer.text) {
                    Some(number) if answer.readable => Answer::new(&number),
                    Some(_) | None => Answer { readable: false, ..answer },
                })
                .collect()),
        }
    }
}

impl Extraction {
    /// One of the matches, counted from the end where negative.
    fn selected(&self, mut matches: Vec<Vec<String>>) -> Option<Vec<String>> {
        let index = match usize::try_from(self.select) {
            Ok(index) => index,
            Err(_) => matches.len().checked_sub(self.select.unsigned_abs() as usize)?,
        };
        (index < matches.len()).then(|| matches.swap_remove(index))
    }

    /// The reference's `RegexFilter`. An unreadable answer stays so in the default mode; the reference
    /// searches its own fallback text.
    fn apply(&self, answer: Answer, mode: ScoringMode) -> Result<Answer, String> {
        if !answer.readable && mode == ScoringMode::Default {
            return Ok(answer);
        }
        let found = self.selected(self.regex.findall(&answer.text)?);
        Ok(match found.and_then(chosen_group) {
            Some(text) => Answer { text: python::strip(&text).to_owned(), readable: answer.readable },
            None => Answer { text: self.fallback.clone(), readable: false },
        })
    }
}

/// A single group as it is, even empty; of several the first that is not empty.
fn chosen_group(mut groups: Vec<String>) -> Option<String> {
    if groups.len() == 1 { groups.pop() } else { groups.into_iter().find(|group| !group.is_empty()) }
}

/// The most frequent answer, the first seen among equals. In the default mode unreadable answers have no
/// vote; the reference counts `[invalid]` like any other text.
fn majority(answers: Vec<Answer>, mode: ScoringMode) -> Option<Answer> {
    let voters: Vec<&Answer> =
        answers.iter().filter(|answer| answer.readable || mode == ScoringMode::LmEval).collect();
    let votes = |text: &str| voters.iter().filter(|answer| answer.text == text).count();
    let mut best: Option<(&Answer, usize)> = None;
    for answer in &voters {
        let count = votes(&answer.text);
        if best.is_none_or(|(_, most)| count > most) {
            best = Some((answer, count));
        }
    }
    let winner = best.map(|(answer, _)| answer.clone());
    winner.or_else(|| answers.into_iter().next())
}

/// The reference's `MultiChoiceRegexFilter`: the pattern; else the text of a choice; else a letter after
/// a colon.
struct ChoiceFinder<'a> {
    step: &'a MultiChoiceRegexStep,
    texts: Regex,
    letters: Regex,
    /// Letter in parentheses by choice text; the last of equal texts wins.
    by_text: BTreeMap<String, String>,
}

impl<'a> ChoiceFinder<'a> {
    fn new(step: &'a MultiChoiceRegexStep, choices: &[String]) -> Result<Self, String> {
        let mut by_text = BTreeMap::new();
        let mut texts = Vec::new();
        let mut letters = Vec::new();
        for (letter, choice) in ('A'..='Z').zip(choices) {
            let text = ignoring(step, python::strip(choice))?;
            texts.push(fancy_regex::escape(&text).into_owned());
            by_text.insert(text, format!("({letter})"));
            letters.push(letter.to_string());
        }
        // Longest first, so that a choice that begins another one cannot hide it.
        texts.sort_by_key(|text| std::cmp::Reverse(text.chars().count()));
        Ok(Self {
            step,
            texts: Regex::new(&texts.join("|"))?,
            letters: Regex::new(&format!(r":[\s]*({})", letters.join("|")))?,
            by_text,
        })
    }

    fn apply(&self, extraction: &Extraction, answer: Answer, mode: ScoringMode) -> Result<Answer, String> {
        if !answer.readable && mode == ScoringMode::Default {
            return Ok(answer);
        }
        let find = |regex: &Regex, text: &str| -> Result<Option<String>, String> {
            let group = extraction.selected(regex.findall(text)?).and_then(chosen_group);
            Ok(group.map(|group| python::strip(&group).to_owned()).filter(|group| !group.is_empty()))
        };
        if let Some(text) = find(&extraction.regex, &answer.text)? {
            return Ok(Answer { text, ..answer });
        }
        if let Some(text) = find(&self.texts, &ignoring(self.step, &answer.text)?)? {
            let letter = self.by_text.get(&text).cloned().unwrap_or(text);
            return Ok(Answer { text: letter, ..answer });
        }
        if let Some(letter) = find(&self.letters, &answer.text)? {
            return Ok(Answer { text: format!("({letter})"), ..answer });
        }
        Ok(Answer { text: extraction.fallback.clone(), readable: false })
    }
}

fn ignoring(step: &MultiChoiceRegexStep, text: &str) -> Result<String, String> {
    let mut text = if step.ignore_case { python::lower(text) } else { text.to_owned() };
    if step.ignore_punctuation {
        text = text.chars().filter(|c| !is_punctuation(*c)).collect();
    }
    Ok(text)
}

/// Unicode's general category P: punctuation in any script.
fn is_punctuation(c: char) -> bool {
    static PUNCTUATION: LazyLock<Option<regex::Regex>> = LazyLock::new(|| regex::Regex::new(r"^\p{P}$").ok());
    PUNCTUATION.as_ref().is_some_and(|punctuation| punctuation.is_match(c.encode_utf8(&mut [0; 4])))
}
