//! Samples and differences of runs on pages.

use evalign_core::Outcome;
use http::{Method, StatusCode};
use serde_json::json;

use crate::common::{Listening, Service, small_run};
use crate::pages::{browse, log_in};
use crate::stored::rescore;

/// A finished run and a second one, in which the first document is right and the second is wrong, where the first run
/// has it the other way round and leaves the third undecided.
pub(crate) async fn two_runs(listening: &Listening) -> [String; 2] {
    let service = &listening.service;
    let mut body = small_run();
    let first = service.post("/v1/runs", &body).await.json()["id"].as_str().unwrap().to_owned();
    body["fork"] = json!(true);
    let second = service.post("/v1/runs", &body).await.json()["id"].as_str().unwrap().to_owned();
    for (run, right) in [(&first, 1), (&second, 0)] {
        listening.until(run, "completed").await;
        rescore(&service.store, run, |record| {
            for score in &mut record.scores {
                let is_right = record.key.doc == right;
                score.outcome = if is_right { Outcome::Correct } else { Outcome::Wrong };
                score.value = Some(f64::from(u8::from(is_right)));
                if record.key.doc == 2 && right == 1 {
                    (score.outcome, score.value) = (Outcome::Unparsed, None);
                }
            }
        });
    }
    [first, second]
}

#[tokio::test(flavor = "multi_thread")]
async fn a_difference_shows_its_test_and_the_documents_behind_it() {
    let listening = Service::new().listening().await;
    let service = &listening.service;
    let cookie = log_in(service).await;
    let [a, b] = two_runs(&listening).await;
    let show = async |query: &str| {
        let path = format!("/diff?a={a}&b={b}{query}");
        let page = browse(service, Method::GET, &path, Some(&cookie), "").await;
        assert_eq!(page.status, StatusCode::OK, "{query}: {}", page.text());
        page.text()
    };
    let all = show("").await;
    for wanted in ["gained: 1, lost: 1, undecided: 1, same: 0", "McNemar, exact", "not shown"] {
        assert!(all.contains(wanted), "{wanted}: {all}");
    }
    for (kind, doc) in [("gained", 0), ("lost", 1), ("undecided", 2)] {
        let page = show(&format!("&kind={kind}")).await;
        assert!(page.contains(&format!("samples_knowledge {doc}: {kind}")), "{page}");
        assert_eq!(page.matches("<article").count(), 1, "{kind}");
    }
    assert!(show("&kind=same").await.contains("There is no such document"));
    assert!(show("&from=999999").await.contains("There is no such document"));
    let own = browse(service, Method::GET, &format!("/diff?a={a}&b={a}"), Some(&cookie), "").await;
    assert_eq!(own.status, StatusCode::OK);
    assert!(own.text().contains("is compared with itself"), "{}", own.text());
    for (query, status) in [
        (format!("a={a}&b={b}&kind=x"), StatusCode::BAD_REQUEST),
        (format!("a={a}&b={b}&from=-1"), StatusCode::BAD_REQUEST),
        (format!("a={a}&b=run_0"), StatusCode::NOT_FOUND),
        ("a=%3Cscript%3E&b=x".to_owned(), StatusCode::NOT_FOUND),
    ] {
        let page = browse(service, Method::GET, &format!("/diff?{query}"), Some(&cookie), "").await;
        assert_eq!(page.status, status, "{query}");
        assert!(!page.text().contains("<script>"));
    }
    listening.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sample_shows_what_each_choice_weighs() {
    let script = json!({"seed": 1, "rules": [{"match": "", "text": "a", "log_likelihoods": [-1.0, -2.0, -1.0, -9.0]}]});
    let listening = Service::with(&script, evalign_serve::Layer::default()).listening().await;
    let service = &listening.service;
    let cookie = log_in(service).await;
    let body = json!({"model": "small", "tasks": ["samples_knowledge"], "limit": 2, "shots": 3});
    let run = service.post("/v1/runs", &body).await.json()["id"].as_str().unwrap().to_owned();
    listening.until(&run, "completed").await;
    let page = browse(service, Method::GET, &format!("/runs/{run}/samples"), Some(&cookie), "").await.text();
    // exp(0) / (2 exp(0) + exp(-1) + exp(-8)).
    assert!(page.contains("<span>42.2 %</span>") && page.contains("<span>15.5 %</span>"), "{page}");
    assert!(page.contains("characters that these prompts share"), "worked examples are folded: {page}");
    let one = format!("/runs/{run}/samples/samples_knowledge:1:0");
    let one = browse(service, Method::GET, &one, Some(&cookie), "").await.text();
    assert_eq!(one.matches("<article").count(), 1);
    assert!(one.contains("characters that these prompts share"), "also on a page of its own");
    listening.end().await;
}
