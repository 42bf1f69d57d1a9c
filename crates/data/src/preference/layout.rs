use std::fmt;
use std::str::FromStr;

/// Which columns a row has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Layout {
    Preference,
    Unpaired,
    PromptOnly,
    PromptCompletion,
    LanguageModeling,
}

/// How texts are written: as lists of messages, or as plain text.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Style {
    #[default]
    Conversational,
    Standard,
}

impl Layout {
    pub const ALL: [Self; 5] =
        [Self::Preference, Self::Unpaired, Self::PromptOnly, Self::PromptCompletion, Self::LanguageModeling];

    /// The layout that a row with these columns has; `None` where TRL knows none.
    #[must_use]
    pub fn of_columns<'a>(columns: impl IntoIterator<Item = &'a str>) -> Option<Self> {
        let columns: Vec<&str> = columns.into_iter().collect();
        let has = |name| columns.contains(&name);
        match () {
            () if has("chosen") && has("rejected") => Some(Self::Preference),
            () if has("chosen") || has("rejected") => None,
            () if has("prompt") && has("completion") && has("label") => Some(Self::Unpaired),
            () if has("prompt") && has("completion") => Some(Self::PromptCompletion),
            () if has("messages") || has("conversations") || has("text") => Some(Self::LanguageModeling),
            () if has("prompt") => Some(Self::PromptOnly),
            () => None,
        }
    }

    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Preference => "preference",
            Self::Unpaired => "unpaired",
            Self::PromptOnly => "prompt-only",
            Self::PromptCompletion => "prompt-completion",
            Self::LanguageModeling => "language-modeling",
        }
    }

    /// Its text columns, in the order they are written.
    #[must_use]
    pub fn columns(self, style: Style) -> &'static [&'static str] {
        match (self, style) {
            (Self::Preference, _) => &["prompt", "chosen", "rejected"],
            (Self::Unpaired | Self::PromptCompletion, _) => &["prompt", "completion"],
            (Self::PromptOnly, _) => &["prompt"],
            (Self::LanguageModeling, Style::Conversational) => &["messages"],
            (Self::LanguageModeling, Style::Standard) => &["text"],
        }
    }
}

impl fmt::Display for Layout {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Layout {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let named = |layout: &&Self| layout.name() == text;
        Self::ALL.iter().find(named).copied().ok_or_else(|| {
            format!("unknown layout `{text}`, expected one of {}", Self::ALL.map(Self::name).join(", "))
        })
    }
}

impl FromStr for Style {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "conversational" => Ok(Self::Conversational),
            "standard" => Ok(Self::Standard),
            other => Err(format!("unknown style `{other}`, expected conversational or standard")),
        }
    }
}
