//! What documents carry for filters.

use evalign_core::Hint;

use super::*;

const TABLE: &str = "name,price,zip\nPump,3,00123\nValve,n.a.,12345\n";

async fn indexed(front_matter: &str) -> (Bench, EdgeStore) {
    let bench = Bench::new();
    let vectors = EdgeStore::new(bench.directory.path().join("vectors"));
    bench.write("a.md", &format!("---\n{front_matter}\n---\n# A\nalpha one"));
    bench.write("plain.md", "# B\nbeta two");
    bench.write("t.csv", TABLE);
    bench.write("r.jsonl", "{\"lang\": \"de\", \"price\": 2.5, \"open\": true}\n{\"lang\": \"en\"}\n");
    bench.run(&vectors).await.unwrap();
    (bench, vectors)
}

/// Names of documents, of tables the first lines of their rows.
async fn found(bench: &Bench, vectors: &EdgeStore, typed: &str) -> Vec<String> {
    let filter = Chunk::filter(typed).unwrap();
    let (filter, _) = check_metadata(&bench.state, ("i", "t"), &filter).unwrap();
    let scope = Scope::of("t").visible(shown()).filter(filter);
    let with = With { payload: true, vectors: false };
    let page = vectors.scroll("i", &scope, None, 1000, with).await.unwrap();
    let shown = |record: &Record| {
        let text = |field: &str| record.payload[field].as_str().unwrap().to_owned();
        let name = text("document").rsplit('/').next().unwrap().to_owned();
        if name.ends_with(".md") { name } else { text("text").lines().next().unwrap().to_owned() }
    };
    page.records.iter().map(shown).collect::<BTreeSet<_>>().into_iter().collect()
}

fn refused(bench: &Bench, tenant: &str, typed: &str) -> (String, String) {
    let filter = Chunk::filter(typed).unwrap();
    let error = check_metadata(&bench.state, ("i", tenant), &filter).unwrap_err();
    (error.to_string(), error.hint().unwrap())
}

fn change_statistics(bench: &Bench, change: impl FnOnce(&mut Value)) {
    let mut statistics = bench.state.index_statistics("i", "t").unwrap().unwrap();
    change(&mut statistics);
    let commit = IndexCommit { statistics, ..IndexCommit::default() };
    bench.state.commit_documents("i", "t", commit).unwrap();
}

#[tokio::test]
async fn columns_fields_and_front_matter_are_found_by_filters() {
    let (bench, vectors) = indexed("author: Jane Doe\nyear: 2001\ntags: [pump, old]").await;
    for (typed, expected) in [
        ("meta.author=\"Jane Doe\"", &["a.md"][..]),
        ("meta.tags=old", &["a.md"]),
        ("meta.year>=2000", &["a.md"]),
        ("meta.name=Pump,Valve", &["name: Pump", "name: Valve"]),
        ("meta.price<=2.5", &["lang: de"]),
        ("meta.price=3", &["name: Pump"]),
        ("meta.price=n.a.", &["name: Valve"]),
        ("meta.zip=00123", &["name: Pump"]),
        ("meta.zip=12345", &["name: Valve"]),
        ("meta.open=true", &["lang: de"]),
        ("meta.lang!=de", &["a.md", "lang: en", "name: Pump", "name: Valve", "plain.md"]),
        ("meta.lang=?", &["lang: de", "lang: en"]),
        ("meta.author=nobody", &[]),
    ] {
        assert_eq!(found(&bench, &vectors, typed).await, expected, "{typed}");
    }
}

#[tokio::test]
async fn what_changes_alone_in_front_matter_changes_in_the_index() {
    let (bench, vectors) = indexed("author: Jane Doe").await;
    bench.write("a.md", "---\nauthor: Li\nread: true\n---\n# A\nalpha one");
    let report = bench.run(&vectors).await.unwrap();
    assert_eq!((report.updated, report.unchanged), (1, 3));
    assert_eq!(found(&bench, &vectors, "meta.author=Jane Doe").await, [""; 0]);
    assert_eq!(found(&bench, &vectors, "meta.author=Li").await, ["a.md"]);
    assert_eq!(found(&bench, &vectors, "meta.read=true").await, ["a.md"]);
    bench.write("a.md", "# A\nalpha one");
    fs_err::remove_file(bench.directory.path().join("docs/t.csv")).unwrap();
    bench.run(&vectors).await.unwrap();
    let (message, _) = refused(&bench, "t", "meta.author=Li");
    assert!(message.ends_with("there are meta.lang, meta.open, meta.price"), "{message}");
}

#[tokio::test]
async fn what_nothing_carries_is_refused_with_what_there_is() {
    let (bench, _) = indexed("author: Jane Doe\ndeep: {a: 1}").await;
    let (message, hint) = refused(&bench, "t", "meta.autor=Li");
    assert!(message.contains("`meta.autor`") && message.contains("meta.author, meta.lang"), "{message}");
    assert!(!message.contains("deep") && hint.contains("how the name is written"), "{message} {hint}");
    let (message, hint) = refused(&bench, "t", "meta.author>3");
    assert!(message.contains("are texts") && hint.contains("meta.author=\"Jane Doe\""), "{message} {hint}");
    let (message, hint) = refused(&bench, "t", "meta.open!=\"true\"");
    assert!(message.contains("true or false") && hint.contains("`meta.open=true`"), "{message} {hint}");
    // Another tenant does not learn the names.
    let (message, hint) = refused(&bench, "u", "meta.author=Li");
    assert!(message.contains("no document of the index carries metadata"), "{message}");
    assert!(hint.contains("`evalign rag index`"), "{hint}");
}

#[tokio::test]
async fn documents_of_an_earlier_version_are_told_of() {
    let (bench, _) = indexed("author: Jane Doe").await;
    let checked = || check_metadata(&bench.state, ("i", "t"), &Chunk::filter("meta.author=?").unwrap());
    assert_eq!(checked().unwrap().1, None);
    change_statistics(&bench, |statistics| statistics["fields"]["documents"] = json!(1));
    assert!(checked().unwrap().1.unwrap().starts_with("3 of 4 documents were indexed before metadata"));
    change_statistics(&bench, |statistics| drop(statistics.as_object_mut().unwrap().remove("fields")));
    let (message, hint) = refused(&bench, "t", "meta.author=?");
    assert!(message.contains("no document of the index carries metadata"), "{message}");
    assert!(hint.contains("indexed again"), "{hint}");
}

#[tokio::test]
async fn what_is_not_kept_is_told() {
    let (bench, vectors) = indexed("author: Jane Doe").await;
    bench.write("b.md", "---\ndeep: {a: 1}\n---\nbeta");
    bench.write("c.md", "---\na: [\n---\ngamma");
    // More names than an index has room for.
    let row = |row: usize| {
        let fields: serde_json::Map<String, Value> =
            (0..60).map(|field| (format!("f{row}-{field:02}"), json!(1))).collect();
        format!("{}\n", Value::Object(fields))
    };
    bench.write("many.jsonl", &(0..6).map(row).collect::<String>());
    let report = bench.run(&vectors).await.unwrap();
    let note = |name: &str| {
        let note = report.notes.iter().find(|note| note.document.ends_with(name));
        note.unwrap_or_else(|| panic!("{name}: {:?}", report.notes)).note.clone()
    };
    assert!(note("b.md").contains("`deep` (it has fields"), "{}", note("b.md"));
    assert!(note("c.md").contains("front matter is not read"), "{}", note("c.md"));
    assert!(note("many.jsonl").contains("fields are not kept"), "{}", note("many.jsonl"));
    let statistics = bench.state.index_statistics("i", "t").unwrap().unwrap();
    let count = |field: &str| statistics["fields"][field].as_object().unwrap().len();
    assert_eq!((count("names"), count("indexed")), (256, 32));
    // A row that is cut into chunks: each carries what the row does.
    assert!(found(&bench, &vectors, "meta.f0-59=1").await.len() > 1);
}

#[tokio::test]
async fn only_what_a_fields_values_can_fit_is_asked_of_the_store() {
    let (bench, _) = indexed("year: 2001").await;
    let asked = |typed: &str| {
        check_metadata(&bench.state, ("i", "t"), &Chunk::filter(typed).unwrap()).unwrap().0.must.remove(0)
    };
    assert!(matches!(asked("meta.year=2001"), Condition::Range { .. }));
    assert_eq!(asked("meta.name=12"), Chunk::filter("meta.name=\"12\"").unwrap().must[0]);
    // A column of numbers and texts.
    assert!(matches!(asked("meta.price=3"), Condition::Either(both) if both.len() == 2));
}

#[tokio::test]
async fn a_reason_is_told_once() {
    let bench = Bench::new();
    let vectors = EdgeStore::new(bench.directory.path().join("vectors"));
    for name in ["a.md", "b.md", "c.md"] {
        bench.write(name, &format!("---\ndeep: {{a: 1}}\n---\nalpha {name}"));
    }
    let notes = bench.run(&vectors).await.unwrap().notes;
    assert_eq!(notes.len(), 1, "{notes:?}");
    assert!(notes[0].document.ends_with("a.md"), "{notes:?}");
    assert!(notes[0].note.ends_with("; 2 other documents are like it"), "{notes:?}");
}

#[tokio::test]
async fn tenants_share_the_room_for_indexed_fields() {
    let bench = Bench::new();
    let vectors = EdgeStore::new(bench.directory.path().join("vectors"));
    let indexed = async |tenant: usize| {
        let row: Map<String, Value> = (0..30).map(|n| (format!("f{tenant}-{n:02}"), json!(n))).collect();
        bench.write("r.jsonl", &format!("{}\n", Value::Object(row)));
        let ingest = Ingest::new(&bench.state, &vectors, Arc::new(Hashing::new()), &|_| {});
        ingest.run(&bench.request(&format!("t{tenant}"))).await.unwrap();
        let fields = vectors.info("i").await.unwrap().indexed_fields;
        fields.iter().filter(|field| field.starts_with("meta.")).count()
    };
    for (tenant, fields) in [30, 60, 90, 120, 128].into_iter().enumerate() {
        assert_eq!(indexed(tenant).await, fields);
    }
}

#[tokio::test]
async fn a_chunk_of_several_rows_carries_nothing() {
    let bench = Bench::new();
    let vectors = EdgeStore::new(bench.directory.path().join("vectors"));
    bench.write("t.csv", TABLE);
    let mut request = bench.request("t");
    request.settings.chunking =
        ChunkSettings { strategy: Strategy::Recursive, max_tokens: 100, ..request.settings.chunking };
    let ingest = Ingest::new(&bench.state, &vectors, Arc::new(Hashing::new()), &|_| {});
    let report = ingest.run(&request).await.unwrap();
    assert_eq!(report.chunks, 1);
    assert!(report.notes[0].note.starts_with("1 chunk lies in several rows"), "{:?}", report.notes);
    refused(&bench, "t", "meta.name=Pump");
}
