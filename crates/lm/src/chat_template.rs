//! A model's chat template: Jinja that turns a conversation into the text the model was trained on.
//!
//! Templates are written for `transformers`, which renders them with Python's Jinja2. Here minijinja
//! renders them in the same configuration: blocks trimmed, Python's methods on strings, lists and
//! dictionaries, `raise_exception`, `strftime_now`, `tojson` as `transformers` redefines it, `break` and
//! `continue`, `{% generation %}` ignored. Templates come with weights from the network, so rendering is
//! bounded in instructions, recursion, output and the numbers of a `range`. Two things are not bounded: a template may
//! still build a large string in memory by doubling it a few dozen times, and make or sort a list of thousands in each
//! round of a loop.

mod generation;
mod python;
#[cfg(test)]
mod tests;

use std::fmt;
use std::io;
use std::ops::Range;
use std::sync::Arc;

use evalign_core::{Digest, Message, Role};
use jiff::civil::DateTime;
use minijinja::syntax::SyntaxConfig;
use minijinja::value::Value;
use minijinja::{AutoEscape, Environment, Error, UndefinedBehavior};

use crate::LmError;

/// Instructions a rendering may take. Templates in use take tens to a few hundred for each message, and an endless
/// loop has spent all of these after 20 to 30 ms.
const FUEL: u64 = 1_000_000;
/// Calls of macros and blocks inside each other. minijinja's own limit fits the smallest stacks.
const LARGEST_DEPTH: usize = 100;
/// Bytes a rendering may have beyond its messages, and as a multiple of them.
const LARGEST_OVERHEAD_BYTES: usize = 1 << 20;
const LARGEST_GROWTH: usize = 4;
const NAME: &str = "chat_template";
const MARKED: &str = "chat_template with marks";

/// A parsed template. Rendering may be called from several threads.
#[derive(Clone)]
pub struct ChatTemplate {
    environment: Arc<Environment<'static>>,
    bos_text: Option<String>,
    eos_text: Option<String>,
    marks_generation: bool,
    clock: Option<DateTime>,
    digest: Digest,
}

impl ChatTemplate {
    /// Parses a template. `bos_text` and `eos_text` are what it sees as `bos_token` and `eos_token`;
    /// without one the variable is undefined. `strftime_now` gives the first moment of today, so that all
    /// prompts of a day are alike.
    ///
    /// # Errors
    /// [`LmError::ChatTemplate`] with the line at fault.
    pub fn parse(source: &str, bos_text: Option<&str>, eos_text: Option<&str>) -> Result<Self, LmError> {
        Self::parse_at(source, bos_text, eos_text, jiff::Zoned::now().date().at(0, 0, 0, 0))
    }

    /// [`ChatTemplate::parse`] for another time, so that prompts can be rendered again as they were.
    ///
    /// # Errors
    /// As [`ChatTemplate::parse`].
    pub fn parse_at(
        source: &str,
        bos_text: Option<&str>,
        eos_text: Option<&str>,
        now: DateTime,
    ) -> Result<Self, LmError> {
        let mut environment = Environment::new();
        let syntax = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build();
        environment.set_syntax(syntax.map_err(|e| failed(&e))?);
        environment.set_auto_escape_callback(|_| AutoEscape::None);
        environment.set_undefined_behavior(UndefinedBehavior::Lenient);
        environment.set_recursion_limit(LARGEST_DEPTH);
        environment.set_fuel(Some(FUEL));
        python::install(&mut environment, now);
        environment
            .add_template_owned(NAME, generation::without_generation_tags(source))
            .map_err(|e| failed(&e))?;
        let marked = generation::with_marks(source);
        let marks_generation = generation::MARKS.iter().all(|mark| marked.contains(*mark));
        if marks_generation {
            environment.add_template_owned(MARKED, marked).map_err(|e| failed(&e))?;
        }
        Ok(Self {
            environment: Arc::new(environment),
            bos_text: bos_text.map(str::to_owned),
            eos_text: eos_text.map(str::to_owned),
            marks_generation,
            clock: source.contains("strftime_now").then_some(now),
            digest: Digest::of(format!("evalign chat template 1\n{bos_text:?}\n{eos_text:?}\n{source}")),
        })
    }

    /// The prompt for a conversation; with `add_generation_prompt` it ends where the assistant's answer
    /// begins.
    ///
    /// # Errors
    /// [`LmError::ChatTemplate`] when the template raises an exception (for example on a system message it
    /// does not take), uses what it may not, or exceeds the bounds on its work or its output.
    pub fn render(&self, messages: &[Message], add_generation_prompt: bool) -> Result<String, LmError> {
        self.render_as(NAME, messages, add_generation_prompt)
    }

    /// The template says with `{% generation %}` which words are the assistant's.
    #[must_use]
    pub fn marks_generation(&self) -> bool {
        self.marks_generation
    }

    /// [`ChatTemplate::render`] without a generation prompt, and the bytes that the template marks as the
    /// assistant's: none in one that marks nothing.
    ///
    /// # Errors
    /// As [`ChatTemplate::render`]; and marks that do not come in pairs.
    pub fn render_marked(&self, messages: &[Message]) -> Result<(String, Vec<Range<usize>>), LmError> {
        if !self.marks_generation {
            return Ok((self.render(messages, false)?, Vec::new()));
        }
        let text = self.render_as(MARKED, messages, false)?;
        generation::unmarked(&text).ok_or_else(|| {
            LmError::ChatTemplate("the marks of generated text do not come in pairs".to_owned())
        })
    }

    fn render_as(
        &self,
        name: &str,
        messages: &[Message],
        add_generation_prompt: bool,
    ) -> Result<String, LmError> {
        let template = self.environment.get_template(name).map_err(|e| failed(&e))?;
        let content_bytes: usize = messages.iter().map(|message| message.content.len()).sum();
        let mut output =
            Bounded { bytes: Vec::new(), left: LARGEST_OVERHEAD_BYTES + LARGEST_GROWTH * content_bytes };
        template
            .render_captured_to(self.variables(messages, add_generation_prompt), &mut output)
            .map_err(|e| failed(&e))?;
        String::from_utf8(output.bytes).map_err(|e| LmError::ChatTemplate(e.to_string()))
    }

    fn variables(&self, messages: &[Message], add_generation_prompt: bool) -> Value {
        let message = |message: &Message| {
            let role = match message.role {
                Role::System => "system",
                Role::User => "user",
                Role::Assistant => "assistant",
            };
            Value::from_pairs([("role", role), ("content", message.content.as_str())])
        };
        let mut variables = vec![
            ("messages", messages.iter().map(message).collect()),
            ("add_generation_prompt", Value::from(add_generation_prompt)),
            // `transformers` always passes these, as none when there are none.
            ("tools", Value::from(())),
            ("documents", Value::from(())),
        ];
        for (name, text) in [("bos_token", &self.bos_text), ("eos_token", &self.eos_text)] {
            variables.extend(text.as_deref().map(|text| (name, Value::from(text))));
        }
        Value::from_pairs(variables)
    }

    /// What the template takes for the present, where it asks for it: prompts depend on it.
    #[must_use]
    pub fn clock(&self) -> Option<DateTime> {
        self.clock
    }

    /// SHA-256 over the template and the special tokens it is given.
    #[must_use]
    pub fn digest(&self) -> &Digest {
        &self.digest
    }
}

impl fmt::Debug for ChatTemplate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ChatTemplate").field("digest", &self.digest).finish_non_exhaustive()
    }
}

/// One line: what went wrong and in which line of the template, with the causes.
fn failed(error: &Error) -> LmError {
    use std::error::Error as _;
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    LmError::ChatTemplate(text)
}

/// Collects output up to a bound.
struct Bounded {
    bytes: Vec<u8>,
    left: usize,
}

impl io::Write for Bounded {
    fn write(&mut self, more: &[u8]) -> io::Result<usize> {
        self.left = self
            .left
            .checked_sub(more.len())
            .ok_or_else(|| io::Error::other("the rendered conversation is far longer than its messages"))?;
        self.bytes.extend_from_slice(more);
        Ok(more.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
