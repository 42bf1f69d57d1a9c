//! Bad input: a clear error that says where, and nothing lost.

use evalign_testkit::{Ran, Sandbox, Script};

fn task(fields: &str) -> String {
    format!(
        "task: mine\nversion: \"1\"\nsummary: \"Mine\"\ndataset: {{file: rows.jsonl}}\noutput: generate_until\n\
         target: \"{{{{a}}}}\"\ngeneration: {{until: [\"\\n\"], max_tokens: 8}}\nmetrics: [{{name: exact_match}}]\n{fields}\n"
    )
}

fn eval(rows: &[u8], fields: &str, more: &[&str]) -> Ran {
    let sandbox = Sandbox::new();
    sandbox.write("tasks/rows.jsonl", rows);
    sandbox.write("tasks/mine.yaml", task(fields));
    let model = sandbox.model(&Script::seeded(1));
    let mut arguments = vec!["eval", "mine", "--model", &model, "--include-path", "tasks", "--json"];
    arguments.extend(more);
    sandbox.run(&arguments)
}

const ROWS: &[u8] = b"{\"q\": \"1\", \"a\": \"1\"}\n{\"q\": \"2\", \"a\": \"2\"}\n";
const PROMPT: &str = "prompt: \"{{q}}\"";

fn refused(ran: &Ran, said: &[&str]) {
    assert_eq!(ran.status, 2, "{ran:?}");
    for text in said {
        assert!(ran.stderr.contains(text), "`{text}` is not in {}", ran.stderr);
    }
}

#[test]
fn the_good_case_works() {
    assert_eq!(eval(ROWS, PROMPT, &[]).status, 0);
}

#[test]
fn task_files() {
    refused(
        &eval(ROWS, "prompt: \"{{q}}\"\nprompts: x", &[]),
        &["mine.yaml:10:1:", "unknown field `prompts`", "did you mean `prompt`?"],
    );
    refused(
        &eval(ROWS, "prompt: [1, 2]", &[]),
        &["mine.yaml:9:9:", "field `prompt`: expected text, found `[1, 2]`"],
    );
    refused(
        &eval(ROWS, "prompt: \"{{q}}\"\nrepeats: many", &[]),
        &["mine.yaml:10:10:", "field `repeats`: expected a whole number of at least 0, found `many`"],
    );
    refused(&eval(ROWS, "prompt: \"{{q\"", &[]), &["mine", "prompt", "hint:"]);
}

#[test]
fn an_include_path_counts_once_in_whatever_spelling() {
    let sandbox = Sandbox::new();
    sandbox.write("tasks/rows.jsonl", ROWS);
    sandbox.write("tasks/mine.yaml", task(PROMPT));
    let model = sandbox.model(&Script::seeded(1));
    let absolute = sandbox.path().join("tasks").display().to_string();
    let paths = ["tasks", absolute.as_str(), "tasks/../tasks/", "./tasks"];
    let mut arguments = vec!["eval", "mine", "--model", &model, "--json"];
    arguments.extend(paths.iter().flat_map(|path| ["--include-path", path]));
    sandbox.ok(&arguments);
    // The run knows its own directory; naming it again is no second definition.
    sandbox.ok(&["export", "last", "--format", "lm-eval", "--out", "out", "--include-path", "tasks"]);
}

#[test]
fn validating_goes_on_after_a_bad_file() {
    let sandbox = Sandbox::new();
    sandbox.write("tasks/_shots.yaml", "mine:\n  - {q: \"1\", a: \"1\"}\n");
    sandbox.write("tasks/_base.yaml", "target_delimiter: \" \"\n");
    sandbox.write("tasks/mine.yaml", task(PROMPT));
    let good = sandbox.ok(&["tasks", "validate", "tasks"]);
    assert!(
        good.stdout.contains("mine.yaml: mine") && good.stdout.contains("_base.yaml: a base"),
        "{good:?}"
    );

    sandbox.write("tasks/a.yaml", task(PROMPT).replace("task: mine", "task: a\nrepeats: many"));
    sandbox.write("tasks/b.yaml", task(PROMPT));
    sandbox.write("tasks/c.yaml", "group: c\nmembers: [mine, nowhere]\n");
    sandbox.write("tasks/_wrong.yaml", "prompts: x\n");
    let ran = sandbox.run(&["tasks", "validate", "tasks"]);
    refused(&ran, &["a.yaml:2:10:", "found `many`", "already defined in", "unknown task `nowhere`"]);
    refused(&ran, &["_wrong.yaml:1:1:", "4 of 7 task files cannot be used", "hint:"]);
    assert_eq!(ran.stderr.matches("error:").count(), 5, "{ran:?}");
    assert!(ran.stdout.contains("_shots.yaml: a base"), "{ran:?}");
    refused(&sandbox.run(&["tasks", "validate", "nowhere.yaml"]), &["nowhere.yaml"]);
}

#[test]
fn a_file_that_defines_nothing_is_not_good_and_groups_may_span_directories() {
    let sandbox = Sandbox::new();
    for (text, said) in [
        (task(PROMPT).replace("task: mine\n", ""), "defines no `task`"),
        (task(PROMPT).replace("task: mine\n", "task:\n"), "defines no `task`"),
        (task(PROMPT) + "---\ntask: b\n", "second YAML document"),
    ] {
        sandbox.write("a/one.yaml", text);
        refused(&sandbox.run(&["tasks", "validate", "a/one.yaml"]), &["one.yaml", said]);
    }
    sandbox.write("a/one.yaml", b"task: one\nsummary: caf\xe9\n".as_slice());
    refused(&sandbox.run(&["tasks", "validate", "a"]), &["one.yaml:2", "UTF-8"]);
    sandbox.write("a/one.yaml", "group: both\nmembers: [mine]\n");
    sandbox.write("b/mine.yaml", task(PROMPT));
    refused(&sandbox.run(&["tasks", "validate", "a"]), &["unknown task `mine`"]);
    sandbox.ok(&["tasks", "validate", "a", "--include-path", "b"]);
}

#[test]
fn rows() {
    refused(&eval(ROWS, "prompt: \"{{question}}\"", &[]), &["question", "q, a"]);
    refused(
        &eval(b"{\"q\": \"1\", \"a\": \"1\"}\n{\"q\": \xff}\n", PROMPT, &[]),
        &["rows.jsonl", "line 2", "UTF-8"],
    );
    refused(&eval(b"{\"q\": \"1\", \"a\": \"1\"}\n{\"q\": \n", PROMPT, &[]), &["rows.jsonl", "line 2"]);
    let empty = eval(b"", PROMPT, &[]);
    refused(&empty, &["no rows", "rows.jsonl", "hint:"]);
    assert!(!empty.stderr.contains("()"), "{empty:?}");
    refused(&eval(ROWS, PROMPT, &["--include-path", "nowhere"]), &["nowhere", "hint:", "--include-path"]);
    // The second row lacks what the template needs: it is named.
    let ran = eval(b"{\"q\": \"1\", \"a\": \"1\"}\n{\"p\": \"2\", \"a\": \"2\"}\n", PROMPT, &[]);
    refused(&ran, &["row 2"]);
}

#[test]
fn a_data_file_that_is_not_there() {
    let sandbox = Sandbox::new();
    sandbox.write("tasks/mine.yaml", task(PROMPT));
    let model = sandbox.model(&Script::seeded(1));
    let ran = sandbox.run(&["eval", "mine", "--model", &model, "--include-path", "tasks"]);
    refused(&ran, &["`mine`", "there is no file", "rows.jsonl", "hint:", "beside"]);
}

#[test]
fn requests() {
    refused(&eval(ROWS, PROMPT, &["--limit", "0"]), &["limit"]);
    refused(&eval(ROWS, PROMPT, &["--samples", "5..9"]), &["2 documents"]);
    refused(&eval(ROWS, PROMPT, &["--repeats", "0"]), &["repeats"]);
    refused(&eval(ROWS, PROMPT, &["--budget-usd", "1"]), &["a budget needs a model server", "hint:"]);
    let ran = eval(ROWS, PROMPT, &["--shots", "9"]);
    assert_eq!(ran.status, 2, "{ran:?}");
}

#[test]
fn models() {
    let sandbox = Sandbox::new();
    let cut = sandbox.write("cut.gguf", b"GGUF\x03\x00\x00\x00\x01");
    let junk = sandbox.write("junk.gguf", b"not a model at all");
    let empty = sandbox.write("dir/config.json", "{}");
    for (path, said) in [
        (cut.display().to_string(), "cut.gguf"),
        (junk.display().to_string(), "junk.gguf"),
        (empty.parent().unwrap().display().to_string(), "dir"),
        ("missing.gguf".to_owned(), "missing.gguf"),
    ] {
        let ran = sandbox.run(&["eval", "samples", "--model", &format!("local/{path}"), "--offline"]);
        refused(&ran, &[said]);
    }
}

#[cfg(unix)]
#[test]
fn a_store_that_cannot_be_written() {
    use std::os::unix::fs::PermissionsExt;
    let sandbox = Sandbox::new();
    let home = sandbox.path().join("home");
    fs_err::create_dir_all(&home).unwrap();
    fs_err::set_permissions(&home, std::fs::Permissions::from_mode(0o555)).unwrap();
    if fs_err::write(home.join("probe"), "").is_ok() {
        eprintln!("skipped: this user may write anywhere");
        return;
    }
    let ran = sandbox.run(&["runs"]);
    refused(&ran, &["hint:", "EVALIGN_HOME"]);
}

#[test]
fn a_store_that_is_none() {
    let sandbox = Sandbox::new();
    sandbox.write("home/evalign.db", "this is not a database, but it is long enough to look at".repeat(100));
    let ran = sandbox.run(&["runs"]);
    refused(&ran, &["evalign.db", "hint:"]);
}
