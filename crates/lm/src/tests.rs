//! Tests of the engine as a whole, on tiny models made here and, where present, on the real one.

mod families;
mod files;
mod generation;
mod invariance;
mod real_model;
mod tiny;
