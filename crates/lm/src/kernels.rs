//! CPU kernels of the forward pass: matrix products, attention, row-wise operations.
//!
//! Every output value is computed by one fixed sequence of IEEE operations that depends on its own
//! inputs only: a dot product is a single chain of fused multiply-adds in index order, a softmax
//! sums in sixteen lanes chosen by absolute position. So a value does not depend on what shares its
//! batch, on the number of threads, on how a prefix is cut into segments, or on the instruction
//! set: AVX-512, AVX2 and portable Rust give the same bits, and the tests hold them to it.
//!
//! This is the only place in the crate, memory maps aside, where `unsafe` may appear.

mod aligned;
mod attention;
mod encoder;
mod exp;
pub mod gradient;
mod isa;
mod kv;
mod linear;
mod packed;
mod pool;
mod quant;
mod rate;
mod rowwise;
mod tile;
mod vocabulary;
mod weight_memory;

pub use aligned::AlignedVec;
pub use attention::{AttentionJob, AttentionShape, attention};
pub use encoder::{gelu, layer_norm};
pub use exp::exp;
pub use isa::Isa;
pub use kv::{KvSegment, Rows};
pub use linear::{linear, linear_columns};
pub use packed::{PackedMatrix, PanelDtype};
pub use pool::Pool;
pub use quant::{QuantActivations, QuantError, QuantMatrix, dequantise, quant_stacked};
pub use rate::{MatmulRate, matmul_rate};
pub use rowwise::{
    Columns, RopePairing, RopeTable, add_assign, rms_norm, rms_norm_heads, rope, silu_mul, silu_mul_fused,
    softmax,
};
pub use vocabulary::{
    RowSummary, Target, TargetScores, largest, log_softmax_gather, logits, most_probable, summarise_logits,
};
