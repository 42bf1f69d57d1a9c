//! The table of promises in SECURITY.md, held against the tests that there are.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

const PROMISES: u32 = 34;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// Names of the tests in the sources of a crate, or of all that lies in `tests/it`.
fn tests_in(place: &str) -> BTreeSet<String> {
    let directory = if place == "tests/it" { root().join(place) } else { root().join("crates").join(place) };
    assert!(directory.is_dir(), "`{place}` is no place of tests");
    let files = walkdir::WalkDir::new(directory).into_iter().map(Result::unwrap);
    let sources = files.filter(|file| file.path().extension().is_some_and(|extension| extension == "rs"));
    let mut found = BTreeSet::new();
    for source in sources {
        let text = fs_err::read_to_string(source.path()).unwrap();
        let mut is_test = false;
        for line in text.lines().map(str::trim_start) {
            is_test |= line.starts_with("#[test]") || line.starts_with("#[tokio::test");
            let line = line.strip_prefix("async ").unwrap_or(line);
            if let Some(function) = line.strip_prefix("fn ")
                && std::mem::take(&mut is_test)
            {
                found.insert(function.split(['(', '<']).next().unwrap().to_owned());
            }
        }
    }
    found
}

/// The numbers in a test's name: 25 and 26 in `promise_25_and_26_no_address_...`.
fn numbers(test: &str) -> Vec<u32> {
    let parts = test.strip_prefix("promise_").unwrap_or_default().split('_');
    parts.filter(|part| *part != "and").map_while(|part| part.parse().ok()).collect()
}

/// The tests that a cell names: `name` or `beginning_*` in backticks, of the place that stands before it with a colon,
/// else of the service. Other things in backticks (commands, files) have characters that no test's name has.
fn named(cell: &str) -> Vec<(&str, &str)> {
    let mut place = "serve";
    let mut found = Vec::new();
    let pieces: Vec<&str> = cell.split('`').collect();
    for quoted in pieces[1..].chunks(2) {
        if quoted.get(1).is_some_and(|after| after.starts_with(':')) {
            place = quoted[0];
        } else if quoted[0].contains('_')
            && quoted[0].chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || "_*".contains(c))
        {
            found.push((place, quoted[0]));
        }
    }
    found
}

/// Rows of the tables of SECURITY.md whose last column is of tests.
fn rows(text: &str) -> Vec<Vec<&str>> {
    let tables = &text[text.find("## Boundaries").unwrap()..];
    let rows = tables.lines().filter(|line| line.starts_with("| ") && !line.starts_with("| |"));
    rows.map(|row| row.trim_matches('|').split(" | ").map(str::trim).collect()).collect()
}

#[test]
fn every_promise_has_a_test_with_its_number_and_the_table_names_only_tests_that_there_are() {
    let text = fs_err::read_to_string(root().join("SECURITY.md")).unwrap();
    let mut open: BTreeSet<u32> = (1..=PROMISES).collect();
    let mut wrong = Vec::new();
    for row in rows(&text) {
        let mut shown = BTreeSet::new();
        for (place, name) in named(row[2]) {
            let tests = tests_in(place);
            let fits = |test: &&String| match name.strip_suffix('*') {
                Some(beginning) => test.starts_with(beginning),
                None => *test == name,
            };
            let found: Vec<&String> = tests.iter().filter(fits).collect();
            if found.is_empty() {
                wrong.push(format!("`{place}` has no test `{name}` (row `{}`)", row[0]));
            }
            shown.extend(found.into_iter().flat_map(|test| numbers(test)));
        }
        if let Ok(number) = row[0].parse::<u32>()
            && !(shown.contains(&number) && open.remove(&number))
        {
            wrong.push(format!("no test of row {number} has its number, or there are two such rows"));
        }
    }
    assert!(wrong.is_empty(), "SECURITY.md: {wrong:#?}");
    assert!(open.is_empty(), "SECURITY.md says nothing of the promises {open:?}");
}

#[test]
fn numbers_are_read_from_names() {
    assert_eq!(numbers("promise_25_and_26_no_address_of_3"), [25, 26]);
    assert_eq!(numbers("promise_7_stores_of_every_version_open"), [7]);
    assert!(numbers("a_promise_1_is_none").is_empty());
}
