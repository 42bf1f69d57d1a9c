//! What reads the bytes of others, each as a function of bytes that must come back: a fuzzer calls them with what it
//! makes up, `tests/it/fuzz.rs` with `corpus/`.

use std::sync::LazyLock;

use evalign_bench::{Catalog, Scorer};
use evalign_core::{FinishReason, Message, Output, ResponseFormat, ResponseValue, Role, ScoringMode};
use evalign_data::{Limits, Row, read_jsonl};
use evalign_judge::{Rubric, Verdict};
use evalign_lm::ChatTemplate;
use evalign_model::EventDecoder;
use serde_json::{Value, json};

pub type Target = fn(&[u8]);

/// Every target by the name of its corpus and of its file in `fuzz_targets`.
pub const TARGETS: [(&str, Target); 6] = [
    ("answer", answer),
    ("chat_template", chat_template),
    ("jsonl", jsonl),
    ("server_sent_events", server_sent_events),
    ("task_yaml", task_yaml),
    ("verdict", verdict),
];

/// Bytes of one event at most.
const LONGEST_EVENT: usize = 256;

fn output(text: &str, finish: FinishReason) -> Output {
    Output::Text { text: text.to_owned(), finish, logprobs: None, reasoning: None }
}

/// Runs `read` over a file that holds the bytes.
fn with_file<T>(name: &str, bytes: &[u8], read: impl FnOnce(&std::path::Path) -> T) -> T {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let path = directory.path().join(name);
    std::fs::write(&path, bytes).expect("a temporary file");
    read(&path)
}

/// A task file is taken whole, templates and patterns compiled, or refused with a reason.
pub fn task_yaml(bytes: &[u8]) {
    if let Err(refused) = with_file("task.yaml", bytes, evalign_bench::validate) {
        assert!(!refused.to_string().is_empty());
    }
}

/// Rows that were read, written and read again are the same rows.
pub fn jsonl(bytes: &[u8]) {
    let limits = Limits { row_bytes: 1 << 12, field_bytes: 1 << 11, ..Limits::default() };
    let read = |bytes: &[u8]| {
        with_file("rows.jsonl", bytes, |path| read_jsonl(path, &limits)?.collect::<Result<Vec<Row>, _>>())
    };
    let Ok(rows) = read(bytes) else { return };
    let mut again = Vec::new();
    for row in &rows {
        serde_json::to_writer(&mut again, row).expect("a row is JSON");
        again.push(b'\n');
    }
    // Escapes may be longer than what they stand for, and then too long.
    if let Ok(again) = read(&again) {
        assert_eq!(rows, again);
    }
}

/// A verdict that is read has one label for each choice, of those that were offered. The first byte says how the answer
/// ended.
pub fn verdict(bytes: &[u8]) {
    static FORMS: LazyLock<Vec<ResponseFormat>> = LazyLock::new(|| {
        let rubrics = Rubric::shipped().map(|name| Rubric::find(name, &[]).expect("it ships"));
        rubrics.flat_map(|rubric| [rubric.pointwise_format(None), rubric.pairwise_format(Some(64))]).collect()
    });
    let Some((first, text)) = bytes.split_first() else { return };
    let ends = [FinishReason::Stop, FinishReason::Length, FinishReason::ContentFilter];
    let said = output(&String::from_utf8_lossy(text), ends[usize::from(*first) % ends.len()]);
    for form in FORMS.iter() {
        let Ok(verdict) = Verdict::read(form, &said) else { continue };
        let labels = form.fields.iter().filter_map(|field| match &field.value {
            ResponseValue::OneOf(labels) => Some(labels),
            ResponseValue::Text { .. } => None,
        });
        let offered: Vec<&Vec<String>> = labels.collect();
        assert_eq!(verdict.choices.len(), offered.len());
        let mut pairs = verdict.choices.iter().zip(offered);
        assert!(pairs.all(|(choice, offered)| offered.contains(&choice.label)), "{verdict:?}");
    }
}

/// Answers have scores, by the filters of the tasks that ship and both rule books. NUL bytes stand between answers.
pub fn answer(bytes: &[u8]) {
    static SCORERS: LazyLock<Vec<(Scorer, Value)>> = LazyLock::new(|| {
        let catalog = Catalog::load(&[]).expect("the tasks that ship");
        let question = json!({"question": "How many?", "answer": "Work.\n#### 1,018.50"});
        let choice = json!({"question": "Which?", "choices": ["a cat", "A dog.", "", "(B)"], "answer": 1});
        let aliases =
            json!({"question": "Who", "answer": {"aliases": ["Ada", "ada lovelace"], "value": "Ada"}});
        let tasks = [
            ("gsm8k_cot", 1, question.clone()),
            ("gsm8k_cot_self_consistency", 8, question),
            ("mmlu_flan_cot_zeroshot_anatomy", 1, choice),
            ("triviaqa", 1, aliases),
        ];
        let scorers = tasks.into_iter().flat_map(|(name, repeats, row)| {
            let task = catalog.task(name).expect("it ships");
            let scorer =
                move |mode| Scorer::new(&task.for_mode(mode), mode, repeats).map(|it| (it, row.clone()));
            // The other rule book wants all 64 answers of the vote.
            [ScoringMode::Default, ScoringMode::LmEval].into_iter().filter_map(move |mode| scorer(mode).ok())
        });
        scorers.collect()
    });
    let text = String::from_utf8_lossy(bytes);
    let answers: Vec<Output> = text.split('\0').map(|text| output(text, FinishReason::Stop)).collect();
    for (scorer, row) in SCORERS.iter() {
        let scores = match scorer.needs_all_repeats() {
            true => scorer.vote(row, &answers.iter().map(Some).cycle().take(8).collect::<Vec<_>>()),
            false => scorer.score(row, &answers[0]),
        };
        match scores {
            Ok(scores) => assert!(!scores.is_empty()),
            // The one thing that an answer may bring about: a pattern that gives up.
            Err(error) => assert!(error.to_string().contains("backtracking"), "{error}"),
        }
    }
}

/// Any template renders a conversation or says why not. A NUL byte ends the template, what follows is said in it.
pub fn chat_template(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    let (source, said) = text.split_once('\0').unwrap_or((text.as_ref(), "Hello {{ 1 }}"));
    let Ok(template) = ChatTemplate::parse(source, Some("<s>"), Some("</s>")) else { return };
    let message = |role| Message { role, content: said.to_owned() };
    let messages = [Role::System, Role::User, Role::Assistant].map(message);
    let most = (1 << 20) + 4 * 3 * said.len();
    if let Ok(text) = template.render(&messages, true) {
        assert!(text.len() <= most);
    }
    if let Ok((text, spans)) = template.render_marked(&messages) {
        assert!(spans.into_iter().all(|span| text.get(span).is_some()));
    }
}

/// Events are the same wherever the stream is cut: into pieces of as many bytes as the first byte says, or not at all.
pub fn server_sent_events(bytes: &[u8]) {
    let Some((first, stream)) = bytes.split_first() else { return };
    let decode = |piece: usize| {
        let (mut decoder, mut events) = (EventDecoder::default(), Vec::new());
        let mut pieces = stream.chunks(piece);
        let whole = pieces.try_for_each(|piece| decoder.feed(piece, LONGEST_EVENT, &mut events));
        whole.map(|()| events)
    };
    // Where a line is too long by itself, only who sees it grow knows.
    if let (Ok(cut), Ok(whole)) = (decode(usize::from(*first) + 1), decode(stream.len().max(1))) {
        assert_eq!(cut, whole);
        assert!(whole.iter().all(|event| event.len() <= LONGEST_EVENT));
    }
}
