//! Blind votes on a page.

use evalign_bench::Votes;
use http::{Method, StatusCode, header};

use crate::common::{Service, small_run};
use crate::pages::{browse, csrf_of, log_in, log_in_with};
use crate::stored::arena;

const HOSTILE: &str = "</pre><script>alert(1)</script>\" onclick=\"x";

fn between<'a>(page: &'a str, before: &str, after: &str) -> &'a str {
    page.split(before).nth(1).unwrap().split(after).next().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_vote_is_blind_counts_once_and_then_names_the_models() {
    let listening = Service::new().listening().await;
    let service = &listening.service;
    let cookie = log_in(service).await;
    let run = service.post("/v1/runs", &small_run()).await.json()["id"].as_str().unwrap().to_owned();
    listening.until(&run, "completed").await;
    let id = arena(&service.store, &run, [HOSTILE, "plain words"]);
    let path = format!("/runs/{id}/vote");
    let page = browse(service, Method::GET, &path, Some(&cookie), "").await.text();
    assert!(page.contains("0 of 2 pairs") && page.contains("plain words"), "{page}");
    assert!(page.contains("&lt;script&gt;") && !page.contains("<script>alert"), "promise 32: {page}");
    assert!(!page.contains("was written by"), "names are hidden: {page}");
    let is_hostile_first = page.find("alert(1)").unwrap() < page.find("plain words").unwrap();
    let (csrf, question) = (csrf_of(&page), between(&page, "name=\"question\" value=\"", "\"").to_owned());
    let form = format!("csrf={csrf}&question={question}&vote=first");
    for (form, status) in [
        ("", StatusCode::FORBIDDEN),
        (&*format!("csrf={}&question={question}&vote=first", "0".repeat(64)), StatusCode::FORBIDDEN),
        (&*format!("csrf={csrf}&question={question}&vote=third"), StatusCode::BAD_REQUEST),
    ] {
        let refused = browse(service, Method::POST, &path, Some(&cookie), form).await;
        assert_eq!(refused.status, status, "{form}");
    }
    let cast = browse(service, Method::POST, &path, Some(&cookie), &form).await;
    assert_eq!(cast.status, StatusCode::SEE_OTHER, "{}", cast.text());
    let next = cast.headers[header::LOCATION].to_str().unwrap().to_owned();
    let told = browse(service, Method::GET, &next, Some(&cookie), "").await.text();
    assert!(
        told.contains("1 of 2 pairs") && told.contains("You preferred <strong>the first</strong>"),
        "{told}"
    );
    let first = if is_hostile_first { "one" } else { "two" };
    assert!(told.contains(&format!("first answer was written by <strong>{first}</strong>")), "{told}");
    // Sent again, nothing changes.
    let again = browse(service, Method::POST, &path, Some(&cookie), &form.replace("first", "second")).await;
    assert_eq!(again.status, StatusCode::SEE_OTHER);
    let votes = Votes::cast(&service.store, &id.parse().unwrap()).unwrap();
    let points: Vec<f64> = votes.into_values().flatten().collect();
    assert_eq!(points, [if is_hostile_first { 1.0 } else { 0.0 }], "a vote for the first that was shown");
    // Names of what was not voted on stay hidden, whatever the address says.
    let other = between(&told, "name=\"question\" value=\"", "\"");
    let guessed = format!("{path}?voted={other}");
    let guessed = browse(service, Method::GET, &guessed, Some(&cookie), "").await.text();
    assert!(!guessed.contains("was written by"), "{guessed}");
    listening.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_may_only_read_does_not_vote_and_other_tenants_see_nothing() {
    let listening = Service::new().listening().await;
    let service = &listening.service;
    let run = service.post("/v1/runs", &small_run()).await.json()["id"].as_str().unwrap().to_owned();
    listening.until(&run, "completed").await;
    let path = format!("/runs/{}/vote", arena(&service.store, &run, ["one", "other"]));
    let reader = log_in_with(service, &service.read).await;
    let page = browse(service, Method::GET, &path, Some(&reader), "").await.text();
    assert!(!page.contains("name=\"vote\""), "{page}");
    let form = format!("csrf={}&question=0-0&vote=first", csrf_of(&page));
    let refused = browse(service, Method::POST, &path, Some(&reader), &form).await;
    assert_eq!(refused.status, StatusCode::FORBIDDEN);
    let other = log_in_with(service, &service.other).await;
    let hidden = browse(service, Method::GET, &path, Some(&other), "").await;
    assert_eq!(hidden.status, StatusCode::NOT_FOUND);
    let none = format!("/runs/{run}/vote");
    let cookie = log_in(service).await;
    let none = browse(service, Method::GET, &none, Some(&cookie), "").await;
    assert_eq!(none.status, StatusCode::BAD_REQUEST, "a run that is no arena: {}", none.text());
    listening.end().await;
}
