use evalign_core::Hint;

use super::*;

fn directory(corpus: &str, queries: &str, qrels: &str) -> tempfile::TempDir {
    let directory = tempfile::tempdir().unwrap();
    fs_err::write(directory.path().join("corpus.jsonl"), corpus).unwrap();
    fs_err::write(directory.path().join("queries.jsonl"), queries).unwrap();
    fs_err::create_dir(directory.path().join("qrels")).unwrap();
    fs_err::write(directory.path().join("qrels/test.tsv"), qrels).unwrap();
    directory
}

const CORPUS: &str = r#"{"_id": "b", "title": "T", "text": "x"}
{"_id": "a", "title": "", "text": "y"}

{"_id": "c", "text": "z"}
"#;
const QUERIES: &str = "{\"_id\": \"1\", \"text\": \"q\"}\n{\"_id\": \"2\", \"text\": \"r\"}\n";
const QRELS: &str = "query-id\tcorpus-id\tscore\n1\tb\t2\n1\tzz\t1\n2\ta\t0\n";

#[test]
fn titles_join_texts_and_queries_without_answers_are_left_out() {
    let directory = directory(CORPUS, QUERIES, QRELS);
    let collection = BeirCollection::open(directory.path(), "test").unwrap();
    let documents: Vec<(&str, &str)> =
        collection.documents.iter().map(|document| (document.id.as_str(), document.text.as_str())).collect();
    assert_eq!(documents, [("b", "T x"), ("a", "y"), ("c", "z")]);
    let titles: Vec<&str> = collection.documents.iter().map(|document| document.title.as_str()).collect();
    assert_eq!(titles, ["T", "", ""]);
    assert_eq!(collection.queries.iter().map(|query| &query.id).collect::<Vec<_>>(), ["1"]);
    assert_eq!(collection.judgements["1"]["zz"], 1);
}

#[test]
fn errors_say_where() {
    let message = |corpus: &str, queries: &str, qrels: &str| {
        let directory = directory(corpus, queries, qrels);
        BeirCollection::open(directory.path(), "test").unwrap_err().to_string()
    };
    let twice = format!("{CORPUS}{{\"_id\": \"a\", \"text\": \"w\"}}\n");
    let cases = [
        (message("{\"_id\": \"a\"}\n", QUERIES, QRELS), "corpus.jsonl, line 1, field `text`: is missing"),
        (message("{\"_id\": [7], \"text\": \"\"}\n", QUERIES, QRELS), "line 1, field `_id`: is not a string"),
        (message(&twice, QUERIES, QRELS), "corpus.jsonl, line 5, field `_id`: \"a\" occurs twice"),
        (message("", QUERIES, QRELS), "corpus.jsonl: holds no document"),
        (message(CORPUS, QUERIES, "h\n1\tb\n"), "test.tsv, line 2: expected three columns"),
        (message(CORPUS, QUERIES, "h\n1\tb\tx\n"), "line 2, field `score`: is not an integer"),
        (message(CORPUS, QUERIES, "h\n2\ta\t0\n"), "judges no document relevant"),
        (message(CORPUS, "not json\n", QRELS), "queries.jsonl, line 1"),
    ];
    for (found, wanted) in cases {
        assert!(found.contains(wanted), "{found}\nshould say: {wanted}");
    }
    assert!(BeirCollection::open(std::path::Path::new("/nowhere"), "test").is_err());
}

#[test]
fn what_other_tools_write_is_read_as_they_mean_it() {
    let corpus = "{\"_id\": 7, \"title\": null, \"text\": \"x\", \"metadata\": {}}\n\
                  {\"_id\": \"a b/\\\"c\\\"\\u0000\", \"text\": \"\"}\n\
                  {\"_id\": \"7\", \"title\": \"\", \"text\": \"x\"}\n";
    let queries = "\u{feff}{\"_id\": 1, \"text\": \"\"}\r\n";
    let qrels = "\u{feff}1\t7\t2.0\r\n1\t\"a b/\"\"c\"\"\u{0}\"\t1\r\n1\t7\t1\r\n";
    let directory = directory(corpus, queries, qrels);
    let collection = BeirCollection::open(directory.path(), "test").unwrap();
    let ids: Vec<&str> = collection.documents.iter().map(|document| document.id.as_str()).collect();
    assert_eq!(ids, ["7", "a b/\"c\"\0"]);
    assert_eq!((&*collection.queries[0].id, &*collection.queries[0].text), ("1", ""));
    assert_eq!(collection.judgements["1"], [("7".to_owned(), 1), (ids[1].to_owned(), 1)].into());
}

#[test]
fn a_split_that_is_not_there_names_those_that_are() {
    let directory = directory(CORPUS, QUERIES, QRELS);
    fs_err::write(directory.path().join("qrels/dev.tsv"), QRELS).unwrap();
    let error = BeirCollection::open(directory.path(), "train").unwrap_err();
    assert!(error.hint().unwrap().contains("--split dev, --split test"), "{error}");
}
