use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc;
use std::time::Duration;

use super::*;
use crate::backend::{Backend, CandleBackend};
use crate::decoder::BaseOf;
use crate::tests::tiny;
use crate::weights::open_safetensors;

type Weighty = HeldWeights<<CandleBackend as Backend>::Matrix, <CandleBackend as Backend>::Vector>;

/// The weights of a directory and their digest; every reading of its files is counted.
fn get(
    held: &Weighty,
    directory: &Path,
    dtype: Dtype,
    reads: &AtomicUsize,
) -> (Arc<BaseOf<CandleBackend>>, Digest) {
    let (weights, config) = open_safetensors(directory).unwrap();
    let backend = CandleBackend::new(DeviceSpec::Cpu, dtype).unwrap();
    let read = || {
        reads.fetch_add(1, Ordering::Relaxed);
        Base::read(&backend, &config, &weights, 2)
    };
    held.get(Form { device: DeviceSpec::Cpu, dtype }, &weights, read).unwrap()
}

#[test]
fn many_at_once_are_one_and_what_differs_is_apart() {
    let (held, reads) = (Weighty::new(), AtomicUsize::new(0));
    let (one, same) = (tiny::directory(&tiny::llama()), tiny::directory(&tiny::llama()));
    let found: Vec<_> = std::thread::scope(|scope| {
        let places = [&one, &same, &one, &same];
        let threads = places.map(|place| scope.spawn(|| get(&held, place.path(), Dtype::F32, &reads)));
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    assert_eq!(reads.load(Ordering::Relaxed), 1);
    assert!(found.iter().all(|(base, digest)| Arc::ptr_eq(base, &found[0].0) && *digest == found[0].1));

    // Of the same size: only the digest tells them apart.
    let mut config = tiny::llama();
    config["rms_norm_eps"] = serde_json::json!(2e-5);
    let other = tiny::directory(&config);
    let (other, other_digest) = get(&held, other.path(), Dtype::F32, &reads);
    assert!(!Arc::ptr_eq(&other, &found[0].0) && other_digest != found[0].1);
    let (half, half_digest) = get(&held, one.path(), Dtype::Bf16, &reads);
    assert!(!Arc::ptr_eq(&half, &found[0].0));
    assert_eq!((half_digest, reads.load(Ordering::Relaxed)), (found[0].1.clone(), 3));
}

#[test]
fn the_last_one_takes_them_along() {
    let (held, reads) = (Weighty::new(), AtomicUsize::new(0));
    let directory = tiny::directory(&tiny::llama());
    let (first, _) = get(&held, directory.path(), Dtype::F32, &reads);
    let (second, _) = get(&held, directory.path(), Dtype::F32, &reads);
    let (weak, _) = (Arc::downgrade(&first), drop(first));
    let (third, _) = get(&held, directory.path(), Dtype::F32, &reads);
    assert!(Arc::ptr_eq(&second, &third));
    drop((second, third));
    assert!(weak.upgrade().is_none());
    get(&held, directory.path(), Dtype::F32, &reads);
    assert_eq!(reads.load(Ordering::Relaxed), 2);
}

#[test]
fn files_that_cannot_be_read_leave_nothing() {
    let (held, reads) = (Weighty::new(), AtomicUsize::new(0));
    let directory = tiny::directory(&tiny::llama());
    let (weights, _) = open_safetensors(directory.path()).unwrap();
    let form = Form { device: DeviceSpec::Cpu, dtype: Dtype::F32 };
    let failed = held.get(form, &weights, || Err(LmError::Device("gone".to_owned())));
    assert!(failed.is_err());
    get(&held, directory.path(), Dtype::F32, &reads);
    assert_eq!(reads.load(Ordering::Relaxed), 1);
}

#[test]
fn who_reads_others_is_not_waited_for() {
    let (held, reads) = (Weighty::new(), AtomicUsize::new(0));
    let mut config = tiny::llama();
    config["rms_norm_eps"] = serde_json::json!(2.5e-5);
    let (slow, other) = (tiny::directory(&tiny::llama()), tiny::directory(&config));
    let (weights, _) = open_safetensors(slow.path()).unwrap();
    assert_ne!(weights.bytes(), open_safetensors(other.path()).unwrap().0.bytes());
    let form = Form { device: DeviceSpec::Cpu, dtype: Dtype::F32 };
    let ((began, begun), (done, others)) = (mpsc::channel(), mpsc::channel());
    let read = move || {
        began.send(()).unwrap();
        // It ends when the others have theirs.
        let waited = others.recv_timeout(Duration::from_secs(60));
        Err(LmError::Device(if waited.is_ok() { "gone" } else { "alone" }.to_owned()))
    };
    std::thread::scope(|scope| {
        let slow = scope.spawn(|| held.get(form, &weights, read).unwrap_err().to_string());
        begun.recv().unwrap();
        get(&held, other.path(), Dtype::F32, &reads);
        get(&held, other.path(), Dtype::Bf16, &reads);
        done.send(()).unwrap();
        let error = slow.join().unwrap();
        assert!(error.contains("gone"), "{error}");
    });
    assert_eq!(reads.load(Ordering::Relaxed), 2);
}
