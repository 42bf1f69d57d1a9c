//! Keys and values of one segment of a sequence, in the order in which attention reads them.

use super::aligned::AlignedVec;
use super::packed::PANEL;
use super::tile::VECTOR;

/// `count` rows of a row-major matrix, `stride` values apart; `data` starts at the first column of interest.
#[derive(Clone, Copy, Debug)]
pub struct Rows<'a> {
    data: &'a [f32],
    count: usize,
    stride: usize,
}

impl<'a> Rows<'a> {
    /// A view of `count` rows that start `stride` values apart.
    #[must_use]
    pub fn new(data: &'a [f32], count: usize, stride: usize) -> Self {
        Self { data, count, stride }
    }

    /// Number of rows.
    #[must_use]
    pub fn count(&self) -> usize {
        self.count
    }

    /// The first `width` values of row `index`.
    ///
    /// # Panics
    /// When the row does not exist or is shorter.
    #[must_use]
    pub fn row(&self, index: usize, width: usize) -> &'a [f32] {
        assert!(index < self.count, "row {index} of {}", self.count);
        &self.data[index * self.stride..index * self.stride + width]
    }
}

/// Keys and values of consecutive positions in one layer: a node of the prefix tree, or a growing sequence.
///
/// For each key-value head, keys lie in panels of 32 positions `[panel][head_dim][32]` and values in rows
/// `[position][head_dim, padded to 16]`. Both are ready for the tile kernel, and appending never moves what is there
/// unless the capacity is used up (then it doubles).
#[derive(Clone, Debug)]
pub struct KvSegment {
    kv_heads: usize,
    head_dim: usize,
    len: usize,
    capacity: usize,
    keys: AlignedVec<f32>,
    values: AlignedVec<f32>,
}

impl KvSegment {
    /// An empty segment with room for `capacity` positions.
    #[must_use]
    pub fn new(kv_heads: usize, head_dim: usize, capacity: usize) -> Self {
        Self {
            kv_heads,
            head_dim,
            len: 0,
            capacity,
            keys: AlignedVec::zeroed(kv_heads * capacity.next_multiple_of(PANEL) * head_dim),
            values: AlignedVec::zeroed(kv_heads * capacity * padded(head_dim)),
        }
    }

    /// Bytes of memory that a segment of this capacity takes (keys are rounded up to 32 positions).
    #[must_use]
    pub fn bytes_for(kv_heads: usize, head_dim: usize, capacity: usize) -> usize {
        let values = capacity.next_multiple_of(PANEL) * head_dim + capacity * padded(head_dim);
        kv_heads * values * size_of::<f32>()
    }

    /// Bytes of memory held.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.keys.bytes() + self.values.bytes()
    }

    /// Positions held.
    #[must_use]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether it holds no position.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Positions that fit without moving memory.
    #[must_use]
    pub fn capacity(&self) -> usize {
        self.capacity
    }

    /// Key-value heads.
    #[must_use]
    pub fn kv_heads(&self) -> usize {
        self.kv_heads
    }

    /// Values of one head.
    #[must_use]
    pub fn head_dim(&self) -> usize {
        self.head_dim
    }

    /// Forgets the positions from `len` on; the memory stays.
    pub fn truncate(&mut self, len: usize) {
        self.len = self.len.min(len);
    }

    /// Makes room for `additional` more positions: exactly what is asked for, or double what is there if that is more.
    pub fn reserve(&mut self, additional: usize) {
        let needed = self.len + additional;
        if needed > self.capacity() {
            let mut larger = Self::new(self.kv_heads, self.head_dim, needed.max(2 * self.capacity()));
            for head in 0..self.kv_heads {
                let (key_start, value_start) = larger.starts(head);
                let (keys, values) = (self.key_panels(head), self.value_rows(head));
                larger.keys[key_start..key_start + keys.len()].copy_from_slice(keys);
                larger.values[value_start..value_start + values.len()].copy_from_slice(values);
            }
            larger.len = self.len;
            *self = larger;
        }
    }

    /// Adds positions. Each row holds `kv_heads * head_dim` values; keys are already rotated.
    ///
    /// # Panics
    /// When the two counts differ or rows are too short.
    pub fn append(&mut self, keys: Rows<'_>, values: Rows<'_>) {
        assert_eq!(keys.count(), values.count(), "as many keys as values");
        self.reserve(keys.count());
        let (dim, width) = (self.head_dim, self.kv_heads * self.head_dim);
        for index in 0..keys.count() {
            let (key, value) = (keys.row(index, width), values.row(index, width));
            let position = self.len + index;
            for head in 0..self.kv_heads {
                let (key_start, value_start) = self.starts(head);
                let panel = &mut self.keys[key_start + (position / PANEL) * PANEL * dim..][..PANEL * dim];
                for (slot, key) in panel.chunks_exact_mut(PANEL).zip(&key[head * dim..(head + 1) * dim]) {
                    slot[position % PANEL] = *key;
                }
                self.values[value_start + position * padded(dim)..][..dim]
                    .copy_from_slice(&value[head * dim..(head + 1) * dim]);
            }
        }
        self.len += keys.count();
    }

    /// Panels of one head's keys, `[panel][head_dim][32]`.
    pub(super) fn key_panels(&self, head: usize) -> &[f32] {
        &self.keys[self.starts(head).0..self.starts(head + 1).0]
    }

    /// One head's values, `[position][padded head_dim]`.
    pub(super) fn value_rows(&self, head: usize) -> &[f32] {
        &self.values[self.starts(head).1..self.starts(head + 1).1]
    }

    fn starts(&self, head: usize) -> (usize, usize) {
        let keys = head * self.capacity.next_multiple_of(PANEL) * self.head_dim;
        (keys, head * self.capacity * padded(self.head_dim))
    }
}

/// Head size rounded up to whole vectors.
pub(super) fn padded(head_dim: usize) -> usize {
    head_dim.next_multiple_of(VECTOR)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Key and value of one head at a position, out of the packed order.
    fn entry(segment: &KvSegment, head: usize, position: usize) -> (Vec<f32>, Vec<f32>) {
        let dim = segment.head_dim();
        let panel = &segment.key_panels(head)[(position / PANEL) * PANEL * dim..][..PANEL * dim];
        let key = panel.iter().skip(position % PANEL).step_by(PANEL).copied().collect();
        let value = segment.value_rows(head)[position * padded(dim)..][..dim].to_vec();
        (key, value)
    }

    #[test]
    fn growing_and_truncating_keep_what_is_left() {
        let (heads, dim) = (3, 24);
        let row = |position: usize| -> Vec<f32> {
            (0..heads * dim).map(|i| (position * 1000 + i) as f32).collect()
        };
        let mut segment = KvSegment::new(heads, dim, 0);
        assert!(segment.is_empty() && segment.bytes() == 0);
        for position in 0..100 {
            let row = row(position);
            segment.append(Rows::new(&row, 1, row.len()), Rows::new(&row, 1, row.len()));
        }
        segment.truncate(70);
        let other = row(500);
        segment.append(Rows::new(&other, 1, other.len()), Rows::new(&other, 1, other.len()));
        assert_eq!(segment.len(), 71);
        for position in 0..71 {
            let expected = row(if position == 70 { 500 } else { position });
            for head in 0..heads {
                let part = expected[head * dim..(head + 1) * dim].to_vec();
                assert_eq!(entry(&segment, head, position), (part.clone(), part), "{head} {position}");
            }
        }
        assert!(segment.bytes() >= KvSegment::bytes_for(heads, dim, segment.capacity()));
    }
}
