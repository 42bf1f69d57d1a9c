//! CPU kernels of the backward pass. Sums have one fixed order here too: the same inputs give the same gradients,
//! bit for bit, on any number of threads and any instruction set.

mod attention;
mod labels;
mod outer;
mod rowwise;
#[cfg(test)]
mod tests;

pub use attention::{AttentionTree, attention_gradient};
pub use labels::{LabelStatistics, label_statistics};
pub use outer::add_outer_product;
pub use rowwise::{
    add_column_sums, add_products, drop_out, kept_values, rms_norm_gradient, rms_norm_heads_gradient,
    rms_norm_weight_gradient, scale_columns, silu_mul_gradient,
};
