use super::*;
use crate::error::TransportFailure;
use crate::limit::tests::{refusal, response};

fn choice(sum: f64, attempts: u32, tokens: Option<u64>) -> Response {
    let choices = vec![ChoiceLogLikelihood { sum, tokens: 1, greedy: false }];
    Response {
        output: Output::LogLikelihood { choices },
        usage: tokens.map(|prompt_tokens| Usage { prompt_tokens, ..Usage::default() }),
        latency: Some(Latency { total_ms: -sum, first_token_ms: None, attempts }),
        ..response()
    }
}

#[test]
fn answers_are_joined_in_their_order() {
    let parts = vec![Ok(choice(-3.0, 1, Some(10))), Ok(choice(-7.0, 3, Some(20)))];
    let whole = join(parts).unwrap();
    let Output::LogLikelihood { choices } = &whole.output else { panic!("{whole:?}") };
    assert_eq!(choices.iter().map(|choice| choice.sum).collect::<Vec<_>>(), [-3.0, -7.0]);
    assert_eq!(whole.usage.unwrap().prompt_tokens, 30);
    let latency = whole.latency.unwrap();
    assert_eq!((latency.total_ms, latency.attempts), (7.0, 4));
    // One that is not counted, and the sum is not known.
    assert_eq!(join(vec![Ok(choice(-1.0, 1, Some(1))), Ok(choice(-1.0, 1, None))]).unwrap().usage, None);
    // An answer of another kind is none.
    assert!(join(vec![Ok(response()), Ok(choice(-1.0, 1, None))]).is_err());
}

#[test]
fn one_failure_is_everybodys_and_what_stops_all_goes_first() {
    let gave_up = ModelError::GaveUp { attempts: 3, last: Arc::new(refusal(503, None)), gone: false };
    let error = join(vec![Ok(choice(-1.0, 2, None)), Err(gave_up.clone()), Ok(choice(-1.0, 1, None))]);
    let error = error.unwrap_err();
    assert_eq!((error.kind(), error.attempts()), (ErrorKind::Retryable, 6));
    assert!(error.to_string().contains("3 attempts") && error.to_string().contains("one of 3"), "{error}");
    let broke = ModelError::BudgetExhausted("6 of 6 requests are made".to_owned());
    let error = join(vec![Err(gave_up), Ok(choice(-1.0, 1, None)), Err(broke)]).unwrap_err();
    assert!(matches!(error, ModelError::BudgetExhausted(_)), "{error}");
    let permanent = ModelError::Transport {
        server: "s".to_owned(),
        failure: TransportFailure::TooLarge,
        detail: "too long".to_owned(),
    };
    let error = join(vec![Err(permanent), Ok(choice(-1.0, 1, None))]).unwrap_err();
    assert_eq!((error.kind(), error.attempts()), (ErrorKind::Permanent, 2));
}
