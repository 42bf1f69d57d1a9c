//! How clients say what is to be found in documents, wherever they may: what the command line has as options.

use evalign_rag::{Chunk, Expansion, Filter, NamedFusion, NamedWay, SearchChoices, SearchOptions};
use serde::{Deserialize, Serialize};

use crate::error::{ApiError, ApiResult, Code};

/// Hits that are asked for, judged again or looked at for an answer.
const MOST_HITS: usize = 100;

/// Hits of each list that are fused.
const MOST_DEPTH: usize = 1000;

/// Conditions on chunks.
const MOST_FILTERS: usize = 16;

/// How chunks are found. What is absent is as `mode` has it.
#[derive(Clone, Debug, Default, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct SearchWayBody {
    /// By words (`bm25`), by meaning (`dense`), both (`hybrid`), or both and by meaning once more from nearer to the first
    /// hits (`feedback`).
    #[schema(value_type = String, pattern = "^(bm25|dense|hybrid|feedback)$")]
    pub(crate) mode: NamedWay,
    /// How the lists of words and of meaning become one: `rrf`, `min-max` or `dbsf`; absent: `rrf`, and `dbsf` with
    /// `feedback`.
    #[schema(value_type = Option<String>, pattern = "^(rrf|min-max|dbsf)$")]
    fusion: Option<NamedFusion>,
    /// Constant of reciprocal rank fusion: the greater, the less the first ranks stand out. 60 where absent.
    #[schema(minimum = 0)]
    rrf_k: Option<f64>,
    /// What a hit by words counts against one by meaning. 1 where absent.
    #[schema(minimum = 0)]
    bm25_weight: Option<f64>,
    /// Hits of each list that are fused. 100 where absent.
    #[schema(minimum = 1, maximum = 1000)]
    depth: Option<usize>,
    /// Scan all vectors instead of using an approximate index.
    exact: bool,
    /// First hits that `feedback` looks for more like. 5 where absent.
    #[schema(minimum = 1, maximum = 100)]
    feedback_hits: Option<usize>,
    /// What these hits count against the question itself. 0.3 where absent.
    #[schema(minimum = 0)]
    feedback_weight: Option<f64>,
    /// Of an index: only chunks whose fields are so: `kind=markdown`, `page>=3`, `document!=old.md`, `meta.author=Jane Doe`.
    #[schema(max_items = 16)]
    pub(crate) filters: Vec<String>,
    /// Of an index: prefer chunks that differ from those found before. 1 is relevance alone, 0 difference alone.
    #[schema(minimum = 0, maximum = 1)]
    mmr: Option<f64>,
    /// Of an index: let the request's `model` think up other ways to look for it: `multi-query`, `decompose`, `hyde`.
    #[schema(value_type = Vec<String>, max_items = 3)]
    expand: Vec<NamedExpansion>,
}

/// Which chunks of an index are wanted.
pub(crate) struct Wanted {
    pub(crate) options: SearchOptions,
    pub(crate) filter: Filter,
    pub(crate) expansions: Vec<Expansion>,
}

impl SearchWayBody {
    pub(crate) fn of(mode: NamedWay) -> Self {
        Self { mode, ..Self::default() }
    }

    /// So many chunks of an index. `has_model`: there is one that can think up other ways to look for them.
    pub(crate) fn in_index(&self, limit: usize, has_model: bool) -> ApiResult<Wanted> {
        let expansions = NamedExpansion::all(&self.expand, has_model)?;
        let way = self.options(!expansions.is_empty())?;
        let mmr = check_share(self.mmr, "search.mmr")?;
        let options = SearchOptions { limit: check_hits(limit, "limit")?, mmr, ..way };
        Ok(Wanted { options, filter: filter(&self.filters)?, expansions })
    }

    /// In a collection, whose documents have no fields and whose queries are looked for as they stand.
    pub(crate) fn in_collection(&self) -> ApiResult<SearchOptions> {
        for (field, is_said) in [
            ("filters", !self.filters.is_empty()),
            ("mmr", self.mmr.is_some()),
            ("expand", !self.expand.is_empty()),
        ] {
            if is_said {
                return Err(wrong(&format!("search.{field}"), "is for indexes, not for collections"));
            }
        }
        self.options(false)
    }

    /// `expanded`: a question is looked for in several ways.
    fn options(&self, expanded: bool) -> ApiResult<SearchOptions> {
        for (field, number) in [
            ("rrf_k", self.rrf_k),
            ("bm25_weight", self.bm25_weight),
            ("feedback_weight", self.feedback_weight),
        ] {
            if number.is_some_and(|number| !(number.is_finite() && number >= 0.0)) {
                return Err(wrong(&format!("search.{field}"), "is a number of 0 or more"));
            }
        }
        for (field, count, most) in
            [("depth", self.depth, MOST_DEPTH), ("feedback_hits", self.feedback_hits, MOST_HITS)]
        {
            check_count(count.unwrap_or(1), &format!("search.{field}"), most)?;
        }
        let choices = SearchChoices {
            way: self.mode,
            fusion: self.fusion,
            rrf_k: self.rrf_k,
            bm25_weight: self.bm25_weight,
            depth: self.depth,
            exact: self.exact,
            feedback_hits: self.feedback_hits,
            feedback_weight: self.feedback_weight,
        };
        choices.options(expanded).map_err(|error| {
            let field = format!("search.{}", error.option);
            wrong(&field, &format!("{error} (hint: leave it out, or search with {})", error.needed))
        })
    }
}

/// Another way to look for the answer to a question, which a model thinks up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum NamedExpansion {
    MultiQuery,
    Decompose,
    Hyde,
}

impl NamedExpansion {
    /// `has_model`: there is one that can think them up.
    fn all(named: &[Self], has_model: bool) -> ApiResult<Vec<Expansion>> {
        if !named.is_empty() && !has_model {
            return Err(wrong("search.expand", "needs a `model` that thinks them up"));
        }
        if (1..named.len()).any(|place| named[..place].contains(&named[place])) {
            return Err(wrong("search.expand", "names each way once"));
        }
        Ok(named.iter().map(|name| name.expansion()).collect())
    }

    fn expansion(self) -> Expansion {
        match self {
            Self::MultiQuery => Expansion::MultiQuery(Expansion::QUERIES),
            Self::Decompose => Expansion::Decompose(Expansion::QUERIES),
            Self::Hyde => Expansion::Hyde,
        }
    }
}

/// A second look at the first hits.
#[derive(Clone, Debug, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct RerankBody {
    /// A served model that judges them.
    pub(crate) model: String,
    /// Hits that are judged.
    #[serde(default = "twenty")]
    #[schema(minimum = 1, maximum = 100)]
    depth: usize,
}

fn twenty() -> usize {
    20
}

impl RerankBody {
    pub(crate) fn depth(&self) -> ApiResult<usize> {
        check_hits(self.depth, "rerank.depth")
    }
}

/// Conditions on chunks as they are typed: `kind=markdown`, `page>=3`, `document!=old.md`.
fn filter(conditions: &[String]) -> ApiResult<Filter> {
    if conditions.len() > MOST_FILTERS {
        return Err(wrong("search.filters", &format!("are at most {MOST_FILTERS}")));
    }
    Chunk::filters(conditions).map_err(|error| ApiError::from(error).about("search.filters"))
}

/// A number from 0 to 1, where there is one.
pub(crate) fn check_share(share: Option<f64>, field: &str) -> ApiResult<Option<f64>> {
    match share {
        Some(share) if !(0.0..=1.0).contains(&share) => Err(wrong(field, "is a number from 0 to 1")),
        share => Ok(share),
    }
}

pub(crate) fn check_hits(count: usize, field: &str) -> ApiResult<usize> {
    check_count(count, field, MOST_HITS)
}

fn check_count(count: usize, field: &str, most: usize) -> ApiResult<usize> {
    if (1..=most).contains(&count) {
        return Ok(count);
    }
    Err(wrong(field, &format!("is a number from 1 to {most}")))
}

fn wrong(field: &str, is: &str) -> ApiError {
    ApiError::new(Code::InvalidRequest, format!("`{field}` {is}")).about(field)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn options(body: serde_json::Value, expanded: bool) -> Result<SearchOptions, String> {
        let body: SearchWayBody = serde_json::from_value(body).unwrap();
        body.options(expanded).map_err(|error| error.param.unwrap())
    }

    #[test]
    fn what_is_for_indexes_is_refused_where_a_collection_is_searched() {
        for (field, value) in
            [("filters", json!(["kind=text"])), ("mmr", json!(0.5)), ("expand", json!(["hyde"]))]
        {
            let body: SearchWayBody = serde_json::from_value(json!({ field: value })).unwrap();
            let refused = body.in_collection().unwrap_err();
            assert_eq!(refused.param, Some(format!("search.{field}")));
            assert!(body.in_index(10, true).is_ok(), "{field}");
        }
    }

    #[test]
    fn what_is_said_of_a_search_is_refused_by_its_field() {
        assert_eq!(options(json!({}), false), Ok(SearchOptions::recommended()));
        let weighed =
            json!({"mode": "hybrid", "bm25_weight": 0.5, "rrf_k": 10, "depth": 1000, "exact": true});
        let said = options(weighed, false).unwrap();
        assert_eq!((said.bm25_weight, said.depth, said.exact), (0.5, 1000, true));
        for (body, field) in [
            (json!({"depth": 0}), "search.depth"),
            (json!({"depth": 1001}), "search.depth"),
            (json!({"feedback_hits": 101}), "search.feedback_hits"),
            (json!({"mode": "hybrid", "rrf_k": -1}), "search.rrf_k"),
            // It changes nothing.
            (json!({"mode": "bm25", "fusion": "rrf"}), "search.fusion"),
            (json!({"mode": "dense", "bm25_weight": 2}), "search.bm25_weight"),
        ] {
            assert_eq!(options(body.clone(), false), Err(field.to_owned()), "{body}");
        }
        assert!(options(json!({"mode": "bm25", "fusion": "rrf"}), true).is_ok());
    }
}
