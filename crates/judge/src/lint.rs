//! What can be wrong with a file of preferences, row by row and as a whole.
//!
//! One pass in bounded memory: of a row that was read only hashes are kept, of at most [`MOST_REMEMBERED`] rows.

mod check;
mod file;
mod lengths;
mod report;
mod row;

pub use check::{Check, Finding, Severity};
pub use file::{Converted, check_file, convert_file};
pub use lengths::LengthCounts;
pub use report::LintReport;
pub use row::Linter;

/// Rows of which hashes are kept to find duplicates and contradictions: up to 90 bytes each in two tables that are half
/// full at worst, 350 MB at the bound.
pub const MOST_REMEMBERED: usize = 4_000_000;

#[cfg(test)]
mod tests;
