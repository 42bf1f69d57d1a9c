//! Where documents come from and where their points lie.

use super::*;

#[tokio::test]
async fn links_lead_nowhere_but_to_what_the_inputs_name() {
    let bench = Bench::new();
    let vectors = EdgeStore::new(bench.directory.path().join("vectors"));
    let (docs, outside) = (bench.directory.path().join("docs"), bench.directory.path().join("outside"));
    fs_err::create_dir_all(outside.join("deeper")).unwrap();
    fs_err::write(outside.join("secret.md"), "the key is under the mat").unwrap();
    bench.write("a.md", "alpha one");
    bench.write("z.md", "zeta last");
    let link = |target: &Path, name: &str| std::os::unix::fs::symlink(target, docs.join(name)).unwrap();
    link(&docs.join("a.md"), "b.md");
    link(&outside.join("secret.md"), "c.md");
    link(&outside, "d");
    let ingest = Ingest::new(&bench.state, &vectors, Arc::new(Hashing::new()), &|_| {});
    let run = async |inputs: &[&Path]| {
        let mut request = bench.request("t");
        request.inputs = inputs.iter().map(|path| path.display().to_string()).collect();
        ingest.run(&request).await.unwrap()
    };
    for inputs in [&[docs.as_path()][..], &[docs.join("**").as_path()]] {
        let report = run(inputs).await;
        let left: Vec<&str> =
            report.notes.iter().filter_map(|note| note.document.split("docs/").nth(1)).collect();
        assert_eq!((left, report.failed.len()), (vec!["c.md", "d"], 0), "{:?}", report.notes);
        assert_eq!(report.added + report.unchanged, 3);
    }
    // What is named itself may be led to.
    let report = run(&[&docs, &outside]).await;
    assert_eq!((report.added, report.notes.len()), (3, 0), "{report:?}");
    // And what was led to before is gone when it is no longer named.
    assert_eq!(run(&[&docs]).await.deleted.len(), 2);
    // A link that was named is what was named.
    assert_eq!(run(&[&docs.join("c.md")]).await.added, 1);
}

#[tokio::test]
async fn what_is_recorded_and_lies_in_another_store_is_written_to_this_one() {
    let bench = Bench::new();
    let (first_store, other) = (bench.directory.path().join("vectors"), bench.directory.path().join("other"));
    let (vectors, other) = (EdgeStore::new(first_store), EdgeStore::new(other));
    first(&bench);
    bench.run(&vectors).await.unwrap();
    let here = async |vectors: &EdgeStore| check_presence(&bench.state, vectors, ("i", "t")).await;
    here(&vectors).await.unwrap();
    let error = here(&other).await.unwrap_err();
    assert!(error.to_string().contains("recorded documents: 4;"), "{error}");
    assert!(evalign_core::Hint::hint(&error).is_some_and(|hint| hint.contains("--store")));
    // There, but empty.
    let request = bench.request("t");
    let ingest = Ingest::new(&bench.state, &other, Arc::new(Hashing::new()), &|_| {});
    ingest.create("i", &request.settings).await.unwrap();
    here(&other).await.unwrap_err();
    check_presence(&bench.state, &other, ("i", "nobody")).await.unwrap();
    // A part of the inputs: the others are told. An empty document has nothing to lack.
    let a = bench.directory.path().join("docs/a.md").display().to_string();
    let report = ingest.run(&IngestRequest { inputs: vec![a], ..request }).await.unwrap();
    assert_eq!((report.added, report.absent.len()), (1, 2), "{report:?}");
    // All of them: the same as in the first store.
    let report = bench.run(&other).await.unwrap();
    assert_eq!((report.added, report.updated, report.unchanged), (2, 0, 2));
    assert_eq!(bench.content(&other).await, bench.content(&vectors).await);
    // Meanwhile it changes in the other one alone, into as many chunks.
    bench.write("b.md", "beta anew");
    bench.run(&other).await.unwrap();
    let report = bench.run(&vectors).await.unwrap();
    assert_eq!((report.added, report.unchanged), (1, 3));
    assert_eq!(bench.content(&other).await, bench.content(&vectors).await);
}
