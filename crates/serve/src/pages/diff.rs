//! Two runs on the same documents: what the paired tests show, and which documents changed.

use std::sync::Arc;

use axum::extract::State;
use evalign_bench::{
    Change, ChangeKind, ChangesQuery, CompareOptions, Comparison, RunComparison, changes, compare,
};
use evalign_core::RunId;
use evalign_store::Store;
use http::StatusCode;
use minijinja::context;
use serde::{Deserialize, Serialize};

use super::sample::{MessageView, SampleView};
use super::{Page, given, page, serialized};
use crate::app::App;
use crate::error::{ApiError, ApiResult, Code};
use crate::extract::{Query, Tenanted};
use crate::runs::RunObject;

/// Documents on a page: each is shown twice.
const DOCUMENTS: usize = 10;

/// Runs to choose from.
const CHOICES: u32 = 100;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct DiffPage {
    a: Option<String>,
    b: Option<String>,
    task: Option<String>,
    /// A name of [`ChangeKind`]; without it, everything that changed.
    kind: Option<String>,
    /// Documents to skip.
    from: Option<usize>,
    /// Compare what was measured in different ways all the same.
    mixed: Option<String>,
}

/// Two runs, and what of them is wanted.
struct Wanted {
    a: RunId,
    b: RunId,
    kind: Option<ChangeKind>,
    from: usize,
    query: ChangesQuery,
    options: CompareOptions,
}

#[derive(Serialize)]
struct DiffView {
    a: String,
    b: String,
    comparisons: Vec<ComparisonView>,
    notes: Vec<String>,
    differences: Vec<String>,
    counts: Vec<(&'static str, usize)>,
    documents: Vec<DocumentView>,
    /// Where the next page begins.
    next: Option<usize>,
}

#[derive(Serialize)]
struct ComparisonView {
    task: String,
    metric: String,
    a: String,
    b: String,
    difference: String,
    interval: String,
    n: u64,
    p: String,
    test: &'static str,
    verdict: &'static str,
}

#[derive(Serialize)]
struct DocumentView {
    kind: &'static str,
    metric: String,
    /// Where both were asked the same; else each has its own.
    prompt: Vec<MessageView>,
    a: SampleView,
    b: SampleView,
}

impl ComparisonView {
    fn of(found: &Comparison) -> Self {
        let result = &found.result;
        let p = found.decisive_p();
        Self {
            task: found.task.clone(),
            metric: match found.filter.as_str() {
                "none" => found.metric.clone(),
                filter => format!("{} ({filter})", found.metric),
            },
            a: format!("{:.4}", result.a),
            b: format!("{:.4}", result.b),
            difference: format!("{:+.4}", result.difference),
            interval: result
                .ci95
                .map_or_else(|| "-".to_owned(), |[low, high]| format!("{low:+.4} to {high:+.4}")),
            n: result.n,
            p: p.map_or_else(|| "-".to_owned(), probability),
            test: result.test.name(),
            verdict: match (found.is_shown(), found.is_b_better()) {
                (false, _) => "not shown",
                (true, true) => "B is better",
                (true, false) => "A is better",
            },
        }
    }
}

fn probability(p: f64) -> String {
    if p < 1e-4 { format!("{p:.0e}") } else { format!("{p:.4}") }
}

fn document(store: &Store, wanted: &Wanted, change: &Change) -> ApiResult<Option<DocumentView>> {
    let (a, b) = (store.sample(&wanted.a, &change.a)?, store.sample(&wanted.b, &change.b)?);
    let (Some(a), Some(b)) = (a, b) else { return Ok(None) };
    let (mut a, mut b) = (SampleView::of(&a, &[]), SampleView::of(&b, &[]));
    Ok(Some(DocumentView {
        kind: change.kind.name(),
        metric: change.score_a.metric.clone(),
        prompt: a.same_prompt(&mut b),
        a,
        b,
    }))
}

fn view(store: &Store, wanted: &Wanted) -> ApiResult<DiffView> {
    let RunComparison { comparisons, notes, protocol_differences, .. } =
        compare(store, &wanted.a, &wanted.b, &wanted.options)?;
    let all = changes(store, &wanted.a, &wanted.b, &wanted.query)?;
    let counts = ChangeKind::ALL.map(|kind| (kind.name(), all.count(kind))).to_vec();
    let is_wanted = |change: &&Change| match wanted.kind {
        Some(kind) => change.kind == kind,
        None => change.kind != ChangeKind::Same,
    };
    let listed: Vec<&Change> = all.found.iter().filter(is_wanted).collect();
    let mut documents = Vec::new();
    for change in listed.iter().skip(wanted.from).take(DOCUMENTS) {
        documents.extend(document(store, wanted, change)?);
    }
    let next = wanted.from.saturating_add(DOCUMENTS);
    Ok(DiffView {
        a: wanted.a.to_string(),
        b: wanted.b.to_string(),
        comparisons: comparisons.iter().map(ComparisonView::of).collect(),
        notes,
        differences: protocol_differences.iter().map(ToString::to_string).collect(),
        counts,
        documents,
        next: (next < listed.len()).then_some(next),
    })
}

fn wanted(query: &DiffPage) -> ApiResult<Option<Wanted>> {
    let text = |text: &Option<String>| given(text.clone());
    let (Some(a), Some(b)) = (text(&query.a), text(&query.b)) else { return Ok(None) };
    let run = |id: String| id.parse().map_err(|_| ApiError::not_found("run", &id));
    let kind = match text(&query.kind) {
        None => None,
        Some(name) => {
            Some(ChangeKind::ALL.into_iter().find(|kind| kind.name() == name).ok_or_else(|| {
                ApiError::new(Code::InvalidRequest, "`kind` is none of its values").about("kind")
            })?)
        }
    };
    Ok(Some(Wanted {
        a: run(a)?,
        b: run(b)?,
        kind,
        from: query.from.unwrap_or(0),
        query: ChangesQuery { task: text(&query.task), metric: None },
        options: CompareOptions {
            allow_different_protocols: query.mixed.is_some(),
            ..CompareOptions::default()
        },
    }))
}

pub(super) async fn diff(
    State(app): State<Arc<App>>,
    tenanted: Tenanted,
    Query(query): Query<DiffPage>,
) -> Page {
    let caller = tenanted.caller.clone();
    let wanted = wanted(&query)?;
    let (found, message, runs) = app
        .blocking(move |app| {
            let store = &tenanted.store;
            let runs = store.runs_after(None, CHOICES, None)?;
            let runs =
                runs.iter().map(|run| RunObject::of(app, store, run)).collect::<ApiResult<Vec<_>>>()?;
            let found = wanted.map(|wanted| view(store, &wanted)).transpose();
            // Runs that cannot be compared leave the form, and say why.
            match found {
                Ok(found) => Ok((found, None, runs)),
                Err(error) if error.code == Code::InvalidRequest => Ok((None, Some(error.message), runs)),
                Err(error) => Err(error),
            }
        })
        .await?;
    let kinds = ChangeKind::ALL.map(ChangeKind::name).to_vec();
    let content = context! {
        title => "Two runs", diff => serialized(&found), message, runs => serialized(&runs), kinds,
        a => query.a, b => query.b, task => query.task, kind => query.kind, mixed => query.mixed.is_some(),
    };
    Ok(page(StatusCode::OK, "diff", Some(&caller), content))
}
