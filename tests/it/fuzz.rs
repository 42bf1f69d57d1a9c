//! The corpus of the fuzzer, read by what the fuzzer calls: seeds, everything that ever broke something, and what
//! becomes of them by chance.

#[expect(unreachable_pub, reason = "to the fuzzer it is a library")]
#[path = "../fuzz/targets.rs"]
mod targets;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::Duration;

use targets::{TARGETS, Target};

/// Changed inputs that each target reads; `EVALIGN_FUZZ_INPUTS` says how many else.
const CHANGED_INPUTS: u64 = 300;

/// What a target may take for an input of 16 KiB, on the busiest machine.
const LONGEST_READ: Duration = Duration::from_secs(10);

fn fuzz() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fuzz")
}

fn names(directory: &Path) -> BTreeSet<String> {
    let entries = fs_err::read_dir(directory).unwrap().map(|entry| entry.unwrap().path());
    entries.map(|path| path.file_stem().unwrap().to_str().unwrap().to_owned()).collect()
}

/// The inputs of a target, in the order of their files' names.
fn corpus(name: &str) -> Vec<Vec<u8>> {
    let entries = fs_err::read_dir(fuzz().join("corpus").join(name)).unwrap();
    let files: BTreeSet<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
    files.into_iter().map(|file| fs_err::read(file).unwrap()).collect()
}

/// Reads an input; one that breaks the target, or that it does not come back from, is left in the temporary directory, to
/// become part of the corpus.
fn read(name: &str, target: Target, input: &[u8]) {
    let (sender, receiver) = mpsc::channel();
    let bytes = input.to_vec();
    std::thread::spawn(move || {
        target(&bytes);
        // Nobody listens any more to an input that took too long.
        let _ = sender.send(());
    });
    let fault = match receiver.recv_timeout(LONGEST_READ) {
        Ok(()) => return,
        Err(RecvTimeoutError::Disconnected) => "breaks",
        Err(RecvTimeoutError::Timeout) => "does not come back",
    };
    let file = std::env::temp_dir().join(format!("{name}-{}", evalign_core::Digest::of(input).short()));
    fs_err::write(&file, input).unwrap();
    panic!("{name} {fault} on {}", file.display());
}

/// Draws of SplitMix64 (Steele et al. 2014).
struct Draws(u64);

impl Draws {
    fn below(&mut self, end: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        (z ^ (z >> 31)) as usize % end.max(1)
    }

    fn part<'a>(&mut self, bytes: &'a [u8]) -> &'a [u8] {
        let begin = self.below(bytes.len());
        &bytes[begin..begin + self.below(bytes.len() - begin + 1)]
    }

    /// An input with one to four changes: bits, bytes, parts of it or of another left out, doubled, put in.
    fn changed(&mut self, inputs: &[Vec<u8>]) -> Vec<u8> {
        let mut input = inputs[self.below(inputs.len())].clone();
        for _ in 0..=self.below(4) {
            let at = self.below(input.len() + 1);
            let other = inputs[self.below(inputs.len())].as_slice();
            match self.below(5) {
                0 if at < input.len() => input[at] ^= 1 << self.below(8),
                1 if at < input.len() => input[at] = self.below(256) as u8,
                2 => drop(input.drain(at..at + self.below(input.len() - at + 1))),
                3 => drop(input.splice(at..at, self.part(other).to_vec())),
                _ => {
                    let part = self.part(&input).repeat(1 + self.below(8));
                    input.splice(at..at, part);
                }
            }
            input.truncate(1 << 14);
        }
        input
    }
}

#[test]
fn promise_34_what_the_fuzzer_knows_breaks_nothing() {
    let known: BTreeSet<String> = TARGETS.iter().map(|(name, _)| (*name).to_owned()).collect();
    assert_eq!(names(&fuzz().join("corpus")), known);
    assert_eq!(names(&fuzz().join("fuzz_targets")), known);
    for (name, target) in TARGETS {
        let inputs = corpus(name);
        assert!(inputs.len() >= 3, "{name} has no seeds");
        inputs.iter().for_each(|input| read(name, target, input));
        read(name, target, &[]);
        (0..=u8::MAX).for_each(|byte| read(name, target, &[byte]));
    }
}

#[test]
fn promise_34_what_becomes_of_it_by_chance_breaks_nothing() {
    let count = std::env::var("EVALIGN_FUZZ_INPUTS").ok().and_then(|count| count.parse().ok());
    let seed = std::env::var("EVALIGN_FUZZ_SEED").ok().and_then(|seed| seed.parse().ok());
    for (name, target) in TARGETS {
        let (inputs, mut draws) = (corpus(name), Draws(seed.unwrap_or(1)));
        (0..count.unwrap_or(CHANGED_INPUTS)).for_each(|_| read(name, target, &draws.changed(&inputs)));
    }
}
