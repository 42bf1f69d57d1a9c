use evalign_core::{GenerateParams, SampleKey};

use super::*;

/// Whoever is answered when the engine panics hears that it is over; the next one is answered as ever.
#[tokio::test]
async fn the_engine_outlives_a_panic() {
    let dir = tempfile::tempdir().unwrap();
    evalign_testkit::write_tiny_model(dir.path(), 200).unwrap();
    let model = Local::load(&"local/tiny".parse().unwrap(), dir.path(), &LocalOptions::default()).unwrap();
    model.jobs.send(Job::Panic).unwrap();
    let params = GenerateParams { max_tokens: 3, ..GenerateParams::default() };
    let request = Request {
        key: SampleKey { task: "t".to_owned(), doc: 0, repeat: 0 },
        kind: RequestKind::Generate { prompt: Prompt::Text("t1 t2".to_owned()), params },
    };
    let (_, answer) = model.submit(vec![request]).next().await.unwrap();
    answer.unwrap();
}

/// What a run took is read off when its last answer is there, also while others are still being written for.
#[tokio::test]
async fn time_is_booked_before_the_answer_it_was_spent_on() {
    let dir = tempfile::tempdir().unwrap();
    evalign_testkit::write_tiny_model(dir.path(), 200).unwrap();
    let model = Local::load(&"local/tiny".parse().unwrap(), dir.path(), &LocalOptions::default()).unwrap();
    let request = |max_tokens| Request {
        key: SampleKey { task: "t".to_owned(), doc: 0, repeat: 0 },
        kind: RequestKind::Generate {
            prompt: Prompt::Text("t1 t2".to_owned()),
            params: GenerateParams { max_tokens, ..GenerateParams::default() },
        },
    };
    let mut replies = model.submit(vec![request(2), request(20)]);
    replies.next().await.unwrap().1.unwrap();
    let first = model.timing();
    assert!(first.prefill > 0.0 && first.decode > 0.0, "{first:?}");
    while let Some((_, answer)) = replies.next().await {
        answer.unwrap();
    }
    let all = model.timing();
    assert!(all.decode >= first.decode && all.total > 0.0, "{all:?}");
    let mut later = model.submit(vec![request(1)]);
    later.next().await.unwrap().1.unwrap();
    assert!(model.timing().total > all.total);
}
