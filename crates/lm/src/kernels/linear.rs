//! `out = x W^T (+ bias)`, with packed weights.

use std::ops::Range;

use super::aligned::with_scratch;
use super::isa::Isa;
use super::kv::Rows;
use super::packed::{PANEL, PackedMatrix, Panels};
use super::pool::{Pool, SharedSlice};
use super::rowwise::Columns;
use super::tile::{self, CHUNK, LEFT_STRIDE, Tile, VECTOR, Weight};

/// Rows of `x` in one task at most: bounds the task's results.
const BLOCK_ROWS: usize = 168;
/// Panels in one task at most: a chunk of them stays in the second-level cache.
const BLOCK_PANELS: usize = 16;
/// Panels in one task at least, where there are rows to pack for each task.
const MIN_PANELS: usize = 4;
/// Rough rates that size the tasks; they change the split of the work and never a value.
const FLOPS_PER_MICROSECOND: usize = 100_000;
const BYTES_PER_MICROSECOND: usize = 20_000;
const TASK_MICROSECONDS: usize = 12;
const TASKS_PER_THREAD: usize = 8;
/// Tiles that make few rows. Weights then come from memory for each of them, and reading them takes as long as the
/// sums: they are read once, by one task, and the next ones are asked for while sums are made.
const FEW_TILES: usize = 3;
/// Tasks for each thread where there are few rows: every task packs all of them.
const TASKS_OF_FEW: usize = 2;
/// Rows of a tile from which on making its sums leaves time to ask for the next weights.
const ROWS_TO_ASK_AHEAD: usize = 6;
/// Values in a line of the cache.
const LINE: usize = 16;

/// `out[i][j] = sum over l of x[i][l] * w[j][l]`, plus `bias[j]`, plus what `out` held if `accumulate`.
///
/// `x` is `[m, k]` and `out` `[m, n]`, row-major. The sum is one chain of fused multiply-adds from `l = 0`, then
/// the bias is added, then the old value; so a row's result does not depend on the other rows.
///
/// # Panics
/// When the lengths do not fit together.
pub fn linear(
    pool: &Pool,
    x: &[f32],
    w: &PackedMatrix,
    bias: Option<&[f32]>,
    out: &mut [f32],
    accumulate: bool,
) {
    let (n, k) = (w.n(), w.k());
    assert!(k > 0 && x.len().is_multiple_of(k), "x must hold whole rows of {k} values");
    let m = x.len() / k;
    assert_eq!(out.len(), m * n, "out must hold {m} x {n} values");
    let columns = Columns { stride: n, start: 0, width: n };
    linear_columns(pool, Rows::new(x, m, k), w, bias, out, columns, accumulate);
}

/// As [`linear`], from rows that may lie apart into some columns of `out`.
///
/// # Panics
/// When the lengths do not fit together.
pub fn linear_columns(
    pool: &Pool,
    x: Rows<'_>,
    w: &PackedMatrix,
    bias: Option<&[f32]>,
    out: &mut [f32],
    columns: Columns,
    accumulate: bool,
) {
    let (m, n) = (x.count(), w.n());
    let Columns { stride, start, width } = columns;
    assert!(width == n && start + n <= stride, "the columns must take {n} values");
    assert!(out.len() == m * stride, "out must hold {m} rows of {stride} values");
    assert!(bias.is_none_or(|bias| bias.len() == n), "the bias must hold {n} values");
    let grid = Grid::new(pool, m, n, w.k(), w.bytes());
    let shared = SharedSlice::new(out);
    let direct = Direct { out: &shared, stride, start, bias, accumulate };
    pool.run(grid.tasks(), &|task| {
        let (rows, panels) = grid.task(task);
        let Grid { tile_rows, packed_rows, .. } = grid;
        let then = grid.after(task, pool.threads());
        let part = Part { rows: rows.clone(), panels: panels.clone(), then, tile_rows, packed_rows };
        with_scratch(rows.len() * panels.len() * PANEL, |sums| {
            product(pool.isa(), x, w, &part, sums, Some(direct));
            for (sums, panel) in sums.chunks_exact(rows.len() * PANEL).zip(panels) {
                let columns = panel * PANEL..n.min((panel + 1) * PANEL);
                if columns.len() == PANEL {
                    continue;
                }
                for (sums, row) in sums.chunks_exact(PANEL).zip(rows.clone()) {
                    #[expect(unsafe_code, reason = "tasks write different rectangles of `out`")]
                    // SAFETY: this rectangle of rows and panels belongs to this task alone.
                    let out = unsafe { shared.part(row * stride + start + columns.start, columns.len()) };
                    finish(&sums[..columns.len()], bias.map(|bias| &bias[columns.clone()]), out, accumulate);
                }
            }
        });
    });
}

fn finish(sums: &[f32], bias: Option<&[f32]>, out: &mut [f32], accumulate: bool) {
    let zero = [0.0; PANEL];
    let bias = bias.unwrap_or(&zero);
    for ((out, sum), bias) in out.iter_mut().zip(sums).zip(bias) {
        *out = if accumulate { *out + (sum + bias) } else { sum + bias };
    }
}

/// How a product is cut into tasks: blocks of rows times blocks of panels.
#[derive(Clone, Copy, Debug)]
pub(super) struct Grid {
    m: usize,
    panels: usize,
    pub(super) tile_rows: usize,
    packed_rows: usize,
    block_rows: usize,
    block_panels: usize,
    row_blocks: usize,
}

impl Grid {
    fn new(pool: &Pool, m: usize, n: usize, k: usize, bytes: usize) -> Self {
        let panels = n.div_ceil(PANEL).max(1);
        let microseconds = (2 * m * n * k / FLOPS_PER_MICROSECOND).max(bytes / BYTES_PER_MICROSECOND);
        let few = (2..=FEW_TILES * tile::max_rows(pool.isa())).contains(&m);
        let most = if few { TASKS_OF_FEW } else { TASKS_PER_THREAD } * pool.threads();
        let wanted = (microseconds / TASK_MICROSECONDS).clamp(1, most);
        // Rows are split first: splitting panels means packing the same rows again for each part.
        let tall = if few { 1 } else { wanted.div_ceil(panels.div_ceil(BLOCK_PANELS)) };
        let (tile_rows, block_rows) = split_rows(pool.isa(), m, tall);
        let row_blocks = m.div_ceil(block_rows);
        let fewest = match m {
            0 | 1 => 1,
            _ if few => MIN_PANELS / 2,
            _ => MIN_PANELS,
        };
        let block_panels = panels.div_ceil(wanted.div_ceil(row_blocks.max(1))).max(fewest).min(BLOCK_PANELS);
        let packed_rows = if few { block_rows } else { tile_rows };
        Self { m, panels, tile_rows, packed_rows, block_rows, block_panels, row_blocks }
    }

    fn tasks(&self) -> usize {
        self.row_blocks * self.panels.div_ceil(self.block_panels)
    }

    /// Rows and panels of a task; tasks that share weights follow each other.
    fn task(&self, index: usize) -> (Range<usize>, Range<usize>) {
        let row = (index % self.row_blocks) * self.block_rows;
        let panel = (index / self.row_blocks) * self.block_panels;
        (row..self.m.min(row + self.block_rows), panel..self.panels.min(panel + self.block_panels))
    }

    /// The first panel of what the thread that has this task will probably do next; none where that shares weights
    /// with it.
    fn after(&self, task: usize, threads: usize) -> Option<usize> {
        let panel = (task + threads) * self.block_panels;
        (self.row_blocks == 1 && panel < self.panels).then_some(panel)
    }
}

/// Rows of a tile and of a task, in `blocks` tasks or more, so that no tile is much smaller than the others.
pub(super) fn split_rows(isa: Isa, m: usize, blocks: usize) -> (usize, usize) {
    let tiles = m.div_ceil(tile::max_rows(isa)).max(1);
    let tile_rows = m.div_ceil(tiles).max(1);
    let blocks = m.div_ceil(BLOCK_ROWS).max(blocks).clamp(1, tiles);
    (tile_rows, tiles.div_ceil(blocks) * tile_rows)
}

/// The rows and panels of one task, how many rows a tile has, and of how many (whole tiles) each panel is used at once.
#[derive(Clone, Debug)]
pub(super) struct Part {
    pub(super) rows: Range<usize>,
    pub(super) panels: Range<usize>,
    /// The panel that will be read after these.
    pub(super) then: Option<usize>,
    pub(super) tile_rows: usize,
    pub(super) packed_rows: usize,
}

/// Where finished sums of whole panels go at once: columns from `start` on of rows `stride` apart.
#[derive(Clone, Copy, Debug)]
pub(super) struct Direct<'a> {
    out: &'a SharedSlice<'a, f32>,
    stride: usize,
    start: usize,
    /// One value for each output.
    bias: Option<&'a [f32]>,
    accumulate: bool,
}

/// The sums of a part of `x w^T`, written to `sums` as `[panel][row][32]`; with `direct`, those of whole panels
/// go there instead.
pub(super) fn product(
    isa: Isa,
    x: Rows<'_>,
    w: &PackedMatrix,
    part: &Part,
    sums: &mut [f32],
    direct: Option<Direct<'_>>,
) {
    match w.panels() {
        Panels::F32(all) => product_of(isa, x, w, all, part, sums, direct),
        Panels::Bf16(all) => product_of(isa, x, w, all, part, sums, direct),
        Panels::F16(all) => product_of(isa, x, w, all, part, sums, direct),
    }
}

fn product_of<W: Weight>(
    isa: Isa,
    x: Rows<'_>,
    w: &PackedMatrix,
    weights: &[W],
    part: &Part,
    sums: &mut [f32],
    direct: Option<Direct<'_>>,
) {
    let (n, k, m) = (w.n(), w.k(), part.rows.len());
    let chunk = k.div_ceil(k.div_ceil(CHUNK));
    with_scratch(part.packed_rows * LEFT_STRIDE, |left| {
        for from in (0..k).step_by(chunk) {
            let depth = from..k.min(from + chunk);
            // Packed rows stay in a near cache while the panels stream past.
            for place in (0..m).step_by(part.packed_rows) {
                let row = part.rows.start + place;
                let rows = part.packed_rows.min(m - place);
                for (packed, row) in left.chunks_exact_mut(LEFT_STRIDE).zip(row..row + rows) {
                    packed[..depth.len()].copy_from_slice(&x.row(row, depth.end)[from..]);
                }
                for (sums, panel) in sums.chunks_exact_mut(m * PANEL).zip(part.panels.clone()) {
                    let share = (panel - part.panels.start, part.panels.len());
                    prefetch_rows(x, row + rows, rows, share, depth.clone());
                    let at = |panel: usize| (panel * k + from) * PANEL;
                    let is_last = place + rows == m;
                    let ahead = match panel + 1 {
                        next if next < part.panels.end => Some(at(next)),
                        _ if is_last && depth.end < k => Some((part.panels.start * k + depth.end) * PANEL),
                        _ if is_last => part.then.map(|panel| panel * k * PANEL),
                        _ => None,
                    };
                    let strip = Strip {
                        left,
                        rows: row..row + rows,
                        tile_rows: part.tile_rows,
                        right: &weights[at(panel)..at(panel) + depth.len() * PANEL],
                        ahead: ahead.and_then(|at| weights.get(at..)),
                        columns: panel * PANEL..n.min((panel + 1) * PANEL),
                        first: from == 0,
                        direct: direct.filter(|_| depth.end == k && (panel + 1) * PANEL <= n),
                    };
                    strip.multiply(isa, &mut sums[place * PANEL..(place + rows) * PANEL]);
                }
            }
        }
    });
}

/// Packed rows times a part of one panel.
struct Strip<'a, W> {
    left: &'a [f32],
    /// Of the product; the first of them is the first of `left`.
    rows: Range<usize>,
    tile_rows: usize,
    right: &'a [W],
    /// What will be read after `right`.
    ahead: Option<&'a [W]>,
    columns: Range<usize>,
    /// Sums begin here; else they go on.
    first: bool,
    direct: Option<Direct<'a>>,
}

impl<W: Weight> Strip<'_, W> {
    fn multiply(&self, isa: Isa, sums: &mut [f32]) {
        let (count, depth) = (self.rows.len(), self.right.len() / PANEL);
        assert!(self.left.len() >= count * LEFT_STRIDE && sums.len() == count * PANEL, "rows do not fit");
        let tiles = count.div_ceil(self.tile_rows);
        for (index, place) in (0..count).step_by(self.tile_rows).enumerate() {
            let rows = self.tile_rows.min(count - place);
            let sums = &mut sums[place * PANEL..(place + rows) * PANEL];
            // Each tile asks for its part of what comes next.
            let ahead = self.ahead.filter(|_| rows >= ROWS_TO_ASK_AHEAD);
            let ahead = ahead.and_then(|ahead| ahead.get(index * self.right.len() / tiles..));
            let mut tile = Tile {
                left: self.left[place * LEFT_STRIDE..].as_ptr(),
                right: self.right.as_ptr(),
                right_stride: PANEL,
                ahead: ahead.map_or(std::ptr::null(), <[W]>::as_ptr),
                ahead_stride: (PANEL / tiles).max(LINE),
                start: if self.first { std::ptr::null() } else { sums.as_ptr() },
                start_stride: PANEL,
                out: sums.as_mut_ptr(),
                out_stride: PANEL,
                rows,
                vectors: if self.columns.len() > VECTOR { 2 } else { 1 },
                depth,
                bias: std::ptr::null(),
                accumulate: false,
            };
            if let Some(direct) = self.direct {
                let at = (self.rows.start + place) * direct.stride + direct.start + self.columns.start;
                tile.out = direct.out.rectangle(at, rows, PANEL, direct.stride);
                tile.out_stride = direct.stride;
                tile.bias = direct.bias.map_or(std::ptr::null(), |bias| bias[self.columns.clone()].as_ptr());
                tile.accumulate = direct.accumulate;
            }
            #[expect(unsafe_code, reason = "calls the tile kernel")]
            // SAFETY: `left` and `sums` hold `rows` rows, `right` holds `depth` rows of 32 values, and the
            // rectangle of `direct`, with a bias for its 32 columns, was checked to lie inside and belongs to this task
            // alone.
            unsafe {
                tile::multiply(isa, tile);
            }
        }
    }
}

/// Asks for a share (the first of so many) of the rows that the next tile will pack, while this tile computes.
fn prefetch_rows(
    x: Rows<'_>,
    first: usize,
    rows: usize,
    (share, shares): (usize, usize),
    columns: Range<usize>,
) {
    for row in first + share * rows / shares..first + (share + 1) * rows / shares {
        if row < x.count() {
            tile::prefetch(&x.row(row, columns.end)[columns.start..]);
        }
    }
}
