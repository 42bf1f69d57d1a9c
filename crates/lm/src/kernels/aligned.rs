//! Cache-line aligned storage, and scratch space that each thread keeps.

use std::cell::RefCell;
use std::ops::{Deref, DerefMut};

use bytemuck::{Pod, Zeroable};

/// One cache line; a `Vec` of these is aligned to 64 bytes without any `unsafe`.
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C, align(64))]
struct Line([u8; 64]);

/// A growable buffer of `T` whose first element lies on a 64-byte boundary.
#[derive(Clone, Debug)]
pub struct AlignedVec<T: Pod> {
    lines: Vec<Line>,
    len: usize,
    element: std::marker::PhantomData<T>,
}

impl<T: Pod> Default for AlignedVec<T> {
    fn default() -> Self {
        Self { lines: Vec::new(), len: 0, element: std::marker::PhantomData }
    }
}

impl<T: Pod> AlignedVec<T> {
    /// `len` zeroed elements.
    #[must_use]
    pub fn zeroed(len: usize) -> Self {
        let lines = vec![Line::zeroed(); Self::lines_for(len)];
        Self { lines, len, element: std::marker::PhantomData }
    }

    /// Makes the buffer at least `len` elements long; new elements are zero, old ones are kept.
    pub fn grow_to(&mut self, len: usize) {
        if len > self.len {
            self.lines.resize(Self::lines_for(len), Line::zeroed());
            self.len = len;
        }
    }

    /// Bytes of memory held.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.lines.capacity() * size_of::<Line>()
    }

    fn lines_for(len: usize) -> usize {
        (len * size_of::<T>()).div_ceil(size_of::<Line>())
    }
}

impl<T: Pod> Deref for AlignedVec<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        &bytemuck::cast_slice(&self.lines)[..self.len]
    }
}

impl<T: Pod> DerefMut for AlignedVec<T> {
    fn deref_mut(&mut self) -> &mut [T] {
        &mut bytemuck::cast_slice_mut(&mut self.lines)[..self.len]
    }
}

thread_local! {
    static SCRATCH: RefCell<Vec<AlignedVec<f32>>> = const { RefCell::new(Vec::new()) };
}

/// Calls `f` with `len` floats of this thread's scratch space (contents arbitrary).
///
/// Buffers are kept for the thread's life, so the hot loops do not allocate; calls may nest.
pub(super) fn with_scratch<R>(len: usize, f: impl FnOnce(&mut [f32]) -> R) -> R {
    let mut buffer = SCRATCH.with(|kept| kept.borrow_mut().pop()).unwrap_or_default();
    buffer.grow_to(len);
    let result = f(&mut buffer[..len]);
    SCRATCH.with(|kept| kept.borrow_mut().push(buffer));
    result
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffers_are_aligned_and_keep_their_contents_when_they_grow() {
        let mut buffer = AlignedVec::<f32>::zeroed(3);
        assert_eq!(buffer.as_ptr() as usize % 64, 0);
        buffer[2] = 7.0;
        buffer.grow_to(1000);
        assert_eq!(buffer.as_ptr() as usize % 64, 0);
        assert_eq!((buffer.len(), buffer[2], buffer[999]), (1000, 7.0, 0.0));
        buffer.grow_to(5);
        assert_eq!(buffer.len(), 1000);
        assert!(buffer.bytes() >= 4000);
    }

    #[test]
    fn nested_scratch_is_distinct() {
        with_scratch(8, |outer| {
            outer.fill(1.0);
            with_scratch(8, |inner| inner.fill(2.0));
            assert!(outer.iter().all(|value| *value == 1.0));
        });
    }
}
