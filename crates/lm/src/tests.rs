//! Tests of the engine as a whole, on tiny models made here and, where present, on the real one.

mod constrained;
mod families;
mod fed;
mod files;
mod generation;
mod gpu;
mod invariance;
mod real_model;
mod schema;
pub(crate) mod tiny;
mod training;
