//! AdamW with decoupled decay and bias correction (Loshchilov & Hutter 2019, arXiv 1711.05101, algorithm 2), in the
//! order of operations of `torch.optim.AdamW`'s single-tensor path (torch 2.15), in f32; and clipping by the norm of
//! all gradients as `torch.nn.utils.clip_grad_norm_` does it. State is plain data, so that it can be kept.

use crate::{Gradients, Parameter};

#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AdamWOptions {
    pub beta1: f64,
    pub beta2: f64,
    pub epsilon: f64,
    pub weight_decay: f64,
}

impl Default for AdamWOptions {
    fn default() -> Self {
        Self { beta1: 0.9, beta2: 0.999, epsilon: 1e-8, weight_decay: 0.0 }
    }
}

/// Moments of all parameters, in their order.
#[derive(Clone, Debug, PartialEq)]
pub struct AdamW {
    pub options: AdamWOptions,
    /// Updates done.
    pub updates: u64,
    /// Running means of the gradients, and of their squares.
    pub means: Vec<Vec<f32>>,
    pub squares: Vec<Vec<f32>>,
}

impl AdamW {
    #[must_use]
    pub fn new(options: AdamWOptions, parameters: &[Parameter]) -> Self {
        let zeros = || parameters.iter().map(|parameter| vec![0.0; parameter.data.len()]).collect();
        Self { options, updates: 0, means: zeros(), squares: zeros() }
    }

    /// One update with this learning rate.
    pub fn update(&mut self, parameters: &mut [Parameter], gradients: &Gradients, learning_rate: f64) {
        self.updates += 1;
        let AdamWOptions { beta1, beta2, epsilon, weight_decay } = self.options;
        let exponent = i32::try_from(self.updates).unwrap_or(i32::MAX);
        let step_size = (learning_rate / (1.0 - beta1.powi(exponent))) as f32;
        let root_of_correction = (1.0 - beta2.powi(exponent)).sqrt() as f32;
        let (toward_gradient, keep, add) = ((1.0 - beta1) as f32, beta2 as f32, (1.0 - beta2) as f32);
        let epsilon = epsilon as f32;
        let moments = self.means.iter_mut().zip(&mut self.squares);
        for ((parameter, gradient), (means, squares)) in parameters.iter_mut().zip(&gradients.0).zip(moments)
        {
            let decay = if parameter.decays { (1.0 - learning_rate * weight_decay) as f32 } else { 1.0 };
            let values = parameter.data.iter_mut().zip(gradient).zip(means.iter_mut().zip(squares));
            for ((value, gradient), (mean, square)) in values {
                *mean += toward_gradient * (gradient - *mean);
                *square = *square * keep + add * gradient * gradient;
                let denominator = square.sqrt() / root_of_correction + epsilon;
                *value = *value * decay - step_size * (*mean / denominator);
            }
        }
    }
}

/// L2 norm of all gradients together, summed in f64 in a fixed order.
#[must_use]
pub fn gradient_norm(gradients: &Gradients) -> f64 {
    let square = |buffer: &Vec<f32>| buffer.iter().map(|g| f64::from(*g) * f64::from(*g)).sum::<f64>();
    gradients.0.iter().map(square).sum::<f64>().sqrt()
}

/// Scales gradients whose norm exceeds `max_norm` down to it: `g * min(1, max_norm / (norm + 1e-6))`.
pub fn clip(gradients: &mut Gradients, norm: f64, max_norm: f64) {
    let factor = (max_norm / (norm + 1e-6)) as f32;
    if factor < 1.0 {
        for gradient in gradients.0.iter_mut().flatten() {
            *gradient *= factor;
        }
    }
}

#[cfg(test)]
mod tests;
