//! The reference model's log-probabilities: computed once for each item, kept in a file that is named by what they
//! depend on, so that other runs and losses over the same texts find them.
//!
//! The file is a sequence of records: SHA-256 of the texts (32 bytes), then for each of the item's two texts the
//! number of values (u32) and the values (f32), then the first 4 bytes of the SHA-256 of all this; little-endian.
//! Records are only appended; one that was cut off or damaged ends the reading. Whoever reads or writes holds the file's
//! lock, so that runs over the same model do not cut off what another is writing.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use evalign_core::Digest;

use crate::{Item, Learner, MicroBatch, ReferenceLogps, Sequence, TrainError};

const CHECK_BYTES: usize = 4;

/// Log-probabilities of the labels of an item's texts.
type Sides = [Vec<f32>; 2];

/// What the reference said so far.
#[derive(Clone, Debug, Default)]
pub struct ReferenceStore {
    known: BTreeMap<Vec<u8>, Sides>,
    /// Not yet in the file.
    fresh: Vec<Vec<u8>>,
    path: Option<PathBuf>,
    /// Bytes of the file that are known.
    read: u64,
    /// Tokens that the reference has read since [`ReferenceStore::take_read`].
    tokens: u64,
}

impl ReferenceStore {
    /// Kept in `directory`, in a file named by `reference`: the digest of everything that the log-probabilities
    /// depend on besides the texts (weights, adapter, data type, device, version of the engine).
    ///
    /// # Errors
    /// The directory or file cannot be used.
    pub fn open(directory: &Path, reference: &Digest) -> Result<Self, TrainError> {
        fs_err::create_dir_all(directory)?;
        let path = directory.join(format!("{reference}.logps"));
        let mut store = Self { path: Some(path.clone()), ..Self::default() };
        store.catch_up(&mut locked(&path)?)?;
        Ok(store)
    }

    /// Reads what other runs have appended, and cuts off what one of them left unfinished: behind it nothing would be
    /// found again. Returns the keys found.
    fn catch_up(&mut self, file: &mut fs_err::File) -> Result<BTreeSet<Vec<u8>>, TrainError> {
        if file.metadata()?.len() < self.read {
            // Somebody has emptied it.
            self.read = 0;
        }
        file.seek(SeekFrom::Start(self.read))?;
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes)?;
        let (mut found, mut at) = (BTreeSet::new(), 0);
        while let Some((key, sides, length)) = record(&bytes[at..]) {
            // What this run has used already stays as it is.
            self.known.entry(key.clone()).or_insert(sides);
            found.insert(key);
            at += length;
        }
        self.read += at as u64;
        if at < bytes.len() {
            file.set_len(self.read)?;
        }
        Ok(found)
    }

    /// Of a micro-batch; `None` for a loss without reference.
    ///
    /// # Errors
    /// Computing fails.
    pub fn of(
        &mut self,
        batch: &MicroBatch,
        learner: &mut dyn Learner,
    ) -> Result<Option<ReferenceLogps>, TrainError> {
        let keys = keys(batch);
        let pairs = batch.items.iter().all(|item| matches!(item, Item::Pair { .. }));
        let known: Option<Vec<&Sides>> = keys.iter().map(|key| self.known.get(key)).collect();
        if let Some(known) = known {
            let side = |side: usize| known.iter().map(move |sides| sides[side].clone());
            let second = side(1).filter(|_| pairs);
            return Ok(Some(ReferenceLogps { per_label: side(0).chain(second).collect() }));
        }
        let Some(computed) = learner.reference(batch)? else { return Ok(None) };
        self.tokens += batch.tokens();
        if computed.per_label.len() == keys.len() * if pairs { 2 } else { 1 } {
            let (chosen, rejected) = computed.per_label.split_at(keys.len());
            let rejected = rejected.iter().chain(std::iter::repeat(const { &Vec::new() }));
            for ((key, chosen), rejected) in keys.into_iter().zip(chosen).zip(rejected) {
                if self.known.insert(key.clone(), [chosen.clone(), rejected.clone()]).is_none() {
                    self.fresh.push(key);
                }
            }
        }
        Ok(Some(computed))
    }

    pub(super) fn take_read(&mut self) -> u64 {
        std::mem::take(&mut self.tokens)
    }

    /// Puts what is new into the file.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn keep(&mut self) -> Result<(), TrainError> {
        let Some(path) = self.path.clone() else { return Ok(()) };
        if self.fresh.is_empty() {
            return Ok(());
        }
        let mut file = locked(&path)?;
        let found = self.catch_up(&mut file)?;
        let missing = self.fresh.iter().filter(|key| !found.contains(*key));
        let records: Vec<u8> = missing.flat_map(|key| written(key, &self.known[key])).collect();
        file.seek(SeekFrom::Start(self.read))?;
        file.write_all(&records)?;
        file.sync_all()?;
        self.read += records.len() as u64;
        self.fresh.clear();
        Ok(())
    }

    /// Digest of what the reference says about these items; `None` where there are none, or something is not known.
    #[must_use]
    pub fn digest<'i>(&self, items: impl Iterator<Item = &'i Item>) -> Option<String> {
        let mut digests = Vec::new();
        for item in items {
            let key = key_of(item);
            digests.extend(raw_digest(&written(&key, self.known.get(&key)?)));
        }
        (!digests.is_empty()).then(|| Digest::of(digests).to_string())
    }
}

/// The file at `path`, created if need be; nobody else reads or writes it until it is closed.
fn locked(path: &Path) -> Result<fs_err::File, TrainError> {
    let file = fs_err::OpenOptions::new().create(true).truncate(false).read(true).write(true).open(path)?;
    file.lock()?;
    Ok(file)
}

/// Keys of a micro-batch's items.
fn keys(batch: &MicroBatch) -> Vec<Vec<u8>> {
    batch.items.iter().map(key_of).collect()
}

/// A single text has an empty other side.
fn key_of(item: &Item) -> Vec<u8> {
    match item {
        Item::Pair { chosen, rejected, .. } => key(chosen, rejected),
        Item::Single { text, .. } => key(text, &Sequence::default()),
    }
}

fn key(chosen: &Sequence, rejected: &Sequence) -> Vec<u8> {
    let mut bytes = Vec::new();
    for text in [chosen, rejected] {
        bytes.extend((text.ids.len() as u64).to_le_bytes());
        for (id, trained) in text.ids.iter().zip(&text.trained) {
            bytes.extend(id.to_le_bytes());
            bytes.push(u8::from(*trained));
        }
    }
    raw_digest(&bytes)
}

/// The 32 bytes of a SHA-256.
fn raw_digest(bytes: &[u8]) -> Vec<u8> {
    let hex = Digest::of(bytes);
    let (digits, _) = hex.as_str().as_bytes().as_chunks::<2>();
    let value = |digit: u8| (digit as char).to_digit(16).unwrap_or_default() as u8;
    digits.iter().map(|[high, low]| value(*high) << 4 | value(*low)).collect()
}

fn written(key: &[u8], sides: &Sides) -> Vec<u8> {
    let mut bytes = key.to_vec();
    for side in sides {
        bytes.extend((side.len() as u32).to_le_bytes());
        bytes.extend(side.iter().flat_map(|value| value.to_le_bytes()));
    }
    let check = raw_digest(&bytes);
    bytes.extend(&check[..CHECK_BYTES]);
    bytes
}

/// The record that `bytes` begins with, and its length.
fn record(bytes: &[u8]) -> Option<(Vec<u8>, Sides, usize)> {
    let key = bytes.get(..32)?;
    let mut at = key.len();
    let mut side = || {
        let count = u32::from_le_bytes(bytes.get(at..at + 4)?.try_into().ok()?) as usize;
        at += 4;
        let values = bytes.get(at..at.checked_add(count.checked_mul(4)?)?)?;
        at += values.len();
        Some(values.as_chunks::<4>().0.iter().map(|value| f32::from_le_bytes(*value)).collect::<Vec<f32>>())
    };
    let sides = [side()?, side()?];
    let check = bytes.get(at..at + CHECK_BYTES)?;
    (raw_digest(&bytes[..at])[..CHECK_BYTES] == *check).then(|| (key.to_vec(), sides, at + CHECK_BYTES))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_damaged_tail_is_cut_off() {
        let directory = tempfile::tempdir().unwrap();
        let reference = Digest::of("model");
        let mut store = ReferenceStore::open(directory.path(), &reference).unwrap();
        for number in 0..3u8 {
            let key = raw_digest(&[number]);
            store.known.insert(key.clone(), [vec![-1.5, f32::from(number)], vec![]]);
            store.fresh.push(key);
        }
        store.keep().unwrap();
        let path = store.path.clone().unwrap();
        let whole = fs_err::read(&path).unwrap();
        for (length, records) in [(whole.len(), 3), (whole.len() - 1, 2), (whole.len() / 3 + 5, 1), (10, 0)] {
            fs_err::write(&path, &whole[..length]).unwrap();
            let again = ReferenceStore::open(directory.path(), &reference).unwrap();
            assert_eq!(again.known.len(), records);
            assert!(again.known.iter().all(|(key, sides)| store.known[key] == *sides));
        }
        let mut flipped = whole.clone();
        flipped[40] ^= 1;
        fs_err::write(&path, flipped).unwrap();
        assert_eq!(ReferenceStore::open(directory.path(), &reference).unwrap().known.len(), 0);
    }

    fn item(id: u32) -> Item {
        let side = |id| Sequence::new(vec![id, id + 1], 0);
        Item::Pair { chosen: side(id), rejected: side(id + 100), margin: None, label: None }
    }

    fn learn(store: &mut ReferenceStore, id: u32, value: f32) {
        let key = key_of(&item(id));
        store.known.insert(key.clone(), [vec![value], vec![-value]]);
        store.fresh.push(key);
    }

    /// Two runs over the same model, and one that died in the middle of writing.
    #[test]
    fn runs_that_write_at_the_same_time_lose_nothing() {
        let directory = tempfile::tempdir().unwrap();
        let open = || ReferenceStore::open(directory.path(), &Digest::of("model")).unwrap();
        let (mut one, mut other) = (open(), open());
        learn(&mut one, 1, -1.0);
        learn(&mut other, 2, -2.0);
        learn(&mut other, 1, -1.0);
        one.keep().unwrap();
        let path = one.path.clone().unwrap();
        let mut unfinished = fs_err::read(&path).unwrap();
        unfinished.extend_from_within(..10);
        fs_err::write(&path, unfinished).unwrap();
        other.keep().unwrap();
        learn(&mut one, 3, -3.0);
        one.keep().unwrap();
        let all = open();
        assert_eq!(all.known.len(), 3);
        assert_eq!(all.known[&key_of(&item(2))], [vec![-2.0], vec![2.0]]);
        // Each once.
        assert_eq!(fs_err::metadata(&path).unwrap().len(), all.read);
        assert_eq!(one.known.len(), 3);
    }

    #[test]
    fn the_digest_is_of_the_run_s_own_items() {
        let mut store = ReferenceStore::default();
        learn(&mut store, 1, -1.0);
        let items = [item(1), item(2)];
        let before = store.digest(items[..1].iter());
        assert!(before.is_some());
        assert_eq!((store.digest(items.iter()), store.digest([].iter())), (None, None));
        learn(&mut store, 2, -2.0);
        assert_eq!(store.digest(items[..1].iter()), before);
        learn(&mut store, 1, -1.5);
        assert_ne!(store.digest(items[..1].iter()), before);
    }
}
