//! The preference pairs that a run made, with their margins and where they come from.

use std::sync::Arc;

use axum::extract::State;
use evalign_bench::{BuiltPair, Filters, PairsReport};
use evalign_core::Prompt;
use http::StatusCode;
use minijinja::context;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::sample::parts_of;
use super::{Page, given, page, serialized};
use crate::app::App;
use crate::error::{ApiError, ApiResult, Code};
use crate::extract::{Query, RunPath, Tenanted};
use crate::preferences::KnownPairs;

/// Pairs on a page.
const PAIRS: usize = 20;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct PairsPage {
    min_margin: Option<String>,
    min_probability: Option<String>,
    agreed: Option<String>,
    /// `train` or `held_out`.
    part: Option<String>,
    strategy: Option<String>,
    /// Only pairs with this text in prompt or answers.
    text: Option<String>,
    /// `margin`: the widest first.
    order: Option<String>,
    /// Pairs to skip.
    from: Option<usize>,
}

#[derive(Serialize)]
struct PairView {
    prompt: Vec<(&'static str, String)>,
    chosen: Vec<(&'static str, String)>,
    rejected: Vec<(&'static str, String)>,
    is_held_out: bool,
    margin: Option<f64>,
    /// How far it reaches between the least and the widest margin of the page's pairs, in percent.
    margin_share: Option<f64>,
    strategy: Option<String>,
    /// Everything else that is known of where it comes from.
    origin: Vec<(String, String)>,
}

/// Columns that stand in places of their own.
const SHOWN_APART: [&str; 2] = ["margin", "strategy"];

impl PairView {
    fn of(is_held_out: bool, pair: &BuiltPair, widest: f64) -> Self {
        let texts = pair.example.texts();
        let text = |wanted: &str| {
            let found: Option<&Prompt> =
                texts.iter().find(|(name, _)| *name == wanted).map(|(_, text)| *text);
            let parts = found.map(parts_of).unwrap_or_default();
            parts.into_iter().map(|(role, text)| (role, text.to_owned())).collect()
        };
        let margin = margin(pair);
        let origin = pair
            .origin
            .iter()
            .filter(|(name, value)| !value.is_null() && !SHOWN_APART.contains(&name.as_str()));
        let shown = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        Self {
            prompt: text("prompt"),
            chosen: text("chosen"),
            rejected: text("rejected"),
            is_held_out,
            margin,
            margin_share: margin
                .map(|margin| 100.0 * (margin / widest.max(f64::MIN_POSITIVE)).clamp(0.0, 1.0)),
            strategy: strategy(pair).map(str::to_owned),
            origin: origin.map(|(name, value)| (name.clone(), shown(value))).collect(),
        }
    }
}

fn margin(pair: &BuiltPair) -> Option<f64> {
    pair.origin.get("margin").and_then(Value::as_f64)
}

fn strategy(pair: &BuiltPair) -> Option<&str> {
    pair.origin.get("strategy").and_then(Value::as_str)
}

fn contains(pair: &BuiltPair, text: &str) -> bool {
    let texts = pair.example.texts();
    texts.iter().flat_map(|(_, prompt)| parts_of(prompt)).any(|(_, part)| part.contains(text))
}

fn share(text: Option<&String>, field: &str, absent: f64) -> ApiResult<f64> {
    let Some(text) = text.filter(|text| !text.is_empty()) else { return Ok(absent) };
    let number: Option<f64> = text.parse().ok().filter(|number| (0.0..=1.0).contains(number));
    number.ok_or_else(|| {
        ApiError::new(Code::InvalidRequest, format!("`{field}` is a number from 0 to 1")).about(field)
    })
}

/// What a page shows of all pairs.
#[derive(Serialize)]
struct Shown<'a> {
    pairs: Vec<PairView>,
    found: usize,
    strategies: Vec<String>,
    report: &'a PairsReport,
    next: Option<usize>,
}

fn shown<'a>((pairs, report): &'a KnownPairs, query: &PairsPage) -> Shown<'a> {
    let mut strategies: Vec<String> =
        pairs.iter().filter_map(|(_, pair)| strategy(pair)).map(str::to_owned).collect();
    strategies.sort();
    strategies.dedup();
    let (part, text) = (given(query.part.clone()), given(query.text.clone()));
    let wanted_strategy = given(query.strategy.clone());
    let is_wanted = |(is_held_out, pair): &&(bool, BuiltPair)| {
        part.as_deref().is_none_or(|part| (part == "held_out") == *is_held_out)
            && wanted_strategy.as_deref().is_none_or(|wanted| strategy(pair) == Some(wanted))
            && text.as_deref().is_none_or(|text| contains(pair, text))
    };
    let mut pairs: Vec<&(bool, BuiltPair)> = pairs.iter().filter(is_wanted).collect();
    if query.order.as_deref() == Some("margin") {
        let key = |pair: &BuiltPair| margin(pair).unwrap_or(f64::NEG_INFINITY);
        pairs.sort_by(|(_, a), (_, b)| key(b).total_cmp(&key(a)));
    }
    let widest = pairs.iter().filter_map(|(_, pair)| margin(pair)).fold(0.0, f64::max);
    let from = query.from.unwrap_or(0);
    let next = from.saturating_add(PAIRS);
    let view = |(is_held_out, pair): &&(bool, BuiltPair)| PairView::of(*is_held_out, pair, widest);
    Shown {
        pairs: pairs.iter().skip(from).take(PAIRS).map(view).collect(),
        found: pairs.len(),
        strategies,
        report,
        next: (next < pairs.len()).then_some(next),
    }
}

pub(super) async fn pairs(
    State(app): State<Arc<App>>,
    tenanted: Tenanted,
    RunPath(id): RunPath,
    Query(query): Query<PairsPage>,
) -> Page {
    let caller = tenanted.caller.clone();
    let filters = Filters {
        min_margin: share(query.min_margin.as_ref(), "min_margin", 0.0)?,
        min_probability: share(query.min_probability.as_ref(), "min_probability", 0.5)?,
        agreed: query.agreed.is_some(),
        ..Filters::default()
    };
    let run = id.to_string();
    let pairs = app.remembered_pairs(&tenanted.store, &id, filters).await?;
    let show = move |_: &App| Ok((serialized(shown(&pairs, &query)), query));
    let (shown, query) = app.blocking(show).await?;
    let PairsPage { min_margin, min_probability, agreed, part, strategy, text, order, .. } = query;
    let content = context! {
        title => "Preference pairs", run, shown, min_margin, min_probability,
        agreed => agreed.is_some(), part, strategy, text, order,
    };
    Ok(page(StatusCode::OK, "pairs", Some(&caller), content))
}

#[cfg(test)]
mod tests {
    use evalign_data::Example;
    use serde_json::json;

    use super::*;
    use crate::pages::templates;

    fn pair(prompt: &str, margin: f64, strategy: &str) -> BuiltPair {
        let text = |text: &str| Prompt::Text(text.to_owned());
        let (prompt, chosen, rejected) = (text(prompt), text("yes<script>"), text("no\" onclick=\"x"));
        let origin = json!({"margin": margin, "strategy": strategy, "judge": "<img src=x>", "round": null});
        BuiltPair {
            example: Example::Preference { prompt, chosen, rejected },
            origin: origin.as_object().unwrap().clone(),
        }
    }

    fn query(fields: Value) -> PairsPage {
        serde_json::from_value(fields).unwrap()
    }

    fn some() -> KnownPairs {
        let pairs = vec![
            (false, pair("first", 0.25, "best-vs-worst")),
            (true, pair("second", 0.5, "best-vs-worst")),
            (false, pair("third", 0.125, "all-pairs")),
        ];
        (pairs, PairsReport::default())
    }

    #[test]
    fn filters_leave_what_they_say_and_order_by_margin_puts_the_widest_first() {
        let found = |fields: Value| -> Vec<f64> {
            let pairs = some();
            let shown = shown(&pairs, &query(fields));
            assert_eq!(shown.strategies, ["all-pairs", "best-vs-worst"], "of all pairs");
            shown.pairs.iter().filter_map(|pair| pair.margin).collect()
        };
        assert_eq!(found(json!({})), [0.25, 0.5, 0.125]);
        assert_eq!(found(json!({"part": "held_out"})), [0.5]);
        assert_eq!(found(json!({"part": "train", "strategy": "all-pairs"})), [0.125]);
        assert_eq!(found(json!({"text": "second"})), [0.5]);
        assert_eq!(found(json!({"order": "margin"})), [0.5, 0.25, 0.125]);
        assert_eq!(found(json!({"from": 2})), [0.125]);
        assert_eq!(found(json!({"from": u64::MAX})), [0.0; 0]);
        let bad = share(Some(&"1.5".to_owned()), "min_margin", 0.0).unwrap_err();
        assert_eq!((bad.code, bad.param.as_deref()), (Code::InvalidRequest, Some("min_margin")));
    }

    #[test]
    fn promise_32_pairs_are_text() {
        let pairs = some();
        let shown = shown(&pairs, &query(json!({})));
        let none = None::<&str>;
        let content = context! {
            title => "t", csrf => none, tenant => none, run => "run_0", shown => serialized(&shown),
            min_margin => "\"><b>", min_probability => none, agreed => false, part => none, strategy => none,
            text => none, order => none,
        };
        let page = templates().get_template("pairs").unwrap().render(content).unwrap();
        for hostile in ["<script>", "<img", "<b>", "\" onclick"] {
            assert!(!page.contains(hostile), "{hostile}: {page}");
        }
        assert!(page.contains("margin 0.25") && page.contains("held out"), "{page}");
    }
}
