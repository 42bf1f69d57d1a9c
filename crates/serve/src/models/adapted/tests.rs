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
    let get = async |name: String| {
        let reference = name.parse().unwrap();
        let (script, loaded) = (script.clone(), loaded.clone());
        let load = move || {
            loaded.fetch_add(1, Ordering::Relaxed);
            Served::load(name, &script, true, 4)
        };
        talking.get(&reference, load).await
    };
    let mut most = 0;
    for (kind, room) in [("", MOST_WHOLE), ("+adapter=/a", MOST_ADAPTERS)] {
        let name = |number: usize| format!("local/{number}{kind}");
        let mut held = Vec::new();
        for number in 0..room {
            held.push(get(name(number)).await.unwrap());
        }
        let refused = get(name(room)).await.err().unwrap();
        assert_eq!((refused.code, refused.retry_after_secs), (Code::Unavailable, Some(2)));
        assert!(Arc::ptr_eq(&get(name(0)).await.unwrap(), &held[0]));
        held.pop();
        most += room + 1;
        let next = get(name(room)).await.unwrap();
        assert_eq!((next.name.as_str(), loaded.load(Ordering::Relaxed)), (name(room).as_str(), most));
        drop((held, next));
        get(name(room - 1)).await.unwrap();
        most += 1;
        assert_eq!(loaded.load(Ordering::Relaxed), most, "it had gone");
    }
    assert_eq!(talking.lock().len(), MOST_WHOLE + MOST_ADAPTERS);
}
