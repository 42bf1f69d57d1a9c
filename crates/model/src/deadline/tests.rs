use tokio::time::Instant;

use super::*;
use crate::error::ErrorKind;
use crate::limit::tests::{request, response};

/// Answers after a time, or never.
struct After(Option<Duration>);

impl Call for After {
    fn call_aloud<'a>(
        &'a self,
        _: &'a Request,
        _: Listener<'a>,
    ) -> BoxFuture<'a, Result<Response, ModelError>> {
        Box::pin(async move {
            match self.0 {
                Some(time) => tokio::time::sleep(time).await,
                None => std::future::pending().await,
            }
            Ok(response())
        })
    }
}

fn ask(call: After) -> (Result<Response, ModelError>, Duration) {
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
    runtime.block_on(async {
        let began = Instant::now();
        let call = Deadlined::new(call, "http://test", Duration::from_secs(2));
        let result = call.call(&request(0)).await;
        (result, began.elapsed())
    })
}

#[test]
fn promise_12_a_stalled_server_ends_in_an_error() {
    let (result, took) = ask(After(None));
    let error = result.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Retryable);
    assert_eq!(error.to_string(), "http://test: no complete answer within 2 s");
    assert!((2000..2010).contains(&took.as_millis()), "{took:?}");
}

#[test]
fn an_answer_in_time_is_passed_on() {
    let (result, took) = ask(After(Some(Duration::from_millis(300))));
    assert_eq!(result.unwrap(), response());
    assert!((300..310).contains(&took.as_millis()), "{took:?}");
}
