//! The crate arrows of ARCHITECTURE.md, held against what Cargo really links.

use std::collections::{BTreeMap, BTreeSet};

use cargo_metadata::{DependencyKind, MetadataCommand};

/// Normal dependencies each crate may have inside the workspace (crates that do not exist yet are
/// listed too, so that the drawing in ARCHITECTURE.md stays whole).
const ALLOWED: &[(&str, &[&str])] = &[
    ("core", &[]),
    ("stats", &[]),
    ("fetch", &["core"]),
    ("data", &["core", "fetch"]),
    ("lm", &["core"]),
    ("model", &["core", "lm", "fetch"]),
    ("store", &["core"]),
    ("judge", &["core", "stats", "model", "data"]),
    ("rag", &["core", "stats", "model", "store", "data", "fetch"]),
    ("train", &["core", "stats", "lm", "data"]),
    ("bench", &["core", "stats", "model", "judge", "rag", "store", "data"]),
    ("serve", &["core", "stats", "model", "judge", "rag", "train", "store", "bench", "data", "fetch"]),
];

/// Who alone may link a library: one place for SQL, one for the engine, and `fetch` for the network (`model`
/// speaks to servers by the clients that `fetch` sets up).
const OWNERS: &[(&str, &[&str])] = &[
    ("rusqlite", &["store"]),
    // The command line's is that of its traces (feature `otel`).
    ("reqwest", &["fetch", "model", "cli"]),
    ("candle-core", &["lm"]),
    ("polars-core", &["data"]),
    ("polars-io", &["data"]),
];

fn workspace_arrows() -> (BTreeMap<String, BTreeSet<String>>, BTreeMap<String, BTreeSet<String>>) {
    let metadata = MetadataCommand::new()
        .manifest_path(concat!(env!("CARGO_MANIFEST_DIR"), "/../../Cargo.toml"))
        .no_deps()
        .exec()
        .expect("cargo metadata runs");
    let mut inside = BTreeMap::new();
    let mut outside: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for package in metadata.packages {
        let Some(name) = short_name(&package.name) else { continue };
        let mut arrows = BTreeSet::new();
        for dependency in package.dependencies.iter().filter(|d| d.kind == DependencyKind::Normal) {
            match short_name(&dependency.name) {
                Some(to) => drop(arrows.insert(to)),
                None => drop(outside.entry(dependency.name.clone()).or_default().insert(name.clone())),
            }
        }
        inside.insert(name, arrows);
    }
    (inside, outside)
}

/// `evalign-lm` is `lm`, `evalign` is `cli`; others are not ours.
fn short_name(package: &str) -> Option<String> {
    match package {
        "evalign" => Some("cli".to_owned()),
        other => other.strip_prefix("evalign-").map(str::to_owned),
    }
}

#[test]
fn crates_depend_only_along_the_drawn_arrows() {
    let (arrows, _) = workspace_arrows();
    assert!(arrows.len() >= 9, "expected the whole workspace, got {:?}", arrows.keys());
    let allowed: BTreeMap<&str, BTreeSet<&str>> =
        ALLOWED.iter().map(|(from, to)| (*from, to.iter().copied().collect())).collect();
    let mut wrong = Vec::new();
    for (from, targets) in &arrows {
        if from == "cli" || from == "testkit" {
            continue;
        }
        let Some(allowed) = allowed.get(from.as_str()) else {
            wrong.push(format!("crate {from} is not in the drawing"));
            continue;
        };
        wrong.extend(
            targets.iter().filter(|to| !allowed.contains(to.as_str())).map(|to| format!("{from} -> {to}")),
        );
    }
    assert!(wrong.is_empty(), "arrows that ARCHITECTURE.md does not allow: {wrong:#?}");
}

#[test]
fn heavy_libraries_stay_behind_their_owner() {
    let (_, outside) = workspace_arrows();
    for (library, owners) in OWNERS {
        let users = outside.get(*library).cloned().unwrap_or_default();
        let strangers: Vec<_> = users.iter().filter(|user| !owners.contains(&user.as_str())).collect();
        assert!(strangers.is_empty(), "{library} is used outside {owners:?}: {strangers:?}");
    }
}

#[test]
fn the_drawing_lists_the_same_arrows() {
    let drawing =
        std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../../ARCHITECTURE.md")).unwrap();
    for (from, targets) in ALLOWED {
        let line = match targets {
            [] => format!("{from}: -"),
            targets => format!("{from}: {}", targets.join(", ")),
        };
        assert!(drawing.contains(&line), "ARCHITECTURE.md does not say `{line}`");
    }
}
