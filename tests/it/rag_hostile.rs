//! Documents that are made to break their reader, a model that says what no document says, and a server that changes
//! its model.

use std::fmt::Write as _;

use evalign_testkit::openai_server::{Behaviour, ScriptedServer};
use evalign_testkit::{Sandbox, Script, embedding_model};
use serde_json::{Value, json};

/// A PDF of these objects, the first of which is the catalogue.
fn pdf(objects: &[String]) -> String {
    let mut file = "%PDF-1.5\n".to_owned();
    let mut places = Vec::new();
    for (number, object) in (1..).zip(objects) {
        places.push(file.len());
        write!(file, "{number} 0 obj\n{object}\nendobj\n").unwrap();
    }
    let (start, size) = (file.len(), objects.len() + 1);
    write!(file, "xref\n0 {size}\n0000000000 65535 f \n").unwrap();
    places.iter().for_each(|place| writeln!(file, "{place:010} 00000 n ").unwrap());
    write!(file, "trailer\n<< /Root 1 0 R /Size {size} >>\nstartxref\n{start}\n%%EOF\n").unwrap();
    file
}

fn stream(dictionary: &str, content: &str) -> String {
    format!("<< {dictionary} /Length {} >>\nstream\n{content}\nendstream", content.len())
}

/// One page with this content; `more` are the objects from 5 on.
fn page(content: &str, resources: &str, more: &[String]) -> String {
    let mut objects = vec![
        "<< /Type /Catalog /Pages 2 0 R >>".to_owned(),
        "<< /Type /Pages /Kids [3 0 R] /Count 1 >>".to_owned(),
        format!(
            "<< /Type /Page /Parent 2 0 R /MediaBox [0 0 99 99] /Contents 4 0 R /Resources << {resources} >> >>"
        ),
        stream("", content),
    ];
    objects.extend_from_slice(more);
    pdf(&objects)
}

#[test]
fn a_pdf_that_breaks_its_reader_costs_itself_and_nothing_else() {
    let test = "a_pdf_that_breaks_its_reader_costs_itself_and_nothing_else";
    let Some(embedder) = embedding_model(test) else { return };
    let sandbox = Sandbox::new();
    let font = |more: &str| format!("<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica {more} >>");
    let text = "BT /F 12 Tf 9 9 Td (The gate closes at 18:30.) Tj ET";
    // A table of all four-byte characters: a hundred gigabytes from one line.
    let table = stream("", "1 beginbfrange\n<00000000> <ffffffff> <0041>\nendbfrange");
    let endless = [font("/ToUnicode 6 0 R"), table];
    let form = stream("/Type /XObject /Subtype /Form /BBox [0 0 9 9]", "/F Do");
    sandbox.write("docs/a-endless-table.pdf", page(text, "/Font << /F 5 0 R >>", &endless));
    sandbox.write("docs/b-form-in-itself.pdf", page("/F Do", "/XObject << /F 5 0 R >>", &[form]));
    sandbox.write("docs/c-good.pdf", page(text, "/Font << /F 5 0 R >>", &[font("")]));
    let embedder = embedder.display().to_string();
    let indexed = sandbox.run(&["rag", "index", "docs", "--json", "--embedder", &embedder]);
    assert_eq!(indexed.status, 1, "{indexed:?}");
    let report = indexed.json();
    assert_eq!(report["added"], 1, "{report:#}");
    let reason = |index: usize| report["failed"][index]["reason"].as_str().unwrap().to_owned();
    assert!(reason(0).contains("a-endless-table.pdf") && reason(0).contains("MiB"), "{report:#}");
    assert!(
        reason(1).contains("b-form-in-itself.pdf") && reason(1).contains("hold themselves"),
        "{report:#}"
    );
    let answer = sandbox.ok(&["rag", "query", "When does the gate close?", "--json"]).json();
    assert_eq!(answer["claims"][0]["citations"][0]["page"], 1, "{answer:#}");
}

#[test]
fn promise_31_what_a_model_makes_up_is_no_part_of_the_answer() {
    let Some(embedder) = embedding_model("what_a_model_makes_up_is_no_part_of_the_answer") else { return };
    let sandbox = Sandbox::new();
    let said = "The gate closes at 18:30 [1]. The gate does not close at 18:30 [1]. Alice closes the gate at 18:30 [1].";
    let rules = json!([{"match": "When does the gate close?", "text": said}]);
    let model = sandbox.model(&Script::default().with("rules", rules));
    sandbox.write("docs/gate.md", "The gate closes at 18:30.");
    sandbox.ok(&["rag", "index", "docs", "--embedder", &embedder.display().to_string()]);
    let query = ["rag", "query", "When does the gate close?", "--model", &model];
    let answer = sandbox.ok(&[&query[..], &["--json"]].concat()).json();
    assert_eq!(answer["text"], "The gate closes at 18:30.");
    let supported: Vec<&Value> =
        answer["claims"].as_array().unwrap().iter().map(|c| &c["supported"]).collect();
    assert_eq!(supported, [true, false, false]);
    let told = sandbox.ok(&query).stdout;
    let answered = told.split("unsupported:").next().unwrap();
    assert!(!answered.contains("not close") && !answered.contains("Alice"), "{told}");
    assert!(told.contains("unsupported: Alice closes the gate"), "{told}");
    // What was shown while it was written is not shown twice.
    assert!(told.starts_with("The gate closes at 18:30.\nunsupported:"), "{told}");
}

#[test]
fn what_was_shown_and_is_taken_back_is_said_to_be() {
    let Some(embedder) = embedding_model("what_was_shown_and_is_taken_back_is_said_to_be") else { return };
    let sandbox = Sandbox::new();
    let said = "The gate closes at 18:30. Or not: the sources do not say.";
    let model = sandbox.model(&Script::default().with("rules", json!([{"match": "the gate", "text": said}])));
    sandbox.write("docs/gate.md", "The gate closes at 18:30.");
    sandbox.ok(&["rag", "index", "docs", "--embedder", &embedder.display().to_string()]);
    let query = ["rag", "query", "When does the gate close?", "--model", &model];
    let told = sandbox.ok(&query);
    assert!(told.stdout.starts_with("The gate closes at 18:30.\nNo answer:"), "{told:?}");
    assert!(told.stderr.contains("went on otherwise"), "{told:?}");
    // A document is one whole.
    let answer = sandbox.ok(&[&query[..], &["--json"]].concat()).json();
    assert!(answer["text"].is_null() && answer["claims"].as_array().unwrap().is_empty(), "{answer:#}");
}

#[test]
fn a_page_that_nests_without_end_fails_and_the_others_are_read() {
    let Some(embedder) = embedding_model("a_page_that_nests_without_end_fails_and_the_others_are_read")
    else {
        return;
    };
    let sandbox = Sandbox::new();
    sandbox.write("docs/a-deep.html", "<div>".repeat(50_000) + "The gate closes at 19:45.");
    sandbox.write("docs/b-good.html", "<p>The gate closes at 18:30.");
    let indexed =
        sandbox.run(&["rag", "index", "docs", "--json", "--embedder", &embedder.display().to_string()]);
    assert_eq!(indexed.status, 1, "{indexed:?}");
    let report = indexed.json();
    assert_eq!(report["added"], 1, "{report:#}");
    let reason = report["failed"][0]["reason"].as_str().unwrap();
    assert!(reason.contains("a-deep.html") && reason.contains("too deep"), "{report:#}");
}

#[test]
fn a_server_that_changes_its_model_is_found_out() {
    let server = ScriptedServer::start(Behaviour::default());
    let sandbox = Sandbox::new();
    let run = |arguments: &[&str]| {
        let mut command = sandbox.command(arguments);
        command.env("OPENAI_BASE_URL", server.base_url()).env("OPENAI_API_KEY", "any");
        let out = command.output().unwrap();
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        (out.status.code(), text(&out.stdout) + &text(&out.stderr))
    };
    sandbox.write("docs/gate.md", "The gate closes at 18:30.");
    let index = ["rag", "index", "docs", "--embedder", "openai/scripted"];
    let (search, query) = (["rag", "search", "the gate"], ["rag", "query", "the gate"]);
    for command in [&index[..], &index, &search, &query] {
        let (code, told) = run(command);
        assert_eq!(code, Some(0), "{command:?}: {told}");
    }
    server.behave(Behaviour { seed: 1, ..Behaviour::default() });
    for command in [&index[..], &search, &query] {
        let (code, told) = run(command);
        assert_eq!(code, Some(2), "{command:?}: {told}");
        assert!(told.contains("the model behind openai/scripted is another one"), "{told}");
        assert!(told.contains("hint: "), "{told}");
    }
    // It has the model of then again.
    server.behave(Behaviour::default());
    assert_eq!(run(&search).0, Some(0));
}

#[cfg(target_os = "linux")]
#[test]
fn a_name_that_is_no_text_costs_its_file_and_nothing_else() {
    use std::os::unix::ffi::OsStrExt;
    let Some(embedder) = embedding_model("a_name_that_is_no_text_costs_its_file_and_nothing_else") else {
        return;
    };
    let sandbox = Sandbox::new();
    sandbox.write("docs/gate.md", "The gate closes at 18:30.");
    // One name in Windows' manner, which is another one than the file in a directory.
    sandbox.write("docs/a/b.md", "The pump stops at noon.");
    sandbox.write("docs/a\\b.md", "The pump stops at midnight.");
    for byte in [b"\xe9", b"\xea"] {
        let name = [b"docs/lat".as_slice(), byte, b".md"].concat();
        let name = std::ffi::OsStr::from_bytes(&name);
        fs_err::write(sandbox.path().join(name), "The yard is empty.").unwrap();
    }
    let arguments = ["rag", "index", "docs", "--json", "--embedder", &embedder.display().to_string()];
    for (added, unchanged) in [(3, 0), (0, 3)] {
        let indexed = sandbox.run(&arguments);
        assert_eq!(indexed.status, 1, "{indexed:?}");
        let report = indexed.json();
        assert_eq!(
            (&report["added"], &report["unchanged"]),
            (&added.into(), &unchanged.into()),
            "{report:#}"
        );
        let failed = report["failed"].as_array().unwrap();
        let names: Vec<&Value> = failed.iter().map(|failure| &failure["document"]).collect();
        assert_eq!(names, ["docs/lat\\xe9.md", "docs/lat\\xea.md"], "{report:#}");
        assert!(failed[0]["reason"].as_str().unwrap().contains("rename it"), "{report:#}");
    }
}
