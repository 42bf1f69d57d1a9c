use http::StatusCode;

/// One line for each way in which a request fails: what it is called, its type, its status, what it means.
macro_rules! codes {
    ($($variant:ident = $name:literal, $kind:literal, $status:ident, $about:literal;)*) => {
        /// What went wrong with a request. Names are stable: clients decide by them.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub(crate) enum Code {
            $(#[doc = $about] $variant,)*
        }

        impl Code {
            #[cfg(test)]
            pub(crate) const ALL: &'static [Self] = &[$(Self::$variant,)*];

            pub(crate) fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)* }
            }

            pub(crate) fn kind(self) -> &'static str {
                match self { $(Self::$variant => $kind,)* }
            }

            pub(crate) fn status(self) -> StatusCode {
                match self { $(Self::$variant => StatusCode::$status,)* }
            }

            #[cfg(test)]
            pub(crate) fn about(self) -> &'static str {
                match self { $(Self::$variant => $about,)* }
            }
        }
    };
}

codes! {
    InvalidRequest = "invalid_request", "invalid_request_error", BAD_REQUEST, "The request makes no sense as it is; `param` names the field.";
    UnknownTask = "unknown_task", "invalid_request_error", BAD_REQUEST, "No task or group has this name.";
    ContextLength = "context_length_exceeded", "invalid_request_error", BAD_REQUEST, "Prompt and answer do not fit into the model's context.";
    Unauthenticated = "invalid_api_key", "authentication_error", UNAUTHORIZED, "No key, or one that is unknown, revoked or expired.";
    Forbidden = "insufficient_scope", "permission_error", FORBIDDEN, "The key's scope does not cover this.";
    CrossSite = "csrf_token_invalid", "permission_error", FORBIDDEN, "A form without the token of its session.";
    NotFound = "not_found", "invalid_request_error", NOT_FOUND, "There is nothing here, or it belongs to another tenant.";
    ModelNotFound = "model_not_found", "invalid_request_error", NOT_FOUND, "No model is served under this name.";
    MethodNotAllowed = "method_not_allowed", "invalid_request_error", METHOD_NOT_ALLOWED, "The path is right, the method is not.";
    Timeout = "request_timeout", "invalid_request_error", REQUEST_TIMEOUT, "The body did not come in time.";
    RunActive = "run_active", "conflict_error", CONFLICT, "The run is queued or being worked on.";
    RunFinished = "run_finished", "conflict_error", CONFLICT, "The run is finished: there is nothing to cancel or resume.";
    SpecChanged = "spec_changed", "conflict_error", CONFLICT, "What would be run now is not what was started; start a new run.";
    IndexExists = "index_exists", "conflict_error", CONFLICT, "There is an index of this name already.";
    IdempotencyRunning = "idempotency_key_in_use", "conflict_error", CONFLICT, "The first request with this Idempotency-Key is still being answered.";
    TooLarge = "body_too_large", "invalid_request_error", PAYLOAD_TOO_LARGE, "The body, or all files together, exceed what is allowed.";
    UnsupportedMedia = "unsupported_media_type", "invalid_request_error", UNSUPPORTED_MEDIA_TYPE, "A JSON body needs `content-type: application/json`.";
    IdempotencyDiffers = "idempotency_key_reused", "invalid_request_error", UNPROCESSABLE_ENTITY, "This Idempotency-Key was used for another request.";
    DatasetUnavailable = "dataset_unavailable", "invalid_request_error", UNPROCESSABLE_ENTITY, "The task's dataset is not on this server.";
    BudgetExhausted = "budget_exhausted", "insufficient_quota", TOO_MANY_REQUESTS, "What may be spent is spent.";
    QuotaUsed = "insufficient_quota", "insufficient_quota", TOO_MANY_REQUESTS, "The key's quota of the day is used up; `Retry-After` says when the next day begins.";
    RateLimited = "rate_limit_exceeded", "rate_limit_error", TOO_MANY_REQUESTS, "Too many requests; `Retry-After` says when to come back.";
    QueueFull = "queue_full", "rate_limit_error", TOO_MANY_REQUESTS, "Too much of this tenant waits already.";
    Internal = "internal_error", "server_error", INTERNAL_SERVER_ERROR, "A fault of the server; `x-request-id` finds it in the log.";
    Unavailable = "unavailable", "server_error", SERVICE_UNAVAILABLE, "Busy, starting or ending, or a disk that is full; `Retry-After` says when to come back.";
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The table in docs/service.md is this one.
    #[test]
    fn every_code_is_documented() {
        let page = include_str!("../../../../docs/service.md");
        for code in Code::ALL {
            let line = format!("| {} | `{}` | {} |", code.status().as_u16(), code.name(), code.about());
            assert!(page.contains(&line), "docs/service.md lacks\n{line}");
        }
    }
}
