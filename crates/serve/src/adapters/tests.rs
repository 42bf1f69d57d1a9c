use std::sync::atomic::Ordering;
use std::time::Instant;

use super::*;
use evalign_store::NewRun;

use crate::settings::{Layer, settings};
use crate::work::{JobRequest, owner};

struct Place {
    app: Arc<App>,
    store: Store,
    run: ActiveRun,
    home: tempfile::TempDir,
}

/// An app whose tenants keep a mebibyte, and a run that is worked on.
fn place() -> Place {
    let home = tempfile::tempdir().unwrap();
    let layer = Layer { max_files_mib: Some(1), ..Layer::default() };
    let (settings, _) = settings(home.path(), None, &|_| None, layer).unwrap();
    let store = Store::open(home.path()).unwrap();
    let model: ModelRef = "local/tiny".parse().unwrap();
    let data = (&Digest::of("data"), 1);
    let spec = job_spec(named_identity(model), MergeRequest::PROCEDURE, &json!([]), data);
    let request = json!({"procedure": MergeRequest::PROCEDURE});
    let new = NewRun { spec, request, samples_total: 0, fork: false };
    let run = store.create_run(&new).unwrap().id;
    let run = ActiveRun::resume(&run, &store, &owner()).unwrap();
    Place { app: App::new(home.path(), store.clone(), settings).unwrap(), store, run, home }
}

#[test]
fn files_of_a_model_are_kept_together_or_not_at_all() {
    let Place { app, store, run, home } = place();
    let made = |sizes: [usize; 2]| {
        let dir = uploads::partial(home.path()).unwrap();
        for (name, bytes) in ["a", "b"].into_iter().zip(sizes) {
            fs_err::write(dir.path().join(name), vec![0; bytes]).unwrap();
        }
        (files_at(dir.path()).unwrap(), dir)
    };
    let bytes_there = || fs_err::read_dir(home.path().join("files")).map_or(0, Iterator::count);
    // Each of them has room, both have not.
    let (large, _dir) = made([600 << 10, 600 << 10]);
    assert_eq!(app.keep_all((&run, &store), &large).unwrap_err().code, Code::TooLarge);
    assert_eq!((store.file_bytes().unwrap(), bytes_there()), (0, 0));
    // The second cannot be kept.
    let (broken, dir) = made([10, 20]);
    fs_err::remove_file(&broken[1]).unwrap();
    fs_err::create_dir(&broken[1]).unwrap();
    assert!(app.keep_all((&run, &store), &broken).is_err());
    assert_eq!((store.file_bytes().unwrap(), bytes_there()), (0, 0));
    drop(dir);
    let (small, _dir) = made([10, 20]);
    let kept = app.keep_all((&run, &store), &small).unwrap();
    assert_eq!((store.file_bytes().unwrap(), bytes_there(), kept[1].name.as_str()), (30, 2, "b"));
}

/// The server was killed after it had kept files, one of them without its row, and before the run named them.
#[test]
fn an_attempt_that_was_killed_leaves_no_file_to_the_next() {
    let Place { app, store, run, home } = place();
    let dir = uploads::partial(home.path()).unwrap();
    for name in ["a", "b"] {
        fs_err::write(dir.path().join(name), [0; 10]).unwrap();
    }
    let kept = app.keep_all((&run, &store), &files_at(dir.path()).unwrap()).unwrap();
    store.remove_file(&kept[1].id).unwrap();
    app.drop_unfinished(&run.id, &store).unwrap();
    assert_eq!(store.file_bytes().unwrap(), 0);
    assert_eq!(fs_err::read_dir(home.path().join("files")).unwrap().count(), 0);
    app.drop_unfinished(&run.id, &store).unwrap();
}

/// It was put into the queue again at the next start, and cancelled before it was its turn.
#[test]
fn an_attempt_that_was_killed_leaves_no_file_when_there_is_no_next() {
    let Place { app, store, run, home } = place();
    let dir = uploads::partial(home.path()).unwrap();
    fs_err::write(dir.path().join("a"), [0; 10]).unwrap();
    app.keep_all((&run, &store), &files_at(dir.path()).unwrap()).unwrap();
    let id = run.id.clone();
    run.release().unwrap();
    app.queue(&store, &id, JobRequest::default()).unwrap();
    assert_eq!(app.cancel_run(&store, &id).unwrap().status, RunStatus::Cancelled);
    assert_eq!(store.file_bytes().unwrap(), 0);
    assert_eq!(fs_err::read_dir(home.path().join("files")).unwrap().count(), 0);
}

#[test]
fn work_hears_that_it_is_to_end() {
    let Place { store, run, home: _home, .. } = place();
    let cancel = Cancel::default();
    let heard = tended(&run, &store, &cancel, |stop| {
        assert!(!stop.load(Ordering::Relaxed));
        cancel.raise();
        let begun = Instant::now();
        while !stop.load(Ordering::Relaxed) && begun.elapsed().as_secs() < 30 {
            std::thread::yield_now();
        }
        stop.load(Ordering::Relaxed)
    });
    assert!(heard);
    // From the beginning, where it was said before.
    assert!(tended(&run, &store, &cancel, |stop| stop.load(Ordering::Relaxed)));
}
