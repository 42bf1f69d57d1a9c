use std::sync::atomic::{AtomicUsize, Ordering};

use evalign_fetch::silent;
use evalign_model::LoadOptions;

use super::*;

#[test]
fn many_at_once_load_one_and_another_takes_its_place() {
    let dir = tempfile::tempdir().unwrap();
    let script = dir.path().join("model.json");
    fs_err::write(&script, r#"{"seed": 1}"#).unwrap();
    let script: ModelRef = format!("scripted/{}", script.display()).parse().unwrap();
    let (adapted, loaded) = (Adapted::default(), AtomicUsize::new(0));
    let get = |name: &str, mode| {
        let load = || {
            loaded.fetch_add(1, Ordering::Relaxed);
            Ok(evalign_model::load(&script, &LoadOptions::default(), &silent)?)
        };
        adapted.get((&name.parse().unwrap(), mode), None, load).unwrap()
    };
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| drop(get("local/a", ScoringMode::Default)));
        }
    });
    assert_eq!(loaded.load(Ordering::Relaxed), 1);
    let first = Arc::downgrade(&get("local/a", ScoringMode::Default));
    get("local/a", ScoringMode::LmEval);
    get("local/b", ScoringMode::LmEval);
    assert_eq!((loaded.load(Ordering::Relaxed), first.upgrade().is_none()), (3, true));
}

#[tokio::test]
async fn none_that_answers_somebody_makes_room_for_another() {
    let dir = tempfile::tempdir().unwrap();
    let script = dir.path().join("model.json");
    fs_err::write(&script, r#"{"seed": 1}"#).unwrap();
    let script: ModelRef = format!("scripted/{}", script.display()).parse().unwrap();
    let (talking, loaded) = (Talking::default(), Arc::new(AtomicUsize::new(0)));
    let get = async |name: &str| {
        let (name, script, loaded) = (name.to_owned(), script.clone(), loaded.clone());
        let reference = name.parse().unwrap();
        let load = move || {
            loaded.fetch_add(1, Ordering::Relaxed);
            Served::load(name, &script, true, 4)
        };
        talking.get(&reference, load).await
    };
    let (first, second) = (get("local/a").await.unwrap(), get("local/b").await.unwrap());
    let refused = get("local/c").await.err().unwrap();
    assert_eq!((refused.code, refused.retry_after_secs), (Code::Unavailable, Some(2)));
    assert!(Arc::ptr_eq(&get("local/a").await.unwrap(), &first));
    drop(second);
    let third = get("local/c").await.unwrap();
    assert_eq!((third.name.as_str(), loaded.load(Ordering::Relaxed)), ("local/c", 3));
    assert_eq!(talking.lock().len(), MOST_TALKING);
    drop((first, third));
    get("local/b").await.unwrap();
    assert_eq!(loaded.load(Ordering::Relaxed), 4, "it had gone");
}
