//! Attention of ragged pieces over shared, segmented prefixes: causal in decoders, both ways in encoders.
//!
//! A task takes one piece, one key-value head and a block of rows (the query heads that share the key-value head are
//! stacked as rows). Scores lie in chunks of 384 positions, `[chunk][row][LEFT_STRIDE]`, by *absolute* position, so
//! that softmax lanes and the chain over values never see where a prefix was cut into segments. The chain of
//! a row covers exactly the keys it may see: what only some rows of a tile see is added row by row.

use std::ops::Range;

use super::aligned::with_scratch;
use super::isa::Isa;
use super::kv::{KvSegment, Rows, padded};
use super::packed::PANEL;
use super::pool::{Pool, SharedSlice};
use super::rowwise::{LANES, add_lanes, divided, exp_and_sum, row_max, scaled};
use super::tile::{self, CHUNK, LEFT_STRIDE, Tile, VECTOR};

/// Bytes of scores that a task may hold beyond its first tile: half of a usual second-level cache.
const SCORE_BYTES: usize = 400 * 1024;
/// Tiles of rows in one task at most.
const MAX_TILES: usize = 8;
/// Tasks wanted for each thread before row blocks are made larger.
const TASKS_PER_THREAD: usize = 4;

/// What all pieces of one call have in common.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AttentionShape {
    /// Query heads.
    pub heads: usize,
    /// Key-value heads; must divide `heads`.
    pub kv_heads: usize,
    /// Values of one head, at most 384.
    pub head_dim: usize,
    /// Factor of the scores, usually `1 / sqrt(head_dim)`; applied to the queries.
    pub scale: f32,
    /// Sliding window: a query sees only the last `window` positions, its own included (as in Mistral).
    pub window: Option<usize>,
    /// Whether a query sees only positions up to its own. Encoders see all of them, and have no window.
    pub causal: bool,
}

/// New tokens of one sequence.
#[derive(Clone, Copy, Debug)]
pub struct AttentionJob<'a> {
    /// First row of this piece in the queries and in the output.
    pub first_row: usize,
    /// Number of new tokens.
    pub rows: usize,
    /// Segments before `own`, in order of position; all of them are visible.
    pub prefix: &'a [&'a KvSegment],
    /// The segment that the new tokens' keys and values were appended to: they are its last `rows` positions.
    pub own: &'a KvSegment,
}

impl AttentionJob<'_> {
    /// Positions that the last new token sees.
    fn total(&self) -> usize {
        self.prefix.iter().map(|segment| segment.len()).sum::<usize>() + self.own.len()
    }
}

/// `out = softmax(scale q K^T) V` for each row and head; `q` and `out` rows hold `heads * head_dim` values.
///
/// `out` is `[rows, heads * head_dim]`; rows that belong to no job are left alone. A row's result is a function of
/// its query and of the visible keys and values in order of position, bit for bit, whatever the segmentation,
/// the other jobs and the number of threads.
///
/// # Panics
/// When shapes do not fit together or jobs share rows.
pub fn attention(
    pool: &Pool,
    shape: &AttentionShape,
    q: Rows<'_>,
    jobs: &[AttentionJob<'_>],
    out: &mut [f32],
) {
    check(shape, q, jobs, out);
    let tasks = tasks(pool, shape, jobs);
    let shared = SharedSlice::new(out);
    let width = shape.heads * shape.head_dim;
    pool.run(tasks.len(), &|index| {
        let task = &tasks[index];
        let job = &jobs[task.job];
        let group = shape.heads / shape.kv_heads;
        let block = Block::new(pool.isa(), shape, job, task);
        block.run(q, |row, result, sum| {
            let (token, head) = (row / group, task.kv_head * group + row % group);
            let at = (job.first_row + token) * width + head * shape.head_dim;
            #[expect(unsafe_code, reason = "tasks write different heads and rows of `out`")]
            // SAFETY: `check` saw that jobs share no rows; this row and head belong to this task alone.
            let out = unsafe { shared.part(at, shape.head_dim) };
            divided(pool.isa(), result, sum, out);
        });
    });
}

fn check(shape: &AttentionShape, q: Rows<'_>, jobs: &[AttentionJob<'_>], out: &[f32]) {
    let AttentionShape { heads, kv_heads, head_dim, .. } = *shape;
    assert!(kv_heads > 0 && heads.is_multiple_of(kv_heads), "{kv_heads} key-value heads for {heads} heads");
    assert!((1..=CHUNK).contains(&head_dim), "head size {head_dim} is not in 1..={CHUNK}");
    assert!(shape.window != Some(0), "a window of no positions");
    assert!(shape.causal || shape.window.is_none(), "a window that looks both ways");
    assert_eq!(out.len(), q.count() * heads * head_dim, "as many outputs as queries");
    let mut ranges: Vec<Range<usize>> =
        jobs.iter().map(|job| job.first_row..job.first_row + job.rows).collect();
    ranges.sort_by_key(|range| range.start);
    assert!(ranges.windows(2).all(|pair| pair[0].end <= pair[1].start), "jobs share rows");
    assert!(ranges.last().is_none_or(|range| range.end <= q.count()), "a job has more rows than the queries");
    for job in jobs {
        assert!(job.rows <= job.own.len(), "the new tokens' keys must be appended first");
        let fits = |segment: &KvSegment| segment.kv_heads() == kv_heads && segment.head_dim() == head_dim;
        assert!(fits(job.own) && job.prefix.iter().all(|segment| fits(segment)), "segments of another shape");
    }
}

/// Stacked rows `rows` (token-major) of one piece and key-value head.
#[derive(Clone, Debug)]
struct Task {
    job: usize,
    kv_head: usize,
    rows: Range<usize>,
    tile_rows: usize,
}

fn tasks(pool: &Pool, shape: &AttentionShape, jobs: &[AttentionJob<'_>]) -> Vec<Task> {
    let group = shape.heads / shape.kv_heads;
    let max_rows = tile::max_rows(pool.isa());
    let tiles: usize = jobs.iter().map(|job| (job.rows * group).div_ceil(max_rows) * shape.kv_heads).sum();
    let spare = (tiles / (TASKS_PER_THREAD * pool.threads())).clamp(1, MAX_TILES);
    let mut tasks = Vec::new();
    for (index, job) in jobs.iter().enumerate().filter(|(_, job)| job.rows > 0) {
        let stacked = job.rows * group;
        let tile_rows = stacked.div_ceil(stacked.div_ceil(max_rows));
        let tile_bytes = tile_rows * job.total().min(shape.window.unwrap_or(usize::MAX)) * size_of::<f32>();
        let block_rows = tile_rows * (SCORE_BYTES / tile_bytes).clamp(1, spare);
        for kv_head in 0..shape.kv_heads {
            for start in (0..stacked).step_by(block_rows) {
                tasks.push(Task {
                    job: index,
                    kv_head,
                    rows: start..stacked.min(start + block_rows),
                    tile_rows,
                });
            }
        }
    }
    tasks
}

/// One segment's part of the key sequence.
#[derive(Clone, Copy, Debug)]
struct Span<'a> {
    segment: &'a KvSegment,
    start: usize,
    end: usize,
}

/// The work of one task.
struct Block<'a> {
    isa: Isa,
    shape: &'a AttentionShape,
    task: &'a Task,
    first_row: usize,
    spans: Vec<Span<'a>>,
    /// Keys that the piece's first token sees where attention is causal, its own included.
    first_visible: usize,
    /// New tokens of the piece.
    piece_rows: usize,
    group: usize,
    first_chunk: usize,
    /// For each tile, the end of what its last row sees.
    tile_ends: Vec<usize>,
}

impl<'a> Block<'a> {
    fn new(isa: Isa, shape: &'a AttentionShape, job: &AttentionJob<'a>, task: &'a Task) -> Self {
        let mut spans = Vec::with_capacity(job.prefix.len() + 1);
        let mut start = 0;
        for segment in job.prefix.iter().copied().chain([job.own]) {
            spans.push(Span { segment, start, end: start + segment.len() });
            start += segment.len();
        }
        let first_visible = start - job.rows + 1;
        let group = shape.heads / shape.kv_heads;
        let mut block = Self {
            isa,
            shape,
            task,
            first_row: job.first_row,
            spans,
            first_visible,
            piece_rows: job.rows,
            group,
            first_chunk: 0,
            tile_ends: Vec::new(),
        };
        block.first_chunk = block.visible(task.rows.start).start / CHUNK;
        block.tile_ends = task
            .rows
            .clone()
            .step_by(task.tile_rows)
            .map(|row| block.visible(task.rows.end.min(row + task.tile_rows) - 1).end)
            .collect();
        block
    }

    /// Absolute positions that a stacked row sees; both ends grow with the row, or stay where they are.
    fn visible(&self, row: usize) -> Range<usize> {
        let seen = if self.shape.causal { row / self.group } else { self.piece_rows - 1 };
        let end = self.first_visible + seen;
        end.saturating_sub(self.shape.window.unwrap_or(end))..end
    }

    fn run(&self, q: Rows<'_>, mut emit: impl FnMut(usize, &[f32], f32)) {
        let rows = self.task.rows.clone();
        let last = self.visible(rows.end - 1).end;
        let chunks = last.div_ceil(CHUNK) - self.first_chunk;
        let width = padded(self.shape.head_dim);
        with_scratch(chunks * rows.len() * LEFT_STRIDE, |scores| {
            with_scratch(rows.len() * LEFT_STRIDE, |left| {
                self.pack_queries(q, left);
                self.score(left, scores);
            });
            with_scratch(rows.len() * (width + 1), |scratch| {
                let (sums, results) = scratch.split_at_mut(rows.len());
                for (place, sum) in sums.iter_mut().enumerate() {
                    *sum = self.softmax_row(place, scores);
                }
                results.fill(0.0);
                self.weigh(scores, results);
                for ((row, result), sum) in rows.clone().zip(results.chunks_exact(width)).zip(sums.iter()) {
                    emit(row, result, *sum);
                }
            });
        });
    }

    fn pack_queries(&self, q: Rows<'_>, left: &mut [f32]) {
        let AttentionShape { heads, head_dim, scale, .. } = *self.shape;
        for (packed, row) in left.chunks_exact_mut(LEFT_STRIDE).zip(self.task.rows.clone()) {
            let head = self.task.kv_head * self.group + row % self.group;
            let query = q.row(self.first_row + row / self.group, heads * head_dim);
            scaled(self.isa, &query[head * head_dim..(head + 1) * head_dim], scale, packed);
        }
    }

    /// Start of a row's chunk in the scores.
    fn chunk_at(&self, position: usize, place: usize) -> usize {
        ((position / CHUNK - self.first_chunk) * self.task.rows.len() + place) * LEFT_STRIDE
    }

    /// All products of queries and keys that some row of the block sees.
    fn score(&self, left: &[f32], scores: &mut [f32]) {
        let rows = self.task.rows.clone();
        let (first, last) = (self.visible(rows.start).start, self.visible(rows.end - 1).end);
        let panel_len = PANEL * self.shape.head_dim;
        for span in &self.spans {
            let panels = span.segment.key_panels(self.task.kv_head);
            let end = span.end.min(last);
            // Panels wholly before the window are skipped; they are counted from the segment's start.
            let skipped = first.saturating_sub(span.start) / PANEL;
            for (index, panel) in panels.chunks_exact(panel_len).enumerate().skip(skipped) {
                let position = span.start + index * PANEL;
                if position >= end {
                    break;
                }
                self.score_panel(left, panel, position, end, scores);
            }
        }
    }

    /// Products with the panel whose first key is at `position`; keys from `end` on do not count.
    fn score_panel(&self, left: &[f32], panel: &[f32], position: usize, end: usize, scores: &mut [f32]) {
        if position / CHUNK < self.first_chunk {
            self.score_early_panel(left, panel, position, end, scores);
            return;
        }
        let rows = self.task.rows.len();
        let start = self.chunk_at(position, 0) + position % CHUNK;
        for (index, place) in (0..rows).step_by(self.task.tile_rows).enumerate() {
            let keys = end.min(self.tile_ends[index]).saturating_sub(position);
            if keys > 0 {
                let count = self.task.tile_rows.min(rows - place);
                let out = &mut scores[start + place * LEFT_STRIDE..];
                self.score_tile(&left[place * LEFT_STRIDE..], panel, out, LEFT_STRIDE, count, keys);
            }
        }
        // A panel that crosses into the next chunk ran into the spare columns: move what is beyond.
        let stop = end.min(position + PANEL);
        let next = (position / CHUNK + 1) * CHUNK;
        if stop > next {
            for place in 0..rows {
                let from = self.chunk_at(position, place) + CHUNK;
                let to = self.chunk_at(next, place);
                scores.copy_within(from..from + stop - next, to);
            }
        }
    }

    /// A panel that begins before the first chunk kept (only with a window): by way of a spare row.
    fn score_early_panel(
        &self,
        left: &[f32],
        panel: &[f32],
        position: usize,
        end: usize,
        scores: &mut [f32],
    ) {
        let start = self.first_chunk * CHUNK;
        let stop = end.min(position + PANEL);
        if stop <= start {
            return;
        }
        let mut spare = [0.0; PANEL];
        for place in 0..self.task.rows.len() {
            self.score_tile(&left[place * LEFT_STRIDE..], panel, &mut spare, PANEL, 1, PANEL);
            let to = self.chunk_at(start, place);
            scores[to..to + stop - start].copy_from_slice(&spare[start - position..stop - position]);
        }
    }

    /// One tile of products; of the panel's keys only the first `keys` are needed.
    fn score_tile(
        &self,
        left: &[f32],
        panel: &[f32],
        out: &mut [f32],
        out_stride: usize,
        rows: usize,
        keys: usize,
    ) {
        let depth = self.shape.head_dim;
        assert!(left.len() >= (rows - 1) * LEFT_STRIDE + depth && panel.len() >= depth * PANEL);
        assert!(out.len() >= (rows - 1) * out_stride + PANEL);
        let tile = Tile {
            left: left.as_ptr(),
            right: panel.as_ptr(),
            right_stride: PANEL,
            ahead: std::ptr::null(),
            ahead_stride: 0,
            start: std::ptr::null(),
            start_stride: 0,
            out: out.as_mut_ptr(),
            out_stride,
            rows,
            vectors: if keys > VECTOR { 2 } else { 1 },
            depth,
            bias: std::ptr::null(),
            accumulate: false,
        };
        #[expect(unsafe_code, reason = "calls the tile kernel")]
        // SAFETY: checked just above.
        unsafe {
            tile::multiply(self.isa, tile);
        }
    }

    /// Turns a row's scores into `exp(score - max)` and returns their sum; nothing else of the row is read later.
    fn softmax_row(&self, place: usize, scores: &mut [f32]) -> f32 {
        let visible = self.visible(self.task.rows.start + place);
        let mut max = f32::NEG_INFINITY;
        for piece in chunked(visible.clone()) {
            let at = self.chunk_at(piece.start, place);
            let found = row_max(self.isa, &scores[at + piece.start % CHUNK..][..piece.len()]);
            max = if found > max { found } else { max };
        }
        let mut lanes = [0.0; LANES];
        for piece in chunked(visible) {
            let at = self.chunk_at(piece.start, place);
            let (start, end) = (piece.start % CHUNK, piece.start % CHUNK + piece.len());
            // Whole vectors: what lies outside the row's keys becomes exp(-inf) = 0 and adds nothing.
            let (from, to) = (start - start % LANES, end.next_multiple_of(LANES));
            scores[at + from..at + start].fill(f32::NEG_INFINITY);
            scores[at + end..at + to].fill(f32::NEG_INFINITY);
            exp_and_sum(self.isa, &mut scores[at + from..at + to], max, &mut lanes);
        }
        add_lanes(&lanes)
    }

    /// `results[row] += sum over keys of weight * value`, in order of position for every row.
    fn weigh(&self, scores: &[f32], results: &mut [f32]) {
        let tiles = self.common_keys();
        // Keys that only the tile's first rows still see (they have left the window of later rows).
        for (places, common) in &tiles {
            for run in self.token_runs(places.clone()) {
                let visible = self.visible(self.task.rows.start + run.start);
                self.weigh_range(run, visible.start..visible.end.min(common.start), scores, results);
            }
        }
        for span in &self.spans {
            for piece in chunked(span.start..span.end) {
                for (places, common) in &tiles {
                    let range = piece.start.max(common.start)..piece.end.min(common.end);
                    self.weigh_piece(span, places.clone(), range, scores, results);
                }
            }
        }
        // Keys that only the tile's last rows see already.
        for (places, common) in &tiles {
            for run in self.token_runs(places.clone()) {
                let visible = self.visible(self.task.rows.start + run.start);
                self.weigh_range(run, visible.start.max(common.end)..visible.end, scores, results);
            }
        }
    }

    /// The tiles' rows, each with the keys that all of its rows see.
    fn common_keys(&self) -> Vec<(Range<usize>, Range<usize>)> {
        let rows = &self.task.rows;
        let places = (0..rows.len()).step_by(self.task.tile_rows);
        places
            .map(|place| {
                let stop = rows.len().min(place + self.task.tile_rows);
                let low = self.visible(rows.start + stop - 1).start;
                let high = self.visible(rows.start + place).end;
                (place..stop, low..high.max(low))
            })
            .collect()
    }

    /// Cuts rows where the token changes: the heads of one token see the same keys.
    fn token_runs(&self, places: Range<usize>) -> impl Iterator<Item = Range<usize>> {
        let (first, group) = (self.task.rows.start, self.group);
        cut(first + places.start..first + places.end, group)
            .map(move |rows| rows.start - first..rows.end - first)
    }

    fn weigh_range(&self, places: Range<usize>, range: Range<usize>, scores: &[f32], results: &mut [f32]) {
        for span in &self.spans {
            for piece in chunked(range.start.max(span.start)..range.end.min(span.end)) {
                self.weigh_piece(span, places.clone(), piece, scores, results);
            }
        }
    }

    /// Adds the keys of `range`, which lies inside one chunk and one segment.
    fn weigh_piece(
        &self,
        span: &Span<'_>,
        places: Range<usize>,
        range: Range<usize>,
        scores: &[f32],
        results: &mut [f32],
    ) {
        if range.is_empty() {
            return;
        }
        let (place, count) = (places.start, places.len());
        let width = padded(self.shape.head_dim);
        let left = &scores[self.chunk_at(range.start, place) + range.start % CHUNK..];
        let right = &span.segment.value_rows(self.task.kv_head)[(range.start - span.start) * width..];
        assert!(left.len() >= (count - 1) * LEFT_STRIDE + range.len() && right.len() >= range.len() * width);
        for column in (0..width).step_by(2 * VECTOR) {
            let out = results[place * width + column..places.end * width].as_mut_ptr();
            let tile = Tile {
                left: left.as_ptr(),
                right: right[column..].as_ptr(),
                right_stride: width,
                ahead: std::ptr::null(),
                ahead_stride: 0,
                start: out,
                start_stride: width,
                out,
                out_stride: width,
                rows: count,
                vectors: ((width - column) / VECTOR).min(2),
                depth: range.len(),
                bias: std::ptr::null(),
                accumulate: false,
            };
            #[expect(unsafe_code, reason = "calls the tile kernel")]
            // SAFETY: `left` and `right` were checked just above; `out` is `column` columns into `count` rows of `width`.
            unsafe {
                tile::multiply(self.isa, tile);
            }
        }
    }
}

/// Cuts a range of positions at multiples of [`CHUNK`].
fn chunked(range: Range<usize>) -> impl Iterator<Item = Range<usize>> {
    cut(range, CHUNK)
}

/// Cuts a range at multiples of `step`.
fn cut(range: Range<usize>, step: usize) -> impl Iterator<Item = Range<usize>> {
    let mut start = range.start;
    std::iter::from_fn(move || {
        (start < range.end).then(|| {
            let end = range.end.min((start / step + 1) * step);
            let piece = start..end;
            start = end;
            piece
        })
    })
}
