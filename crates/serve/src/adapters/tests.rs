use super::*;
use crate::settings::{Layer, settings};

#[test]
fn files_of_a_model_are_kept_together_or_not_at_all() {
    let home = tempfile::tempdir().unwrap();
    let layer = Layer { max_files_mib: Some(1), ..Layer::default() };
    let (settings, _) = settings(home.path(), None, &|_| None, layer).unwrap();
    let store = Store::open(home.path()).unwrap();
    let app = App::new(home.path(), store.clone(), settings).unwrap();
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
    assert_eq!(app.keep_all(&store, &large).unwrap_err().code, Code::TooLarge);
    assert_eq!((store.file_bytes().unwrap(), bytes_there()), (0, 0));
    let (small, _dir) = made([10, 20]);
    let kept = app.keep_all(&store, &small).unwrap();
    assert_eq!((store.file_bytes().unwrap(), bytes_there(), kept[1].name.as_str()), (30, 2, "b"));
    app.drop_all(&store, &kept);
    assert_eq!((store.file_bytes().unwrap(), bytes_there()), (0, 0));
}
