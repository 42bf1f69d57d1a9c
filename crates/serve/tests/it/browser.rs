//! The pages in a real browser. Skipped, visibly, where there is none: `EVALIGN_TEST_BROWSER` names one.
//! `EVALIGN_SCREENSHOTS` names a directory for pictures of every page.

mod chromium;

use std::path::PathBuf;

use chromium::Chromium;
use evalign_serve::login_link;
use evalign_testkit::{embedding_model, skipped};
use serde_json::json;

use crate::common::Service;
use crate::pages_diff::two_runs;
use crate::pages_indexes::DOCUMENT;
use crate::stored::{arena, index, training};

/// Narrow as a phone and wide as a desk, by day and by night.
const LOOKS: [(u32, &str); 4] = [(1280, "light"), (500, "light"), (1280, "dark"), (500, "dark")];

struct Site {
    chromium: Chromium,
    place: String,
    pictures: Option<PathBuf>,
}

impl Site {
    /// Opens a page in every look: nothing is wider than the window, every control has a name, the browser complains of
    /// nothing.
    fn check(&mut self, path: &str, shows: &str) {
        self.chromium.open(&format!("{}{path}", self.place));
        let text = self.chromium.text();
        assert!(text.contains(shows), "{path}: {text}");
        for (width, scheme) in LOOKS {
            self.chromium.look(width, scheme);
            let overflow = self.chromium.overflow();
            assert!(overflow <= 0, "{path} at {width} is too wide by {overflow}");
            if let Some(directory) = &self.pictures {
                let name: String =
                    path.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '_' }).collect();
                self.chromium.screenshot(&directory.join(format!("{name:.60}_{width}_{scheme}.png")));
            }
        }
        assert_eq!(self.chromium.nameless_controls(), Vec::<String>::new(), "{path}");
        assert_eq!(self.chromium.complaints(), Vec::<String>::new(), "{path}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_page_works_in_a_browser() {
    let Some(chromium) = tokio::task::block_in_place(Chromium::start) else {
        return skipped("every_page_works_in_a_browser", "no Chromium was found");
    };
    let listening = Service::new().listening().await;
    let service = &listening.service;
    let [a, b] = two_runs(&listening).await;
    let arena = arena(&service.store, &a, ["The first <b>answer</b>.", "Another answer."]);
    let training = training(service, &a);
    let run = json!({"model": "small", "tasks": ["samples_arithmetic", "samples_knowledge"], "limit": 10});
    let run = service.post("/v1/runs", &run).await.json()["id"].as_str().unwrap().to_owned();
    listening.until(&run, "completed").await;
    let embedder = embedding_model("the pages of indexes in a browser");
    let has_index = embedder.is_some();
    if let Some(embedder) = embedder {
        index(service, embedder).await;
    }
    let link = login_link(&service.store, service.run.split('_').nth(1).unwrap()).unwrap();
    let place = format!("http://{}", listening.address);
    let pictures = std::env::var_os("EVALIGN_SCREENSHOTS").map(PathBuf::from);
    let mut site = Site { chromium, place: place.clone(), pictures };
    tokio::task::block_in_place(|| {
        site.check("/login", "Log in");
        site.chromium.open(&format!("{place}{link}"));
        site.chromium.click_through("main button");
        assert!(site.chromium.text().contains("Leaderboard"), "{}", site.chromium.text());
        assert_eq!(site.chromium.complaints(), Vec::<String>::new(), "logging in");
        for (path, shows) in [
            ("/".to_owned(), "may be first"),
            ("/runs".to_owned(), &a[a.len() - 8..]),
            (format!("/runs/{run}"), "completed"),
            (format!("/runs/{a}/samples"), "Share among the choices"),
            (format!("/runs/{a}/samples/samples_knowledge:1:0"), "samples_knowledge 1"),
            (format!("/diff?a={a}&b={b}"), "gained: 1"),
            ("/docs".to_owned(), "/v1/runs"),
            (format!("/runs/{arena}/vote"), "The first <b>answer</b>."),
            ("/training".to_owned(), training.as_str()),
            (format!("/training/{training}"), "<img src=x> norm"),
            ("/indexes".to_owned(), if has_index { "manuals" } else { "There is no index" }),
        ] {
            site.check(&path, shows);
        }
        if has_index {
            site.check("/indexes/manuals", "hand<b>book&.md");
            site.check(&format!("/indexes/manuals/document?name={DOCUMENT}&from=11&to=53"), "alert(1)");
            site.check("/indexes/manuals/ask?question=How+long+does+the+battery+last%3F", "nine hours");
            site.chromium.click_through("figcaption a");
            assert!(site.chromium.text().contains("alert(1)"), "a citation leads to its document");
        }
        site.chromium.open(&format!("{place}/runs/{arena}/vote"));
        // Which answer stands first is drawn from the arena's id, which is another one every time.
        let shown = site.chromium.text();
        let is_one_first = shown.find("The first <b>answer</b>.") < shown.find("Another answer.");
        let [first, second] = if is_one_first { ["one", "two"] } else { ["two", "one"] };
        site.chromium.click_through("button[value=second]");
        let text = site.chromium.text();
        let told = format!("first answer was written by {first}, the second by {second}.");
        assert!(text.contains("1 of 2 pairs") && text.contains(&told), "{text}");
        site.chromium.click_through("button[value=tie]");
        assert!(site.chromium.text().contains("Nothing is left to vote on"), "{}", site.chromium.text());
        assert_eq!(site.chromium.complaints(), Vec::<String>::new(), "voting");
    });
    listening.end().await;
}
