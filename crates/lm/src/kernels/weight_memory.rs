//! Memory for weights, on huge pages where the system offers them.
//!
//! Decoding one token reads every weight once, so its speed is that of main memory, and with 4 KiB pages
//! address translation costs a third of it (measured: 25 against 37 to 41 GB/s on two Zen 4 cores). Linux
//! gives huge pages to large mappings that ask for them, and most matrices are smaller than one such
//! page; so matrices are carved out of shared mappings, one after the other.

use std::ops::{Deref, DerefMut};
use std::ptr::NonNull;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use bytemuck::Pod;
use memmap2::MmapMut;

use super::aligned::AlignedVec;

/// Size of a huge page on x86-64 and, commonly, on AArch64.
const HUGE_PAGE: usize = 2 << 20;
/// Size of a mapping that several matrices share.
const CHUNK: usize = 32 << 20;
/// Matrices start on cache lines.
const LINE: usize = 64;

/// A fixed number of elements, zero at first, aligned to 64 bytes. Freed with the last of its neighbours.
#[derive(Debug)]
pub(super) struct WeightMemory<T: Pod>(Place<T>);

#[derive(Debug)]
enum Place<T: Pod> {
    Carved(Carved<T>),
    /// Where the system refuses a mapping.
    Heap(AlignedVec<T>),
}

/// A part of a chunk that nothing else refers to.
#[derive(Debug)]
struct Carved<T> {
    start: NonNull<T>,
    len: usize,
    /// Keeps the mapping alive.
    _chunk: Arc<Chunk>,
}

/// One anonymous mapping, from its first huge-page boundary on.
#[derive(Debug)]
struct Chunk {
    start: NonNull<u8>,
    len: usize,
    _map: MmapMut,
}

#[expect(unsafe_code, reason = "a mapping is reached through a raw pointer")]
// SAFETY: the pointer is into the mapping that the chunk owns; parts are handed out once, by `carve`.
unsafe impl Send for Chunk {}
#[expect(unsafe_code, reason = "a mapping is reached through a raw pointer")]
// SAFETY: as above; a chunk itself never reads or writes the mapping.
unsafe impl Sync for Chunk {}
#[expect(unsafe_code, reason = "a part of a mapping is reached through a raw pointer")]
// SAFETY: a carved part is the only way to its memory, like a `Box<[T]>`.
unsafe impl<T: Send> Send for Carved<T> {}
#[expect(unsafe_code, reason = "a part of a mapping is reached through a raw pointer")]
// SAFETY: as above: shared access only reads.
unsafe impl<T: Sync> Sync for Carved<T> {}

/// The chunk that new parts come from, and how much of it is taken. Weak: the last part frees the chunk.
static CURRENT: Mutex<(Weak<Chunk>, usize)> = Mutex::new((Weak::new(), 0));

impl Chunk {
    fn map(len: usize) -> std::io::Result<Self> {
        let mut map = MmapMut::map_anon(len.saturating_add(HUGE_PAGE))?;
        // Advice: a kernel without huge pages refuses, and the memory is as good as any other.
        #[cfg(target_os = "linux")]
        let _unsupported = map.advise(memmap2::Advice::HugePage);
        let skip = map.as_ptr().align_offset(HUGE_PAGE).min(HUGE_PAGE);
        let start = NonNull::from(&mut map[skip..skip + len]).cast();
        Ok(Self { start, len, _map: map })
    }
}

/// The next `bytes` of the current chunk, or of a new one.
fn carve(bytes: usize) -> std::io::Result<(NonNull<u8>, Arc<Chunk>)> {
    let mut current = CURRENT.lock().unwrap_or_else(PoisonError::into_inner);
    let (chunk, used) = &*current;
    let (chunk, used) = match chunk.upgrade().filter(|chunk| bytes <= chunk.len - used) {
        Some(chunk) => (chunk, *used),
        None => (Arc::new(Chunk::map(bytes.next_multiple_of(HUGE_PAGE).max(CHUNK))?), 0),
    };
    #[expect(unsafe_code, reason = "points into the mapping")]
    // SAFETY: `used + bytes` is at most the chunk's length.
    let start = unsafe { chunk.start.add(used) };
    *current = (Arc::downgrade(&chunk), used + bytes);
    Ok((start, chunk))
}

impl<T: Pod> WeightMemory<T> {
    /// `len` zeroed elements.
    #[must_use]
    pub(super) fn zeroed(len: usize) -> Self {
        const { assert!(align_of::<T>() <= LINE, "carved on cache lines") };
        let bytes = len.saturating_mul(size_of::<T>()).checked_next_multiple_of(LINE);
        let carved = bytes.and_then(|bytes| carve(bytes).ok());
        Self(match carved {
            Some((start, chunk)) => Place::Carved(Carved { start: start.cast(), len, _chunk: chunk }),
            None => Place::Heap(AlignedVec::zeroed(len)),
        })
    }

    /// Bytes of memory held.
    #[must_use]
    pub(super) fn bytes(&self) -> usize {
        size_of_val::<[T]>(self).next_multiple_of(LINE)
    }
}

impl<T: Pod> Deref for WeightMemory<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        match &self.0 {
            #[expect(unsafe_code, reason = "a carved part is reached through a raw pointer")]
            // SAFETY: `len` elements from `start` lie in the chunk, aligned, belong to this part alone, and are
            // initialised: an anonymous mapping is zeroed, and any bytes are a `Pod`.
            Place::Carved(part) => unsafe { std::slice::from_raw_parts(part.start.as_ptr(), part.len) },
            Place::Heap(heap) => heap,
        }
    }
}

impl<T: Pod> DerefMut for WeightMemory<T> {
    fn deref_mut(&mut self) -> &mut [T] {
        match &mut self.0 {
            #[expect(unsafe_code, reason = "a carved part is reached through a raw pointer")]
            // SAFETY: as in `deref`, and `self` is borrowed mutably.
            Place::Carved(part) => unsafe { std::slice::from_raw_parts_mut(part.start.as_ptr(), part.len) },
            Place::Heap(heap) => heap,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_zeroed_aligned_and_apart() {
        let lens = [1, 63, 64, 65, 4096, 100_000, 0, 7];
        let mut parts: Vec<WeightMemory<u32>> = lens.iter().map(|&len| WeightMemory::zeroed(len)).collect();
        for (index, (part, len)) in parts.iter_mut().zip(lens).enumerate() {
            assert_eq!((part.len(), part.as_ptr() as usize % LINE), (len, 0));
            assert!(part.iter().all(|value| *value == 0));
            part.fill(index as u32 + 1);
        }
        for (index, part) in parts.iter().enumerate() {
            assert!(part.iter().all(|value| *value == index as u32 + 1));
        }
        assert_eq!(parts[1].bytes(), 256);
    }

    #[test]
    fn parts_larger_than_a_chunk_and_chunks_that_fill_up() {
        let large = WeightMemory::<u8>::zeroed(CHUNK + 1);
        assert_eq!((large.len(), large[CHUNK]), (CHUNK + 1, 0));
        let several: Vec<_> = (0..5).map(|_| WeightMemory::<f32>::zeroed(CHUNK / 8 - 3)).collect();
        drop(large);
        assert!(several.iter().all(|part| part[part.len() - 1] == 0.0));
    }

    #[test]
    fn threads_carve_at_the_same_time() {
        let parts: Vec<WeightMemory<u64>> = std::thread::scope(|scope| {
            let threads: Vec<_> = (1..=4_u64)
                .map(|id| {
                    scope.spawn(move || {
                        let fill = |_| {
                            let mut part = WeightMemory::zeroed(1000);
                            part.fill(id);
                            part
                        };
                        (0..20).map(fill).collect::<Vec<_>>()
                    })
                })
                .collect();
            threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
        });
        assert!(
            parts.iter().enumerate().all(|(index, part)| part.iter().all(|id| *id == index as u64 / 20 + 1))
        );
    }
}
