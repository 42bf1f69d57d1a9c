//! Indexes, their documents and questions to them; training jobs.

use evalign_testkit::embedding_model;
use http::{Method, StatusCode};

use crate::common::{Service, small_run};
use crate::pages::{browse, log_in, log_in_with};
use crate::stored::{index, training};

/// The name of the indexed document in an address.
pub(crate) const DOCUMENT: &str = "hand%3Cb%3Ebook%26.md";

#[tokio::test(flavor = "multi_thread")]
async fn documents_are_browsed_asked_and_cited_and_stay_text() {
    let test = "documents_are_browsed_asked_and_cited_and_stay_text";
    let Some(embedder) = embedding_model(test) else { return };
    let service = Service::new();
    index(&service, embedder).await;
    let cookie = log_in(&service).await;
    let show = async |path: &str, cookie: &str| browse(&service, Method::GET, path, Some(cookie), "").await;
    let list = show("/indexes", &cookie).await.text();
    assert!(list.contains("href=\"/indexes/manuals\""), "{list}");
    let documents = show("/indexes/manuals", &cookie).await.text();
    assert!(documents.contains("hand&lt;b&gt;book&amp;.md") && documents.contains(DOCUMENT), "{documents}");
    // "The battery of the lamp lasts nine hours." behind the heading of 11 bytes.
    let place = format!("/indexes/manuals/document?name={DOCUMENT}&from=11&to=52");
    let document = show(&place, &cookie).await.text();
    assert!(document.contains("<mark>The battery of the lamp lasts nine hours.</mark>"), "{document}");
    assert!(document.contains("&lt;script&gt;alert(1)") && !document.contains("<script>"), "{document}");
    let ask = "/indexes/manuals/ask?question=How+long+does+the+battery+of+the+lamp+last%3F";
    let answer = show(ask, &cookie).await;
    assert_eq!(answer.status, StatusCode::OK, "{}", answer.text());
    let answer = answer.text();
    assert!(answer.contains("<mark>The battery of the lamp lasts nine hours."), "{answer}");
    assert!(
        answer.contains("rank 1, score") && answer.contains("word “batteri”"),
        "why a hit is there: {answer}"
    );
    assert!(!answer.contains("<script>") && !answer.contains("<b>"), "{answer}");
    for (path, status) in [
        ("/indexes/nothing", StatusCode::NOT_FOUND),
        ("/indexes/nothing/ask?question=x", StatusCode::NOT_FOUND),
        ("/indexes/manuals/document?name=x", StatusCode::NOT_FOUND),
        ("/indexes/manuals/document?name=..%2F..%2Fetc%2Fpasswd", StatusCode::NOT_FOUND),
        ("/indexes/manuals/ask?question=x&limit=0", StatusCode::BAD_REQUEST),
        ("/indexes/manuals/ask?question=x&mode=magic", StatusCode::BAD_REQUEST),
        ("/indexes/manuals/ask?question=x&model=none", StatusCode::NOT_FOUND),
        ("/indexes/manuals/ask", StatusCode::OK),
    ] {
        assert_eq!(show(path, &cookie).await.status, status, "{path}");
    }
    // Who may only read does not make the server work; another tenant sees nothing.
    let reader = log_in_with(&service, &service.read).await;
    assert_eq!(show("/indexes/manuals", &reader).await.status, StatusCode::OK);
    assert_eq!(show(ask, &reader).await.status, StatusCode::FORBIDDEN);
    let other = log_in_with(&service, &service.other).await;
    assert!(!show("/indexes", &other).await.text().contains("manuals"));
    for path in ["/indexes/manuals", ask, &place] {
        assert_eq!(show(path, &other).await.status, StatusCode::NOT_FOUND, "{path}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_training_shows_its_curves_and_alarms_to_its_tenant() {
    let listening = Service::new().listening().await;
    let service = &listening.service;
    let run = service.post("/v1/runs", &small_run()).await.json()["id"].as_str().unwrap().to_owned();
    listening.until(&run, "completed").await;
    let path = format!("/training/{}", training(service, &run));
    let cookie = log_in(service).await;
    let list = browse(service, Method::GET, "/training", Some(&cookie), "").await.text();
    assert!(list.contains(&path) && list.contains("file_&lt;b&gt;"), "{list}");
    let page = browse(service, Method::GET, &path, Some(&cookie), "").await.text();
    for curve in ["Loss", "Rewards", "Margin", "Accuracy", "KL to the reference", "Gradient norm"] {
        assert!(page.contains(&format!("<figcaption>{curve}")), "{curve}: {page}");
    }
    assert!(page.contains("Update 20: &lt;img src=x&gt; norm") && !page.contains("<img"), "{page}");
    let other = log_in_with(service, &service.other).await;
    assert_eq!(browse(service, Method::GET, &path, Some(&other), "").await.status, StatusCode::NOT_FOUND);
    let run = format!("/training/{run}");
    let none = browse(service, Method::GET, &run, Some(&cookie), "").await;
    assert_eq!(none.status, StatusCode::NOT_FOUND, "a run that is no training");
    listening.end().await;
}
