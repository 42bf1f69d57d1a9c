//! The backward pass of causal attention over sequences that share a prefix.
//!
//! A task takes one tree and one key-value head, so that the gradients of the shared keys and values are added up in one
//! place and in one order: trunk first, then the branches, head by head, block of queries by block of queries. Nothing
//! but queries, keys, values and the forward pass's output is needed: probabilities are computed again.
//!
//! All five products have right-hand sides that lie in rows of 32: keys and values as panels `[head_dim][32 positions]`
//! for scores, keys as rows for the queries' gradient, and the scores' own rows for the gradients of keys and values,
//! which are therefore kept transposed, `[head_dim][positions]`.

use std::ops::Range;

use super::super::aligned::with_scratch;
use super::super::attention::AttentionShape;
use super::super::isa::{Isa, per_isa};
use super::super::kv::padded;
use super::super::packed::PANEL;
use super::super::pool::{Pool, SharedSlice};
use super::super::rowwise::{LANES, add_lanes, exp_and_sum, row_max};
use super::super::tile::{self, CHUNK, LEFT_STRIDE, Sums};

/// Queries in one block: their probabilities stay in the second-level cache.
const BLOCK: usize = 112;

/// Rows of one batch that attend to each other: a prefix and its continuations.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AttentionTree {
    pub trunk: Range<usize>,
    /// Each sees the trunk and itself.
    pub branches: Vec<Range<usize>>,
}

/// Gradients by queries, keys and values.
///
/// `qkv` rows hold queries, keys, values (already normed and rotated), `out` what [`super::super::attention`] made of them and
/// `d_out` the loss's gradient by it; `d_qkv` has the shape of `qkv`, and every column of the trees' rows is written.
///
/// # Panics
/// When lengths do not fit together.
pub fn attention_gradient(
    pool: &Pool,
    shape: &AttentionShape,
    qkv: &[f32],
    trees: &[AttentionTree],
    (out, d_out): (&[f32], &[f32]),
    d_qkv: &mut [f32],
) {
    let width = (shape.heads + 2 * shape.kv_heads) * shape.head_dim;
    let queries = shape.heads * shape.head_dim;
    assert!(qkv.len().is_multiple_of(width) && qkv.len() == d_qkv.len(), "rows of {width} values");
    assert!(out.len() == d_out.len() && out.len() == qkv.len() / width * queries, "rows of {queries} values");
    assert!(
        shape.causal && (1..=CHUNK).contains(&shape.head_dim),
        "causal, with heads of at most {CHUNK} values"
    );
    d_qkv.fill(0.0);
    let shared = SharedSlice::new(d_qkv);
    pool.run(trees.len() * shape.kv_heads, &|task| {
        let tree = &trees[task / shape.kv_heads];
        let work =
            HeadWork { isa: pool.isa(), shape, qkv, out, d_out, kv_head: task % shape.kv_heads, width };
        let none = 0..0;
        for (prefix, own) in std::iter::once((&none, &tree.trunk))
            .chain(tree.branches.iter().map(|branch| (&tree.trunk, branch)))
            .filter(|(_, own)| !own.is_empty())
        {
            work.run(prefix.clone(), own.clone(), &shared);
        }
    });
}

/// One key-value head of one tree.
struct HeadWork<'a> {
    isa: Isa,
    shape: &'a AttentionShape,
    qkv: &'a [f32],
    out: &'a [f32],
    d_out: &'a [f32],
    kv_head: usize,
    width: usize,
}

/// What the products of one sequence read and write.
struct Operands<'a> {
    /// Panels `[panel][head_dim][32]`.
    key_panels: &'a mut [f32],
    value_panels: &'a mut [f32],
    /// `[position][padded head_dim]`.
    key_rows: &'a mut [f32],
    /// `[head_dim][positions, padded to 32]`.
    d_keys: &'a mut [f32],
    d_values: &'a mut [f32],
}

/// What a block of queries of one head needs.
struct BlockSpace<'a> {
    /// `[row][LEFT_STRIDE]`: queries, then gradients of the output.
    query_rows: &'a mut [f32],
    d_out_rows: &'a mut [f32],
    /// `[head_dim][LEFT_STRIDE]`: the same transposed.
    query_columns: &'a mut [f32],
    d_out_columns: &'a mut [f32],
    /// `[chunk][row][LEFT_STRIDE]`.
    probabilities: &'a mut [f32],
    d_scores: &'a mut [f32],
    /// `[row][padded head_dim]`.
    d_queries: &'a mut [f32],
}

impl HeadWork<'_> {
    /// Queries `own` over keys `prefix`, then `own`.
    fn run(&self, prefix: Range<usize>, own: Range<usize>, d_qkv: &SharedSlice<'_, f32>) {
        let dim = self.shape.head_dim;
        let keys = prefix.len() + own.len();
        let (positions, chunks) = (keys.next_multiple_of(PANEL), keys.div_ceil(CHUNK));
        let block = BLOCK.min(own.len());
        let sizes = [positions * dim, positions * dim, keys * padded(dim), positions * dim, positions * dim];
        let scores = chunks * block * LEFT_STRIDE;
        let spaces = [
            block * LEFT_STRIDE,
            block * LEFT_STRIDE,
            dim * LEFT_STRIDE,
            dim * LEFT_STRIDE,
            scores,
            scores,
            block * padded(dim),
        ];
        with_scratch(sizes.iter().sum(), |memory| {
            let [key_panels, value_panels, key_rows, d_keys, d_values] = split(memory, sizes);
            let mut operands = Operands { key_panels, value_panels, key_rows, d_keys, d_values };
            self.pack(prefix.clone().chain(own.clone()), &mut operands);
            with_scratch(spaces.iter().sum(), |memory| {
                let [
                    query_rows,
                    d_out_rows,
                    query_columns,
                    d_out_columns,
                    probabilities,
                    d_scores,
                    d_queries,
                ] = split(memory, spaces);
                let mut space = BlockSpace {
                    query_rows,
                    d_out_rows,
                    query_columns,
                    d_out_columns,
                    probabilities,
                    d_scores,
                    d_queries,
                };
                let group = self.shape.heads / self.shape.kv_heads;
                for head in self.kv_head * group..(self.kv_head + 1) * group {
                    for start in (0..own.len()).step_by(block) {
                        let rows = start..own.len().min(start + block);
                        let queries = QueryBlock {
                            work: self,
                            head,
                            first_row: own.start,
                            prefix: prefix.len(),
                            rows,
                            block,
                        };
                        queries.run(&mut operands, &mut space, d_qkv);
                    }
                }
            });
            self.add_keys(prefix.chain(own), &operands, positions, d_qkv);
        });
    }

    fn columns(&self, part: Part, head: usize) -> Range<usize> {
        let dim = self.shape.head_dim;
        let first = match part {
            Part::Query => head,
            Part::Key => self.shape.heads + head,
            Part::Value => self.shape.heads + self.shape.kv_heads + head,
        };
        first * dim..(first + 1) * dim
    }

    fn head_row(&self, row: usize, part: Part, head: usize) -> &[f32] {
        let columns = self.columns(part, head);
        &self.qkv[row * self.width + columns.start..row * self.width + columns.end]
    }

    fn pack(&self, rows: impl Iterator<Item = usize>, operands: &mut Operands<'_>) {
        let dim = self.shape.head_dim;
        operands.key_panels.fill(0.0);
        operands.value_panels.fill(0.0);
        operands.key_rows.fill(0.0);
        operands.d_keys.fill(0.0);
        operands.d_values.fill(0.0);
        for (position, row) in rows.enumerate() {
            let (key, value) =
                (self.head_row(row, Part::Key, self.kv_head), self.head_row(row, Part::Value, self.kv_head));
            operands.key_rows[position * padded(dim)..][..dim].copy_from_slice(key);
            let panel = position / PANEL * PANEL * dim + position % PANEL;
            for (index, (key, value)) in key.iter().zip(value).enumerate() {
                operands.key_panels[panel + index * PANEL] = *key;
                operands.value_panels[panel + index * PANEL] = *value;
            }
        }
    }

    fn add_keys(
        &self,
        rows: impl Iterator<Item = usize>,
        operands: &Operands<'_>,
        positions: usize,
        d_qkv: &SharedSlice<'_, f32>,
    ) {
        let dim = self.shape.head_dim;
        for (position, row) in rows.enumerate() {
            for (part, from) in [(Part::Key, &*operands.d_keys), (Part::Value, &*operands.d_values)] {
                let at = row * self.width + self.columns(part, self.kv_head).start;
                #[expect(unsafe_code, reason = "tasks write different heads and rows of `d_qkv`")]
                // SAFETY: this tree's rows and this key-value head's columns belong to this task alone.
                let out = unsafe { d_qkv.part(at, dim) };
                for (index, out) in out.iter_mut().enumerate() {
                    *out += from[index * positions + position];
                }
            }
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Part {
    Query,
    Key,
    Value,
}

/// Some queries of one head.
struct QueryBlock<'a> {
    work: &'a HeadWork<'a>,
    head: usize,
    /// Batch row of the sequence's first query, and keys before it.
    first_row: usize,
    prefix: usize,
    /// Queries, counted from `first_row`.
    rows: Range<usize>,
    /// Rows of a whole block: the layout of the scores.
    block: usize,
}

impl QueryBlock<'_> {
    /// Keys that a query (counted from the block's first) sees.
    fn visible(&self, place: usize) -> Range<usize> {
        let end = self.prefix + self.rows.start + place + 1;
        end.saturating_sub(self.work.shape.window.unwrap_or(end))..end
    }

    fn at(&self, position: usize, place: usize) -> usize {
        (position / CHUNK * self.block + place) * LEFT_STRIDE + position % CHUNK
    }

    fn run(&self, operands: &mut Operands<'_>, space: &mut BlockSpace<'_>, d_qkv: &SharedSlice<'_, f32>) {
        self.pack(space);
        self.panel_products(&*space.query_rows, operands.key_panels, space.probabilities);
        self.panel_products(&*space.d_out_rows, operands.value_panels, space.d_scores);
        for place in 0..self.rows.len() {
            self.softmax_row(place, space);
        }
        self.query_gradient(operands, space, d_qkv);
        self.key_gradient(operands, space);
    }

    /// Queries (scaled) and the output's gradients, as rows and as columns.
    fn pack(&self, space: &mut BlockSpace<'_>) {
        let (work, dim) = (self.work, self.work.shape.head_dim);
        for (place, row) in self.rows.clone().enumerate() {
            let row = self.first_row + row;
            let query = work.head_row(row, Part::Query, self.head);
            let at = (row * work.shape.heads + self.head) * dim;
            let d_out = &work.d_out[at..at + dim];
            for (index, (query, d_out)) in query.iter().zip(d_out).enumerate() {
                let scaled = query * work.shape.scale;
                space.query_rows[place * LEFT_STRIDE + index] = scaled;
                space.query_columns[index * LEFT_STRIDE + place] = scaled;
                space.d_out_rows[place * LEFT_STRIDE + index] = *d_out;
                space.d_out_columns[index * LEFT_STRIDE + place] = *d_out;
            }
        }
    }

    /// `out[place][position] = left[place] . column(position)` for every key that the block's tiles see.
    fn panel_products(&self, left: &[f32], panels: &[f32], out: &mut [f32]) {
        let (isa, dim) = (self.work.isa, self.work.shape.head_dim);
        let tile_rows = tile::max_rows(isa);
        for place in (0..self.rows.len()).step_by(tile_rows) {
            let rows = tile_rows.min(self.rows.len() - place);
            let end = self.visible(place + rows - 1).end;
            for (panel, values) in panels.chunks_exact(PANEL * dim).take(end.div_ceil(PANEL)).enumerate() {
                let at = self.at(panel * PANEL, place);
                let left = &left[place * LEFT_STRIDE..];
                tile::product(
                    isa,
                    (left, rows),
                    (values, PANEL),
                    (&mut out[at..], LEFT_STRIDE),
                    (dim, PANEL),
                    Sums::New,
                );
            }
        }
    }

    /// Scores become probabilities `p`, and their gradients `p (dp - sum(p dp))`, zero where the row sees nothing.
    fn softmax_row(&self, place: usize, space: &mut BlockSpace<'_>) {
        let (isa, visible) = (self.work.isa, self.visible(place));
        let last = self.visible(self.rows.len() - 1).end.next_multiple_of(PANEL);
        let mut max = f32::NEG_INFINITY;
        for piece in pieces(visible.clone()) {
            let found = row_max(isa, &space.probabilities[self.at(piece.start, place)..][..piece.len()]);
            max = if found > max { found } else { max };
        }
        let mut lanes = [0.0; LANES];
        for piece in pieces(0..last) {
            let at = self.at(piece.start, place);
            let row = &mut space.probabilities[at..at + piece.len()];
            let inside = clamp(&visible, &piece);
            row[..inside.start].fill(f32::NEG_INFINITY);
            row[inside.end..].fill(f32::NEG_INFINITY);
            exp_and_sum(isa, row, max, &mut lanes);
        }
        let factor = 1.0 / add_lanes(&lanes);
        let dim = self.work.shape.head_dim;
        let at = ((self.first_row + self.rows.start + place) * self.work.shape.heads + self.head) * dim;
        let inner = dot(isa, &self.work.out[at..at + dim], &self.work.d_out[at..at + dim]);
        for piece in pieces(0..last) {
            let at = self.at(piece.start, place);
            let probabilities = &mut space.probabilities[at..at + piece.len()];
            let d_scores = &mut space.d_scores[at..at + piece.len()];
            let inside = clamp(&visible, &piece);
            d_scores[..inside.start].fill(0.0);
            d_scores[inside.end..].fill(0.0);
            softmax_gradient(isa, probabilities, factor, inner, d_scores);
        }
    }

    /// `d_query = scale * d_scores K`, written to its rows.
    fn query_gradient(
        &self,
        operands: &Operands<'_>,
        space: &mut BlockSpace<'_>,
        d_qkv: &SharedSlice<'_, f32>,
    ) {
        let (work, dim) = (self.work, self.work.shape.head_dim);
        let width = padded(dim);
        let tile_rows = tile::max_rows(work.isa);
        for place in (0..self.rows.len()).step_by(tile_rows) {
            let rows = tile_rows.min(self.rows.len() - place);
            for piece in pieces(0..self.visible(place + rows - 1).end) {
                let left = &space.d_scores[self.at(piece.start, place)..];
                for column in (0..width).step_by(PANEL) {
                    let right = &operands.key_rows[piece.start * width + column..];
                    let out = &mut space.d_queries[place * width + column..];
                    let extent = (piece.len(), PANEL.min(width - column));
                    let sums = if piece.start == 0 { Sums::New } else { Sums::Continue };
                    tile::product(work.isa, (left, rows), (right, width), (out, width), extent, sums);
                }
            }
        }
        let first = work.columns(Part::Query, self.head).start;
        for (row, d_query) in self.rows.clone().zip(space.d_queries.chunks_exact(width)) {
            #[expect(unsafe_code, reason = "tasks write different heads and rows of `d_qkv`")]
            // SAFETY: this tree's rows and this head's columns belong to this task alone.
            let out = unsafe { d_qkv.part((self.first_row + row) * work.width + first, dim) };
            out.iter_mut().zip(d_query).for_each(|(out, value)| *out = value * work.shape.scale);
        }
    }

    /// `d_keys^T += Q^T d_scores` (queries are scaled already) and `d_values^T += d_out^T P`, over the queries that see
    /// a panel's keys.
    fn key_gradient(&self, operands: &mut Operands<'_>, space: &BlockSpace<'_>) {
        let (isa, dim) = (self.work.isa, self.work.shape.head_dim);
        let positions = operands.d_keys.len() / dim;
        let end = self.visible(self.rows.len() - 1).end;
        for panel in (0..end).step_by(PANEL) {
            // The first query of the block that sees any key of the panel.
            let first = panel.saturating_sub(self.prefix + self.rows.start).min(self.rows.len());
            let depth = self.rows.len() - first;
            if depth == 0 {
                continue;
            }
            let at = self.at(panel, first);
            for (left, right, out) in [
                (&*space.query_columns, &*space.d_scores, &mut *operands.d_keys),
                (&*space.d_out_columns, &*space.probabilities, &mut *operands.d_values),
            ] {
                tile::product(
                    isa,
                    (&left[first..], dim),
                    (&right[at..], LEFT_STRIDE),
                    (&mut out[panel..], positions),
                    (depth, PANEL),
                    Sums::Continue,
                );
            }
        }
    }
}

/// Cuts a range of positions at multiples of [`CHUNK`].
fn pieces(range: Range<usize>) -> impl Iterator<Item = Range<usize>> {
    let mut start = range.start;
    std::iter::from_fn(move || {
        (start < range.end).then(|| {
            let end = range.end.min((start / CHUNK + 1) * CHUNK);
            let piece = start..end;
            start = end;
            piece
        })
    })
}

/// The part of a piece that is visible, counted from the piece's start.
fn clamp(visible: &Range<usize>, piece: &Range<usize>) -> Range<usize> {
    let start = visible.start.clamp(piece.start, piece.end) - piece.start;
    let end = visible.end.clamp(piece.start, piece.end) - piece.start;
    start..end.max(start)
}

/// Cuts scratch space into parts of these sizes.
fn split<const N: usize>(memory: &mut [f32], sizes: [usize; N]) -> [&mut [f32]; N] {
    let mut rest = memory;
    sizes.map(|size| {
        let (part, later) = std::mem::take(&mut rest).split_at_mut(size);
        rest = later;
        part
    })
}

per_isa! {
    fn dot(a: &[f32], b: &[f32]) -> f32 {
        let mut lanes = [0.0_f32; LANES];
        for (a, b) in a.chunks(LANES).zip(b.chunks(LANES)) {
            for ((lane, a), b) in lanes.iter_mut().zip(a).zip(b) {
                *lane = a.mul_add(*b, *lane);
            }
        }
        add_lanes(&lanes)
    }
}

per_isa! {
    fn softmax_gradient(probabilities: &mut [f32], factor: f32, inner: f32, d_scores: &mut [f32]) {
        for (p, d) in probabilities.iter_mut().zip(d_scores) {
            *p *= factor;
            *d = *p * (*d - inner);
        }
    }
}
