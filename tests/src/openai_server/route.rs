use serde::{Deserialize, Serialize};

/// What was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Route {
    Models,
    Chat,
    Completions,
    Embeddings,
    /// Any path there is not.
    Other,
}

impl Route {
    /// Under `/v1`, as OpenAI has it, and under Azure's `/openai/v1` and `/openai/deployments/NAME`. Anything
    /// else is another address.
    pub(super) fn of(path: &str) -> Self {
        let path = path.trim_end_matches('/');
        let deployment = |path: &str| {
            path.strip_prefix("/openai/deployments/")?.split_once('/').map(|(_, rest)| format!("/{rest}"))
        };
        let rest = path.strip_prefix("/openai").unwrap_or(path).strip_prefix("/v1").map(str::to_owned);
        match rest.or_else(|| deployment(path)).as_deref() {
            Some("/chat/completions") => Self::Chat,
            Some("/completions") => Self::Completions,
            Some("/embeddings") => Self::Embeddings,
            Some(rest) if rest == "/models" || rest.starts_with("/models/") => Self::Models,
            Some(_) | None => Self::Other,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_right_addresses_are_served() {
        for (path, route) in [
            ("/v1/chat/completions", Route::Chat),
            ("/v1/completions/", Route::Completions),
            ("/openai/v1/embeddings", Route::Embeddings),
            ("/openai/deployments/gpt-x/chat/completions", Route::Chat),
            ("/v1/models", Route::Models),
            ("/v1/models/a/b", Route::Models),
            ("/chat/completions", Route::Other),
            ("/v2/chat/completions", Route::Other),
            ("/v1/v1/completions", Route::Other),
            ("/v1/chat/completions/chat/completions", Route::Other),
            ("/openai/chat/completions", Route::Other),
            ("/models", Route::Other),
        ] {
            assert_eq!(Route::of(path), route, "{path}");
        }
    }
}
