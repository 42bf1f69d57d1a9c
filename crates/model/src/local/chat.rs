use std::borrow::Cow;

use evalign_core::{Prompt, Role};
use evalign_lm::ChatTemplate;

use crate::error::ModelError;

/// The text a prompt stands for. A conversation that ends with the assistant speaking is one the model
/// shall continue: the text ends with that message, as with `continue_final_message` in `transformers`
/// 4.57 (`utils/chat_template_utils.py`, `render_jinja_template`).
pub(super) fn render<'a>(
    template: Option<&ChatTemplate>,
    prompt: &'a Prompt,
) -> Result<Cow<'a, str>, ModelError> {
    let messages = match prompt {
        Prompt::Text(text) => return Ok(Cow::Borrowed(text)),
        Prompt::Chat(messages) => messages,
    };
    let template = template.ok_or_else(|| ModelError::Unsupported {
        model: "the model".to_owned(),
        what: "has no chat template".to_owned(),
        hint: Some("it is a base model: use `--no-chat-template`".to_owned()),
    })?;
    let begun = messages.last().filter(|message| message.role == Role::Assistant);
    let text = template.render(messages, begun.is_none())?;
    Ok(Cow::Owned(match begun {
        Some(message) => cut_after(text, &message.content)?,
        None => text,
    }))
}

/// Templates may trim messages: what follows the last occurrence of the trimmed message is cut, and of
/// its own trailing whitespace is kept what the template kept.
fn cut_after(mut text: String, message: &str) -> Result<String, ModelError> {
    let core = message.trim();
    let at = text.rfind(core).ok_or_else(|| {
        ModelError::Request("the chat template does not show the message that is to be continued".to_owned())
    })?;
    let whole = message.trim_start();
    let length = if text[at..].starts_with(whole) { whole.len() } else { core.len() };
    text.truncate(at + length);
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use evalign_core::Message;

    const CHATML: &str = "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}<|end|>\n{% endfor %}\
                          {% if add_generation_prompt %}<|assistant|>{% endif %}";

    fn chat(messages: &[(Role, &str)]) -> Prompt {
        let message =
            |(role, content): &(Role, &str)| Message { role: *role, content: (*content).to_owned() };
        Prompt::Chat(messages.iter().map(message).collect())
    }

    #[test]
    fn the_answer_begins_where_the_template_or_the_user_says() {
        let template = ChatTemplate::parse(CHATML, None, None).unwrap();
        let asked = chat(&[(Role::User, "2+2?")]);
        assert_eq!(render(Some(&template), &asked).unwrap(), "<|user|>2+2?<|end|>\n<|assistant|>");
        let begun = chat(&[(Role::User, "2+2?"), (Role::Assistant, "It is ")]);
        assert_eq!(render(Some(&template), &begun).unwrap(), "<|user|>2+2?<|end|>\n<|assistant|>It is ");
        let trimming =
            ChatTemplate::parse(&CHATML.replace("m.content", "m.content | trim"), None, None).unwrap();
        assert_eq!(render(Some(&trimming), &begun).unwrap(), "<|user|>2+2?<|end|>\n<|assistant|>It is");
    }

    #[test]
    fn a_base_model_refuses_conversations() {
        let error = render(None, &chat(&[(Role::User, "hi")])).unwrap_err();
        assert_eq!(error.to_string(), "the model: has no chat template");
        assert_eq!(render(None, &Prompt::Text("hi".to_owned())).unwrap(), "hi");
    }
}
