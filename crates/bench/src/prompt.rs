//! From a document and its worked examples to what the model is shown, turn by turn, as
//! lm-evaluation-harness 0.4.13 puts it together (`ConfigurableTask.fewshot_context`, `build_qa_turn`,
//! `construct_requests`).

use evalign_core::{Message, Prompt, Role};

use crate::python::is_space;

/// One contribution to the prompt. As plain text it is content and delimiter; in a chat the delimiter
/// exists only inside a user message that holds several turns.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Turn {
    pub(crate) role: Role,
    pub(crate) content: String,
    pub(crate) delimiter: String,
}

/// What is the same for every prompt of a task.
#[derive(Clone, Debug)]
pub(crate) struct PromptStyle {
    pub(crate) system_instruction: Option<String>,
    pub(crate) target_delimiter: String,
    pub(crate) shots_delimiter: String,
    pub(crate) chat: bool,
    /// In a chat: worked examples are turns of their own.
    pub(crate) multiturn: bool,
}

impl PromptStyle {
    /// System instruction and description, joined by the delimiter between examples unless there is white
    /// space already.
    pub(crate) fn system_turn(&self, description: &str) -> Option<Turn> {
        let instruction = self.system_instruction.as_deref().unwrap_or_default();
        let content = join(instruction, description, &self.shots_delimiter);
        (!content.is_empty()).then(|| Turn { role: Role::System, content, delimiter: String::new() })
    }

    /// A worked example: question and answer.
    pub(crate) fn shot_turns(&self, question: String, answer: &str, gen_prefix: Option<&str>) -> [Turn; 2] {
        let delimited = gen_prefix.is_none_or(|prefix| needs_delimiter(&question, prefix));
        let answer = join(gen_prefix.unwrap_or_default(), answer, " ");
        [
            self.question_turn(question, delimited),
            Turn { role: Role::Assistant, content: answer, delimiter: self.shots_delimiter.clone() },
        ]
    }

    /// The question itself, and the beginning of the answer where the task gives one.
    pub(crate) fn last_turns(&self, question: String, gen_prefix: Option<String>) -> Vec<Turn> {
        let Some(prefix) = gen_prefix else { return vec![self.question_turn(question, false)] };
        let delimited = needs_delimiter(&question, &prefix);
        vec![
            self.question_turn(question, delimited),
            Turn { role: Role::Assistant, content: prefix, delimiter: String::new() },
        ]
    }

    fn question_turn(&self, content: String, delimited: bool) -> Turn {
        let delimiter = if delimited { self.target_delimiter.clone() } else { String::new() };
        Turn { role: Role::User, content, delimiter }
    }

    /// The whole prompt.
    pub(crate) fn prompt(&self, turns: Vec<Turn>) -> Prompt {
        match (self.chat, self.multiturn) {
            (false, _) => Prompt::Text(text(&turns)),
            (true, true) => Prompt::Chat(turns.into_iter().map(message).collect()),
            (true, false) => Prompt::Chat(single_turn(turns)),
        }
    }

    /// What stands before a choice. In a chat nothing does, because the template ends where an answer
    /// begins; except after a `gen_prefix` without white space at its end.
    pub(crate) fn choice_delimiter(&self, gen_prefix_template: Option<&str>) -> &str {
        let after_prefix = gen_prefix_template
            .is_some_and(|prefix| !prefix.is_empty() && !prefix.chars().next_back().is_some_and(is_space));
        if self.chat && !after_prefix { "" } else { &self.target_delimiter }
    }
}

fn text(turns: &[Turn]) -> String {
    turns.iter().flat_map(|turn| [turn.content.as_str(), turn.delimiter.as_str()]).collect()
}

fn message(turn: Turn) -> Message {
    Message { role: turn.role, content: turn.content }
}

/// Everything but the system message and a begun answer in one user message.
fn single_turn(turns: Vec<Turn>) -> Vec<Message> {
    let mut messages = Vec::with_capacity(3);
    let mut turns = turns.into_iter().peekable();
    if let Some(system) = turns.next_if(|turn| turn.role == Role::System) {
        messages.push(message(system));
    }
    let mut turns: Vec<Turn> = turns.collect();
    let begun = turns.pop_if(|turn| turn.role == Role::Assistant);
    if let Some(last) = turns.last_mut() {
        last.delimiter.clear();
    }
    messages.push(Message { role: Role::User, content: text(&turns) });
    messages.extend(begun.map(message));
    messages
}

/// Both parts, with the delimiter between them unless one is empty or there is white space at the joint.
fn join(left: &str, right: &str, delimiter: &str) -> String {
    let delimiter = if needs_delimiter(left, right) && !right.is_empty() { delimiter } else { "" };
    format!("{left}{delimiter}{right}")
}

fn needs_delimiter(left: &str, right: &str) -> bool {
    let Some(end) = left.chars().next_back() else { return false };
    !(is_space(end) || right.chars().next().is_some_and(is_space))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn style(chat: bool, multiturn: bool) -> PromptStyle {
        PromptStyle {
            system_instruction: Some("Be brief.".to_owned()),
            target_delimiter: " ".to_owned(),
            shots_delimiter: "\n\n".to_owned(),
            chat,
            multiturn,
        }
    }

    fn turns(style: &PromptStyle, prefix: Option<&str>) -> Vec<Turn> {
        let mut turns: Vec<Turn> = style.system_turn("About:").into_iter().collect();
        turns.extend(style.shot_turns("Q1:".to_owned(), "A1", prefix));
        turns.extend(style.last_turns("Q2:".to_owned(), prefix.map(str::to_owned)));
        turns
    }

    #[test]
    fn plain_text() {
        let style = style(false, false);
        let prompt = |prefix| style.prompt(turns(&style, prefix));
        assert_eq!(prompt(None), Prompt::Text("Be brief.\n\nAbout:Q1: A1\n\nQ2:".to_owned()));
        assert_eq!(prompt(Some("So")), Prompt::Text("Be brief.\n\nAbout:Q1: So A1\n\nQ2: So".to_owned()));
        assert_eq!(
            prompt(Some("\nSo ")),
            Prompt::Text("Be brief.\n\nAbout:Q1:\nSo A1\n\nQ2:\nSo ".to_owned())
        );
    }

    #[test]
    fn a_chat_in_one_user_message() {
        let style = style(true, false);
        let Prompt::Chat(messages) = style.prompt(turns(&style, Some("So"))) else { panic!() };
        let shown: Vec<(Role, &str)> = messages.iter().map(|m| (m.role, m.content.as_str())).collect();
        assert_eq!(
            shown,
            [
                (Role::System, "Be brief.\n\nAbout:"),
                (Role::User, "Q1: So A1\n\nQ2:"),
                (Role::Assistant, "So")
            ]
        );
    }

    #[test]
    fn a_chat_with_a_turn_per_example() {
        let style = style(true, true);
        let Prompt::Chat(messages) = style.prompt(turns(&style, None)) else { panic!() };
        let shown: Vec<&str> = messages.iter().map(|m| m.content.as_str()).collect();
        assert_eq!(shown, ["Be brief.\n\nAbout:", "Q1:", "A1", "Q2:"]);
    }

    #[test]
    fn delimiter_before_choices() {
        let (plain, chat) = (style(false, false), style(true, false));
        assert_eq!(plain.choice_delimiter(None), " ");
        assert_eq!(chat.choice_delimiter(None), "");
        assert_eq!(chat.choice_delimiter(Some("So")), " ");
        assert_eq!(chat.choice_delimiter(Some("So ")), "");
    }
}
