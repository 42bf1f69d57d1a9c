//! Renderings are held against Python: `fixtures/render.py` (Jinja2 3.1.6 in the configuration of
//! `transformers`) wrote `fixtures/expected.json` from the templates beside it.

use evalign_core::{Message, Role};
use jiff::civil::date;

use super::ChatTemplate;

const TEMPLATES: [(&str, &str); 5] = [
    ("smollm2", include_str!("fixtures/smollm2.jinja")),
    ("llama_style", include_str!("fixtures/llama_style.jinja")),
    ("qwen_style", include_str!("fixtures/qwen_style.jinja")),
    ("mistral_style", include_str!("fixtures/mistral_style.jinja")),
    ("blocks", include_str!("fixtures/blocks.jinja")),
];

fn message(role: Role, content: &str) -> Message {
    Message { role, content: content.to_owned() }
}

fn conversation(name: &str) -> Vec<Message> {
    use Role::{Assistant, System, User};
    match name {
        "user" => vec![message(User, "Hi there.\nTwo lines ")],
        "system" => vec![message(System, " Be brief. "), message(User, "Wer ist da?")],
        "turns" => vec![
            message(System, "S"),
            message(User, "Q1"),
            message(Assistant, "<think>\nwhy\n</think>\n\nA1"),
            message(User, "Q2 é"),
            message(Assistant, "<think>\nhm\n</think>\n\nA2"),
        ],
        "pairs" => vec![message(User, " Q1 "), message(Assistant, "A1"), message(User, "Q2")],
        other => panic!("no conversation `{other}`"),
    }
}

fn parse(source: &str) -> ChatTemplate {
    ChatTemplate::parse_at(source, Some("<s>"), Some("</s>"), date(2025, 3, 7).at(9, 5, 0, 0)).unwrap()
}

#[test]
fn every_rendering_equals_pythons() {
    let expected: serde_json::Value = serde_json::from_str(include_str!("fixtures/expected.json")).unwrap();
    let mut compared = 0;
    for (name, source) in TEMPLATES {
        let template = parse(source);
        for chat in ["user", "system", "turns", "pairs"] {
            for (flag, generate) in [(0, false), (1, true)] {
                let key = format!("{name}/{chat}/{flag}");
                match (template.render(&conversation(chat), generate), &expected[&key]) {
                    (Ok(text), wanted) => assert_eq!(Some(text.as_str()), wanted["text"].as_str(), "{key}"),
                    (Err(error), wanted) => {
                        let message = wanted["error"].as_str().unwrap_or_else(|| panic!("{key}: {error}"));
                        assert!(error.to_string().contains(message), "{key}: {error}");
                    }
                }
                compared += 1;
            }
        }
    }
    assert_eq!(compared, expected.as_object().unwrap().len());
}

#[test]
fn special_tokens_that_do_not_exist_are_undefined() {
    let source = "[{{ bos_token }}|{{ eos_token is defined }}]";
    let render = |bos, eos| ChatTemplate::parse(source, bos, eos).unwrap().render(&[], false).unwrap();
    assert_eq!(render(None, None), "[|False]");
    assert_eq!(render(Some("<s>"), Some("</s>")), "[<s>|True]");
}

#[test]
fn a_template_that_does_not_parse_names_its_line() {
    let error = ChatTemplate::parse("fine\n{% if %}", None, None).unwrap_err().to_string();
    assert!(error.starts_with("chat template: syntax error") && error.contains(":2"), "{error}");
}

#[test]
fn a_raised_exception_keeps_its_words() {
    let template = parse("{{ raise_exception('no system role, please') }}");
    let error = template.render(&conversation("user"), true).unwrap_err().to_string();
    assert!(error.contains("no system role, please"), "{error}");
}

#[test]
fn the_clock_is_noticed() {
    assert_eq!(parse("{{ strftime_now('%Y') }}").clock(), Some(date(2025, 3, 7).at(9, 5, 0, 0)));
    assert_eq!(parse("{{ 'now' }}").clock(), None);
    let bad = parse("{{ strftime_now('%') }}").render(&[], false).unwrap_err().to_string();
    assert!(bad.contains("strftime_now"), "{bad}");
}

#[test]
fn digests_tell_templates_and_tokens_apart() {
    let digest = |source, bos| ChatTemplate::parse(source, bos, None).unwrap().digest().clone();
    assert_eq!(digest("a", None), digest("a", None));
    assert_ne!(digest("a", None), digest("b", None));
    assert_ne!(digest("a", None), digest("a", Some("<s>")));
}

/// How soon a template ends is counted in instructions, [`super::FUEL`] of them, and not by a clock.
#[test]
fn promise_27_hostile_templates_end_in_errors() {
    let hostile = [
        ("{% for a in range(10000) %}{% for b in range(10000) %}{% endfor %}{% endfor %}", "ran out of fuel"),
        (
            "{% for a in range(99) %}{% for b in range(10000) %}{% set c = b|string|upper ~ 'x' %}{% set d = c[::-1] %}\
             {% endfor %}{% endfor %}",
            "ran out of fuel",
        ),
        ("{% for a in range(10000) %}{% set b = range(10001)|list %}{% endfor %}", "too many elements"),
        ("{% for a in range(10001, 0, -1) %}{% endfor %}", "too many elements"),
        ("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", "recursion limit"),
        ("{% for a in range(10000) %}{{ 'x' * 100000 }}{% endfor %}", "far longer than its messages"),
        ("{% for a in range(999999999999) %}{% endfor %}", "too many elements"),
        ("{{ 'x' * 99999999999 }}", "too large"),
        ("{% include 'etc/passwd' %}", "template not found"),
        ("{% import 'os' as os %}", "template not found"),
        ("{% extends 'base' %}", "template not found"),
        ("{{ missing.attribute }}", "undefined"),
        ("{{ messages[0].content.__class__.__mro__() }}", ""),
        ("{{ open('/etc/passwd') }}", "unknown"),
        ("{{ raise_exception|tojson }}", ""),
        ("{{ messages|tojson(indent=999999999) }}", ""),
    ];
    for (source, why) in hostile {
        let outcome = ChatTemplate::parse(source, None, None)
            .and_then(|template| template.render(&conversation("turns"), true));
        let error = outcome.expect_err(source).to_string();
        assert!(error.contains(why), "{source}: {error}");
    }
}

#[test]
fn ranges_are_pythons() {
    let source =
        "{{ range(3)|list }}{{ range(1, 6, 2)|list }}{{ range(3, 0, -1)|list }}{{ range(10000)|length }}";
    assert_eq!(parse(source).render(&[], false).unwrap(), "[0, 1, 2][1, 3, 5][3, 2, 1]10000");
}

#[test]
fn a_conversation_of_a_thousand_turns_is_rendered() {
    let turns: Vec<Message> = (0..1000).flat_map(|_| conversation("pairs").into_iter().take(2)).collect();
    for (name, source) in TEMPLATES {
        let text = parse(source).render(&turns, true).unwrap_or_else(|error| panic!("{name}: {error}"));
        assert!(text.matches("A1").count() >= 1000, "{name}");
    }
}

#[test]
fn what_the_template_marks_is_found_and_changes_nothing() {
    let source = "{%- for message in messages %}\n    {{- '<' + message.role + '>' }}\n    {%- if message.role == 'assistant' %}\n        \
                  {%- generation %}\n        {{- message.content + '<end>' }}\n        {%- endgeneration %}\n    {%- else %}\n        \
                  {{- message.content }}\n    {%- endif %}\n    {{- '\\n' }}\n{%- endfor %}";
    let template = parse(source);
    assert!(template.marks_generation());
    let messages = [
        message(Role::User, "a"),
        message(Role::Assistant, "déjà"),
        message(Role::User, "b"),
        message(Role::Assistant, ""),
    ];
    let (text, spans) = template.render_marked(&messages).unwrap();
    assert_eq!(text, template.render(&messages, false).unwrap());
    let said: Vec<&str> = spans.into_iter().map(|span| &text[span]).collect();
    assert_eq!(said, ["déjà<end>", "<end>"]);
    let unmarked = parse("{{ messages[0].content }}");
    assert!(!unmarked.marks_generation());
    assert_eq!(unmarked.render_marked(&messages).unwrap(), ("a".to_owned(), vec![]));
}
