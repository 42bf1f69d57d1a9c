use evalign_core::{GenerateParams, Prompt, Request, RequestKind, SampleKey, Tenant};
use evalign_model::{LoadOptions, Update};
use evalign_store::KeyScope;
use serde_json::json;

use super::*;
use crate::credentials::mint_key;
use crate::settings::{Layer, settings};

const NOON: u64 = 20_000 * DAY_MS + DAY_MS / 2;

fn store() -> (tempfile::TempDir, Store) {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    (dir, store)
}

fn ask(daily: &DailyUse, limits: &KeyLimits, may_ask: bool, now_ms: u64) -> ApiResult<()> {
    daily.request(("k", limits), may_ask, now_ms, &AuditEntry::default())
}

#[test]
fn a_day_has_so_many_requests_and_the_next_one_as_many() {
    let (_dir, store) = store();
    let daily = DailyUse::new(store.clone());
    let limits = KeyLimits { requests_per_day: Some(2), ..KeyLimits::default() };
    assert!((0..2).all(|_| ask(&daily, &limits, false, NOON).is_ok()));
    let refused = ask(&daily, &limits, false, NOON).unwrap_err();
    assert_eq!((refused.code, refused.retry_after_secs), (Code::QuotaUsed, Some(12 * 60 * 60)));
    let last = ask(&daily, &limits, false, NOON + DAY_MS / 2 - 1).unwrap_err();
    assert_eq!(last.retry_after_secs, Some(1));
    assert!(ask(&daily, &limits, false, NOON + DAY_MS / 2).is_ok());
    // A clock that goes back finds the day as it was.
    assert!(ask(&daily, &limits, false, NOON).is_err());
    assert!(ask(&daily, &limits, false, NOON + DAY_MS).is_ok());
    assert!(ask(&daily, &limits, false, NOON + DAY_MS).is_err());
    // So does another server. Refused requests do not count.
    daily.save().unwrap();
    assert_eq!(store.key_use("k", 20_000).unwrap().requests, 2);
    assert!(ask(&DailyUse::new(store), &limits, false, NOON).is_err());
}

#[test]
fn without_tokens_nothing_is_asked_of_models_and_the_rest_goes_on() {
    let (_dir, store) = store();
    let daily = DailyUse::new(store.clone());
    let limits = KeyLimits { tokens_per_day: Some(100), ..KeyLimits::default() };
    assert!(daily.tokens("k", &limits, 99, NOON).unwrap());
    assert!(ask(&daily, &limits, true, NOON).is_ok());
    assert!(!daily.tokens("k", &limits, 50, NOON).unwrap(), "what is under way is answered, and counts");
    assert!(ask(&daily, &limits, true, NOON).is_err() && ask(&daily, &limits, true, NOON).is_err());
    assert!(ask(&daily, &limits, false, NOON).is_ok() && ask(&daily, &limits, true, NOON).is_err());
    let told = || {
        let entries = store.audit_entries(None, 10).unwrap().into_iter();
        entries.map(|entry| (entry.action, entry.target)).collect::<Vec<_>>()
    };
    daily.save().unwrap();
    let used_up = ("quota tokens_per_day".to_owned(), "k".to_owned());
    assert_eq!(told(), std::slice::from_ref(&used_up), "once");
    let unlimited = KeyLimits::default();
    assert!(
        daily.tokens("k", &unlimited, 1 << 60, NOON).unwrap() && ask(&daily, &unlimited, true, NOON).is_ok()
    );
    assert!(ask(&daily, &limits, true, NOON).is_err());
    daily.save().unwrap();
    daily.save().unwrap();
    assert_eq!(store.key_use("k", 20_000).unwrap(), KeyUse { requests: 3, tokens: 149 + (1 << 60) });
    assert_eq!(told(), [used_up.clone(), used_up], "once more after a quota that was raised");
}

/// Who asks on a new day does not wait for the writer: what was counted of the day before is written with the rest.
#[test]
fn a_new_day_begins_without_writing() {
    let (_dir, store) = store();
    let daily = DailyUse::new(store.clone());
    let limits = KeyLimits { requests_per_day: Some(1), ..KeyLimits::default() };
    assert!(ask(&daily, &limits, false, NOON).is_ok());
    assert!(ask(&daily, &limits, false, NOON + DAY_MS).is_ok());
    let known = || [20_000, 20_001].map(|day| store.key_use("k", day).unwrap().requests);
    assert_eq!(known(), [0, 0]);
    daily.save().unwrap();
    assert_eq!(known(), [1, 1]);
    assert_eq!(daily.lock().len(), 1, "the day that is over is forgotten");
    assert!(
        ask(&daily, &limits, false, NOON).is_err() && ask(&daily, &limits, false, NOON + DAY_MS).is_err()
    );
}

/// A prompt and an answer that do not fit the context together are not kept by caches, and count all the same; so does
/// an answer that is left before its end.
#[tokio::test]
async fn answers_count_that_no_cache_would_keep() {
    let (home, store) = store();
    let script = home.path().join("model.json");
    let rule = json!({"match": "one", "text": "four five six"});
    fs_err::write(&script, json!({"context_length": 5, "rules": [rule]}).to_string()).unwrap();
    let (settings, _) = settings(home.path(), None, &|_| None, Layer::default()).unwrap();
    let app = App::new(home.path(), store.clone(), settings).unwrap();
    let key = mint_key(Tenant::default(), "metered", KeyScope::Run, None).unwrap();
    store.create_key(&key.record).unwrap();
    let store = store.on_behalf_of(&key.record.id);
    let model = format!("scripted/{}", script.display()).parse().unwrap();
    let model = evalign_model::load(&model, &LoadOptions::default(), &evalign_fetch::silent).unwrap();
    let model = app.metered(&store, model);
    let ask = || {
        let params = GenerateParams { max_tokens: 100, ..GenerateParams::default() };
        let kind = RequestKind::Generate { prompt: Prompt::Text("one two three".to_owned()), params };
        model.submit(vec![Request { key: SampleKey { task: "t".to_owned(), doc: 0, repeat: 0 }, kind }])
    };
    let today = now_ms() / DAY_MS;
    let used = || {
        app.daily.save().unwrap();
        // Also where a day ends meanwhile.
        [today, today + 1].map(|day| store.key_use(&key.record.id, day).unwrap().tokens).iter().sum::<u64>()
    };
    assert!(ask().next().await.unwrap().1.is_ok());
    assert_eq!(used(), 6);
    let mut left = ask();
    assert!(matches!(left.next_update().await, Some(Update::Piece(..))));
    drop(left);
    assert_eq!(used(), 6 + 3 + 1);
}
