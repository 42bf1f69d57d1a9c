//! Tests of the engine as a whole, on tiny models made here and, where present, on the real one.

mod constrained;
mod families;
mod fed;
mod files;
mod generation;
mod gpu;
mod invariance;
mod likeliest;
mod real_model;
mod schema;
mod sharing;
pub(crate) mod tiny;
mod training;
