//! Rows of tables are cited where they stand in their files.

use evalign_testkit::openai_server::{Behaviour, ScriptedServer};
use evalign_testkit::{Ran, Sandbox};
use serde_json::Value;

const CSV: &str = "\u{feff}item,\"where it is\",note\r\n\
    lantern,pier head,\"It hangs high, by the rope.\r\nThe number of the berth is 42.\"\r\n\
    anchor,shed,\"He calls it \"\"the old hook\"\" fondly.\"\r\n";
const JSONL: &str = "{\"item\": \"compass\", \"note\": \"The needle points\\nto Gr\\u00f6nland on Sundays\"}\n\n\
    {\"item\": \"sextant\", \"note\": \"The mirror is cracked\", \"year\": 1921}\n";

/// The place that answers a question, which has to be one.
fn cited(ask: &dyn Fn(&[&str]) -> Ran, question: &str) -> (Value, String) {
    let query = ["rag", "query", question, "--mode", "bm25", "--min-confidence", "0"];
    let answer = ask(&[&query[..], &["--json"]].concat()).json();
    (answer["claims"][0]["citations"][0].clone(), ask(&query).stdout)
}

fn slice<'t>(file: &'t str, place: &Value) -> &'t str {
    let byte = |at: &Value| usize::try_from(at.as_u64().unwrap()).unwrap();
    let range = match place.as_array() {
        Some(range) => byte(&range[0])..byte(&range[1]),
        None => byte(&place["start_byte"])..byte(&place["end_byte"]),
    };
    &file[range]
}

#[test]
fn a_quote_of_a_row_is_told_by_its_bytes_in_the_file() {
    let server = ScriptedServer::start(Behaviour::default());
    let sandbox = Sandbox::new();
    sandbox.write("docs/stores.csv", CSV);
    sandbox.write("docs/tools.jsonl", JSONL);
    let run = |arguments: &[&str]| -> Ran {
        let mut command = sandbox.command(arguments);
        let command = command.env("OPENAI_BASE_URL", server.base_url()).env("OPENAI_API_KEY", "any");
        let ran: Ran = command.output().unwrap().into();
        assert_eq!(ran.status, 0, "{arguments:?}: {ran:?}");
        ran
    };
    run(&["rag", "index", "docs", "--embedder", "openai/scripted"]);

    // A sentence within a cell of several lines stands in the file as it is.
    let (place, text) = cited(&run, "What is the number of the berth?");
    assert_eq!(place["quote"], "The number of the berth is 42.");
    assert_eq!((&place["stands_in"], &place["record"]["line"]), (&"file".into(), &2.into()));
    let start = usize::try_from(place["file_start_byte"].as_u64().unwrap()).unwrap();
    assert!(CSV[start..].starts_with(place["quote"].as_str().unwrap()));
    assert!(
        slice(CSV, &place["record"]).starts_with("lantern,")
            && slice(CSV, &place["record"]).ends_with("42.\"")
    );
    let end = start + place["quote"].as_str().unwrap().len();
    assert!(text.contains(&format!("stores.csv, line 2, bytes {start} to {end}")), "{text}");

    // One with quotes in it does not, and neither does one of several fields.
    for (question, file, name, record, verbatim) in [
        (
            "Calls fondly the old hook?",
            CSV,
            "stores.csv, line 4, row at bytes ",
            "anchor,shed,\"He calls it \"\"the old hook\"\" fondly.\"",
            &["anchor", "shed", "He calls it ", "the old hook", " fondly."][..],
        ),
        (
            "Needle points to Grönland on Sundays?",
            JSONL,
            "tools.jsonl, line 1, row at bytes ",
            JSONL.lines().next().unwrap(),
            &["compass", "The needle points", "to Gr", "nland on Sundays"],
        ),
        (
            "Mirror of the sextant cracked?",
            JSONL,
            "tools.jsonl, line 3, row at bytes ",
            JSONL.lines().nth(2).unwrap(),
            &["sextant", "The mirror is cracked", "1921"],
        ),
    ] {
        let (place, text) = cited(&run, question);
        assert_eq!(
            (&place["stands_in"], &place["file_start_byte"]),
            (&"text".into(), &Value::Null),
            "{place:#}"
        );
        assert_eq!(slice(file, &place["record"]), record);
        let parts = place["record"]["verbatim"].as_array().unwrap();
        assert_eq!(parts.iter().map(|part| slice(file, &part["file"])).collect::<Vec<_>>(), verbatim);
        let quote = place["quote"].as_str().unwrap();
        assert!(parts.iter().all(|part| slice(quote, &part["quote"]) == slice(file, &part["file"])));
        assert!(text.contains(name) && text.contains("as it stands: "), "{text}");
    }

    let search = ["rag", "search", "sextant mirror", "--mode", "bm25", "--top-k", "1"];
    let hits = run(&[&search[..], &["--json"]].concat()).json();
    assert_eq!(slice(JSONL, &hits[0]["payload"]["record"]), JSONL.lines().nth(2).unwrap());
    assert!(run(&search).stdout.contains("tools.jsonl, line 3, row at bytes "));
}
