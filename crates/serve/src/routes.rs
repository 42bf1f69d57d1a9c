//! What can be asked, by subject. Handlers read, call and write down; they decide nothing.

pub(crate) mod adapters;
pub(crate) mod board;
pub(crate) mod events;
pub(crate) mod files;
pub(crate) mod indexes;
pub(crate) mod once;
pub(crate) mod operations;
pub(crate) mod preferences;
pub(crate) mod retrieval;
pub(crate) mod runs;
pub(crate) mod scoring;
pub(crate) mod training;
pub(crate) mod votes;

use serde::{Deserialize, Serialize};

/// A page of a list. The next one comes after `last_id`.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub(crate) struct List<T> {
    pub(crate) object: &'static str,
    pub(crate) data: Vec<T>,
    pub(crate) first_id: Option<String>,
    pub(crate) last_id: Option<String>,
    pub(crate) has_more: bool,
}

impl<T> List<T> {
    /// From up to `limit` + 1 items: the one too many says that there are more.
    pub(crate) fn page(mut data: Vec<T>, limit: usize, id: impl Fn(&T) -> String) -> Self {
        let has_more = data.len() > limit;
        data.truncate(limit);
        Self {
            object: "list",
            first_id: data.first().map(&id),
            last_id: data.last().map(&id),
            data,
            has_more,
        }
    }

    pub(crate) fn map<U>(self, to: impl Fn(T) -> U) -> List<U> {
        let Self { object, data, first_id, last_id, has_more } = self;
        List { object, data: data.into_iter().map(to).collect(), first_id, last_id, has_more }
    }

    /// All there is.
    pub(crate) fn whole(data: Vec<T>, id: impl Fn(&T) -> String) -> Self {
        let limit = data.len();
        Self::page(data, limit, id)
    }
}

/// Which part of a list.
#[derive(Debug, Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct PageQuery {
    #[param(minimum = 1, maximum = 100)]
    pub(crate) limit: Option<u32>,
    /// `last_id` of the page before.
    pub(crate) after: Option<String>,
}

/// Items of a page where nothing is said.
pub(crate) const DEFAULT_LIMIT: u32 = 20;

/// Most items of a page.
pub(crate) const MOST: u32 = 100;

/// A page's length, or a refusal that names the field.
pub(crate) fn page_length(limit: Option<u32>) -> crate::error::ApiResult<u32> {
    let limit = limit.unwrap_or(DEFAULT_LIMIT);
    if (1..=MOST).contains(&limit) {
        return Ok(limit);
    }
    let message = format!("`limit` is a number from 1 to {MOST}");
    Err(crate::error::ApiError::new(crate::error::Code::InvalidRequest, message).about("limit"))
}
