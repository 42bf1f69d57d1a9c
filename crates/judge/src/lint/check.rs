use serde::Serialize;

/// How bad a finding is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Severity {
    /// Training on it teaches the wrong thing, or fails.
    Error,
    /// Worth a look.
    Warning,
}

/// What is looked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Check {
    /// A line that is no row, or a row of no layout.
    Unreadable,
    /// Another layout than the rows before.
    MixedLayouts,
    /// Messages in one row and plain text in another.
    MixedStyles,
    /// A text without anything in it.
    Empty,
    /// Both sides say the same.
    Identical,
    /// A prompt that does not end with the user, an answer that is not the assistant's, a system message in the middle.
    WrongRole,
    /// The rejected side has the better score.
    Reversed,
    /// The same two answers to the same prompt, the other way round elsewhere.
    Contradiction,
    /// The same row again.
    Duplicate,
    /// The answer repeats the prompt.
    PromptInAnswer,
    /// Marks of a chat template in a text, which the trainer's template would add again.
    TemplateMarks,
    /// One side is many times as long as the other.
    LengthRatio,
    /// Over the whole file, length alone tells which side is chosen.
    LengthSkew,
    /// Over the whole file, the rejected side has the better score: the columns are swapped.
    ReversedColumns,
}

impl Check {
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Unreadable => "unreadable",
            Self::MixedLayouts => "mixed-layouts",
            Self::MixedStyles => "mixed-styles",
            Self::Empty => "empty",
            Self::Identical => "identical",
            Self::WrongRole => "wrong-role",
            Self::Reversed => "reversed",
            Self::Contradiction => "contradiction",
            Self::Duplicate => "duplicate",
            Self::PromptInAnswer => "prompt-in-answer",
            Self::TemplateMarks => "template-marks",
            Self::LengthRatio => "length-ratio",
            Self::LengthSkew => "length-skew",
            Self::ReversedColumns => "reversed-columns",
        }
    }

    #[must_use]
    pub fn severity(self) -> Severity {
        match self {
            Self::Unreadable
            | Self::MixedLayouts
            | Self::MixedStyles
            | Self::Empty
            | Self::Identical
            | Self::WrongRole
            | Self::Reversed
            | Self::Contradiction
            | Self::ReversedColumns => Severity::Error,
            Self::Duplicate
            | Self::PromptInAnswer
            | Self::TemplateMarks
            | Self::LengthRatio
            | Self::LengthSkew => Severity::Warning,
        }
    }
}

/// One thing that is wrong.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Finding {
    /// Line of a text file or row of a parquet file, counted from 1; 0 for the file as a whole.
    pub place: u64,
    pub check: Check,
    pub severity: Severity,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub field: Option<String>,
    pub message: String,
}

impl Finding {
    pub(super) fn new(place: u64, check: Check, field: Option<&str>, message: impl Into<String>) -> Self {
        Self {
            place,
            check,
            severity: check.severity(),
            field: field.map(str::to_owned),
            message: message.into(),
        }
    }
}
