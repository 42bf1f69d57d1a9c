use std::collections::BTreeMap;

use evalign_core::{
    ChoiceLogLikelihood, Digest, FinishReason, Outcome, Output, Response, RunStatus, SampleRecord, ScoredBy,
    Seconds, Spent, Usage,
};
use evalign_store::{SampleFilter, StoreError};
use serde_json::json;

use crate::common::{TTL, TestClock, block_on, key, memory_dir, new_run, record, score};

#[test]
fn a_run_is_created_once_and_forks_are_new() {
    let (dir, clock) = (memory_dir(), TestClock::default());
    let store = clock.open(dir.path());
    let first = store.create_run(&new_run(1)).unwrap();
    assert!(!first.existed);
    let again = store.create_run(&new_run(1)).unwrap();
    assert_eq!((again.id.clone(), again.existed), (first.id.clone(), true));
    let mut fork = new_run(1);
    fork.fork = true;
    let forked = store.create_run(&fork).unwrap();
    assert!(!forked.existed && forked.id != first.id);
    assert_eq!(store.create_run(&new_run(1)).unwrap().id, first.id);
    assert_ne!(store.create_run(&new_run(2)).unwrap().id, first.id);

    let stored = store.run(&first.id).unwrap();
    assert_eq!(stored.spec, new_run(1).spec);
    assert_eq!(stored.spec_digest, new_run(1).spec.digest());
    assert_eq!(stored.request, new_run(1).request);
    assert_eq!((stored.samples_total, stored.samples_done), (100, 0));
    assert!(store.run(&forked.id).unwrap().fork);
    assert!(matches!(store.run(&"run_00".parse().unwrap()), Err(StoreError::NoSuchRun { .. })));
}

#[test]
fn runs_are_found_by_prefix_and_last() {
    let (dir, clock) = (memory_dir(), TestClock::default());
    let store = clock.open(dir.path());
    assert!(matches!(store.find_run("last"), Err(StoreError::NoSuchRun { .. })));
    let ids: Vec<_> = (0..3).map(|seed| store.create_run(&new_run(seed)).unwrap().id).collect();
    assert_eq!(store.find_run("last").unwrap(), ids[2]);
    for id in &ids {
        assert_eq!(&store.find_run(id.as_str()).unwrap(), id);
        assert_eq!(&store.find_run(&id.as_str()[4..]).unwrap(), id);
    }
    assert!(matches!(store.find_run("run_0"), Err(StoreError::AmbiguousRun { matches: 3, .. })));
    for wrong in ["", "run_", "*", "run_fffff", "latest"] {
        assert!(matches!(store.find_run(wrong), Err(StoreError::NoSuchRun { .. })), "{wrong}");
    }
    let newest_first: Vec<_> = store.runs(2).unwrap().into_iter().map(|run| run.id).collect();
    assert_eq!(newest_first, [ids[2].clone(), ids[1].clone()]);
}

#[test]
fn samples_come_back_whole_in_order_and_filtered() {
    let (dir, clock) = (memory_dir(), TestClock::default());
    let store = clock.open(dir.path());
    let run = store.create_run(&new_run(1)).unwrap().id;
    let lease = store.lease(&run, "test", TTL).unwrap();
    let mut records = Vec::new();
    for doc in (0..700).rev() {
        let outcome = if doc % 3 == 0 { Outcome::Wrong } else { Outcome::Correct };
        let task = if doc % 2 == 0 { "b" } else { "a" };
        records.push(record(key(task, doc, u32::from(doc == 5)), outcome, "\u{0}ü\u{1F600}\"\\"));
    }
    records[0].scores.push(score(Outcome::Truncated));
    store.commit_samples(&lease, &records).unwrap();
    records.sort_by(|a, b| a.key.cmp(&b.key));

    let read = |filter: SampleFilter| -> Vec<_> {
        store.samples(&run, filter).unwrap().collect::<Result<Vec<_>, _>>().unwrap()
    };
    assert_eq!(read(SampleFilter::default()), records);
    let wrong = SampleFilter { outcome: Some(Outcome::Wrong), ..SampleFilter::default() };
    assert!(read(wrong).iter().all(|sample| sample.key.doc % 3 == 0));
    let truncated = SampleFilter { outcome: Some(Outcome::Truncated), ..SampleFilter::default() };
    assert_eq!(read(truncated).len(), 1);
    let page = SampleFilter {
        task: Some("b".to_owned()),
        after: Some(key("b", 10, 0)),
        limit: Some(3),
        ..SampleFilter::default()
    };
    assert_eq!(read(page).iter().map(|sample| sample.key.doc).collect::<Vec<_>>(), [12, 14, 16]);
    assert_eq!(read(SampleFilter { limit: Some(0), ..SampleFilter::default() }).len(), 0);
    assert_eq!(
        store.sample(&run, &key("a", 5, 1)).unwrap().as_ref(),
        records.iter().find(|r| r.key.doc == 5)
    );
    assert_eq!(store.sample(&run, &key("a", 5, 0)).unwrap(), None);
    let stored = store.run(&run).unwrap();
    assert_eq!(stored.samples_done, 700);
    assert_eq!(
        stored.usage,
        Usage {
            prompt_tokens: 7000,
            computed_prompt_tokens: 2800,
            generated_tokens: 700,
            ..Usage::default()
        }
    );
}

#[test]
fn scores_are_read_without_the_rest() {
    let (dir, clock) = (memory_dir(), TestClock::default());
    let store = clock.open(dir.path());
    let run = store.create_run(&new_run(1)).unwrap().id;
    let lease = store.lease(&run, "test", TTL).unwrap();
    let records: Vec<_> = (0..300)
        .map(|n| {
            record(key(if n % 2 == 0 { "a" } else { "b" }, n / 4, (n / 2 % 2) as u32), Outcome::Wrong, "x")
        })
        .collect();
    store.commit_samples(&lease, &records).unwrap();
    let found = store.scores(&run, "b").unwrap();
    let mut expected: Vec<_> = records.iter().filter(|record| record.key.task == "b").collect();
    expected.sort_by(|a, b| a.key.cmp(&b.key));
    assert_eq!(found.len(), 150);
    for (found, record) in found.iter().zip(expected) {
        assert_eq!(
            (&found.key, &found.doc_hash, &found.scores),
            (&record.key, &record.doc_hash, &record.scores)
        );
    }
    assert_eq!(store.scores(&run, "c").unwrap(), []);
}

#[test]
fn a_sample_is_stored_once_and_only_if_it_can_be_read_again() {
    let (dir, clock) = (memory_dir(), TestClock::default());
    let store = clock.open(dir.path());
    let run = store.create_run(&new_run(1)).unwrap().id;
    let lease = store.lease(&run, "test", TTL).unwrap();
    let good = record(key("t", 0, 0), Outcome::Correct, "x");
    block_on(store.commit_sample(&lease, &good)).unwrap();
    let twice = block_on(store.commit_sample(&lease, &record(key("t", 0, 0), Outcome::Wrong, "y")));
    assert!(matches!(twice, Err(StoreError::Record { .. })));
    let mut infinite = record(key("t", 1, 0), Outcome::Correct, "x");
    infinite.output = Some(Output::LogLikelihood {
        choices: vec![ChoiceLogLikelihood { sum: f64::NEG_INFINITY, tokens: 1, greedy: false }],
    });
    let refused = block_on(store.commit_sample(&lease, &infinite)).unwrap_err();
    assert_eq!(refused.to_string(), "sample t[1]: log-likelihood of choice 0 is -inf");
    let huge = record(key("t", u64::MAX, 0), Outcome::Correct, "x");
    assert!(block_on(store.commit_sample(&lease, &huge)).is_err());
    // All or none.
    let import = [record(key("t", 7, 0), Outcome::Correct, "x"), good.clone()];
    assert!(store.commit_samples(&lease, &import).is_err());
    assert_eq!(store.finished(&run).unwrap().into_iter().collect::<Vec<_>>(), [good.key]);
    assert_eq!(store.run(&run).unwrap().samples_done, 1);
}

#[test]
fn events_have_no_gaps_and_replay_from_any_point() {
    let (dir, clock) = (memory_dir(), TestClock::default());
    let store = clock.open(dir.path());
    let run = store.create_run(&new_run(1)).unwrap().id;
    let lease = store.lease(&run, "test", TTL).unwrap();
    store.set_status(&lease, RunStatus::Running).unwrap();
    for doc in 0..20 {
        block_on(store.commit_sample(&lease, &record(key("t", doc, 0), Outcome::Correct, "x"))).unwrap();
    }
    store.save_results(&lease, &json!({"a": 1})).unwrap();
    let all = store.events(&run, 0, 1000).unwrap();
    assert_eq!(all.iter().map(|event| event.id).collect::<Vec<_>>(), (1..=23).collect::<Vec<_>>());
    assert_eq!(all[0].kind, "run.created");
    assert_eq!(all[1].body, json!({"status": "running"}));
    assert_eq!(all[2].body, json!({"task": "t", "doc": 0, "repeat": 0, "outcome": "correct"}));
    for cut in 0..=23 {
        let mut replayed = store.events(&run, 0, cut).unwrap();
        replayed.extend(store.events(&run, u64::from(cut), 1000).unwrap());
        assert_eq!(replayed, all);
    }
}

#[test]
fn results_sessions_and_new_scores_are_kept() {
    let (dir, clock) = (memory_dir(), TestClock::default());
    let store = clock.open(dir.path());
    let run = store.create_run(&new_run(1)).unwrap().id;
    let lease = store.lease(&run, "test", TTL).unwrap();
    let session = Seconds { load: 1.0, prefill: 0.5, decode: 0.25, total: 2.0 };
    store.add_session(&lease, session).unwrap();
    store.add_session(&lease, session).unwrap();
    store.save_results(&lease, &json!({"first": true})).unwrap();
    store.save_results(&lease, &json!({"acc": 0.1})).unwrap();
    store.set_status(&lease, RunStatus::Completed).unwrap();
    let mut sample = record(key("t", 3, 0), Outcome::Wrong, "x");
    block_on(store.commit_sample(&lease, &sample)).unwrap();
    sample.scores = vec![score(Outcome::Correct), score(Outcome::Unparsed)];
    let rules =
        ScoredBy { scorer_version: 9, definitions: BTreeMap::from([("t".to_owned(), Digest::of("t"))]) };
    let scores = vec![(sample.key.clone(), sample.scores.clone())];
    store.replace_scores(&lease, scores, Some(&rules)).unwrap();
    store.save_results(&lease, &json!({"acc": 0.1})).unwrap();
    // All or none: neither the scores nor what they come from.
    let absent = vec![(sample.key.clone(), vec![]), (key("t", 4, 0), vec![])];
    assert!(store.replace_scores(&lease, absent, None).is_err());
    store.release(lease).unwrap();
    drop(store);

    let store = clock.open(dir.path());
    let stored = store.run(&run).unwrap();
    assert_eq!(stored.seconds, Seconds { load: 2.0, prefill: 1.0, decode: 0.5, total: 4.0 });
    assert_eq!(stored.results, Some(json!({"acc": 0.1})));
    assert_eq!(stored.scored_by, Some(rules));
    assert_eq!(stored.status, RunStatus::Completed);
    assert_eq!(store.count_samples(&run, Outcome::Unparsed).unwrap(), 1);
    assert_eq!(store.count_samples(&run, Outcome::Wrong).unwrap(), 0);
    let unparsed = SampleFilter { outcome: Some(Outcome::Unparsed), ..SampleFilter::default() };
    let found: Vec<_> = store.samples(&run, unparsed).unwrap().map(Result::unwrap).collect();
    assert_eq!(found, [sample]);
}

#[test]
fn results_are_never_older_than_what_they_were_computed_from() {
    let (dir, clock) = (memory_dir(), TestClock::default());
    let store = clock.open(dir.path());
    let run = store.create_run(&new_run(1)).unwrap().id;
    let lease = store.lease(&run, "test", TTL).unwrap();
    let stored = || store.run(&run).unwrap().results;
    let save = || store.save_results(&lease, &json!({"acc": 0.5})).unwrap();
    let sample = |doc| record(key("t", doc, 0), Outcome::Correct, "x");

    save();
    block_on(store.commit_sample(&lease, &sample(0))).unwrap();
    assert_eq!(stored(), None, "a sample came after them");
    save();
    store.commit_samples(&lease, &[sample(1), sample(2)]).unwrap();
    assert_eq!(stored(), None, "samples came after them");
    save();
    store.commit_samples(&lease, &[]).unwrap();
    assert!(block_on(store.commit_sample(&lease, &sample(0))).is_err());
    store.set_status(&lease, RunStatus::Completed).unwrap();
    assert!(stored().is_some(), "nothing changed");
    store.set_status(&lease, RunStatus::Running).unwrap();
    assert_eq!(stored(), None, "the run goes on");
    save();
    store.replace_scores(&lease, vec![(key("t", 0, 0), vec![score(Outcome::Wrong)])], None).unwrap();
    assert_eq!(stored(), None, "scores changed");
}

#[test]
fn the_cache_keeps_the_first_response() {
    let (dir, clock) = (memory_dir(), TestClock::default());
    let store = clock.open(dir.path());
    let response = |text: &str| Response {
        output: Output::Text {
            text: text.to_owned(),
            finish: FinishReason::Stop,
            logprobs: None,
            reasoning: None,
        },
        usage: Some(Usage::default()),
        truncated_tokens: 0,
        cached: false,
        latency: None,
    };
    assert_eq!(store.cache_get(&Digest::of("k")).unwrap(), None);
    store.cache_put(&Digest::of("k"), &response("one")).unwrap();
    store.cache_put(&Digest::of("k"), &response("two")).unwrap();
    store.cache_put(&Digest::of("l"), &response("three")).unwrap();
    drop(store);
    let store = clock.open(dir.path());
    assert_eq!(store.cache_get(&Digest::of("k")).unwrap(), Some(response("one")));
    assert_eq!(store.cache_get(&Digest::of("l")).unwrap(), Some(response("three")));
    let together = store.cache_get_all(&["l", "none", "k"].map(Digest::of)).unwrap();
    assert_eq!(together, [Some(response("three")), None, Some(response("one"))]);
}

#[test]
fn what_servers_charge_for_is_summed() {
    let (dir, clock) = (memory_dir(), TestClock::default());
    let store = clock.open(dir.path());
    let run = store.create_run(&new_run(1)).unwrap().id;
    let lease = store.lease(&run, "test", TTL).unwrap();
    let usage = Usage {
        prompt_tokens: 10,
        cached_prompt_tokens: 6,
        generated_tokens: 5,
        reasoning_tokens: 2,
        ..Usage::default()
    };
    let latency = |total_ms| evalign_core::Latency { total_ms, first_token_ms: Some(1.0), attempts: 3 };
    let plain = |doc| record(key("t", doc, 0), Outcome::Correct, "x");
    let paid = |doc, total_ms| SampleRecord {
        usage,
        latency: Some(latency(total_ms)),
        requests: 3,
        cost_usd: Some(0.25),
        ..plain(doc)
    };
    let from_cache = SampleRecord { usage, cost_usd: Some(0.0), ..plain(2) };
    let failed = SampleRecord {
        output: None,
        usage: Usage::default(),
        requests: 5,
        ..record(key("t", 3, 0), Outcome::Error, "x")
    };
    store.commit_samples(&lease, &[paid(1, 7.0), paid(0, 9.0), from_cache, failed]).unwrap();
    let stored = store.run(&run).unwrap();
    assert_eq!((stored.usage.cached_prompt_tokens, stored.usage.reasoning_tokens), (18, 6));
    let sums = Spent { requests: 11, tokens: 30, usd: 0.5 };
    assert_eq!(stored.spent, sums);
    // What became no sample; and nothing is ever taken back.
    let noted = Spent { requests: 15, tokens: 0, usd: 0.75 };
    store.note_spent(&lease, noted).unwrap();
    assert_eq!(store.run(&run).unwrap().spent, Spent { tokens: 30, ..noted });
    store.note_spent(&lease, sums).unwrap();
    assert_eq!(store.run(&run).unwrap().spent.requests, 15);
    assert!(store.note_spent(&lease, Spent { usd: f64::NAN, ..noted }).is_err());
    let spending = store.spending(&run).unwrap();
    assert_eq!(spending.latencies, [latency(9.0), latency(7.0)]);
    assert_eq!(spending.cost_usd, Some(0.5), "what failed has no price");
    // One answer without a price, and the sum is not known.
    store.commit_samples(&lease, &[plain(4)]).unwrap();
    assert_eq!(store.spending(&run).unwrap().cost_usd, None);
    assert_eq!(store.reopen_failed(&lease).unwrap(), 1);
    assert_eq!((store.run(&run).unwrap().samples_done, store.run(&run).unwrap().spent.requests), (4, 15));
}
