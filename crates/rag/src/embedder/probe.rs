use serde::{Deserialize, Serialize};

/// Cosine from which on two vectors of one text are of one model. Servers compute in low precision and in batches of any
/// size, which moves a vector by some 1e-4; another model, or another quantisation, moves it by more.
const SAME_MODEL: f64 = 0.999;

/// The vector of a known text: tells models apart that a server has under one name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Probe(Vec<i16>);

impl Probe {
    /// What is embedded.
    pub(crate) const TEXT: &str =
        "The keeper of the lighthouse wrote down that the tide was four metres high.";

    /// In steps of 1/32767 of its greatest number: its length says nothing.
    pub(crate) fn of(vector: &[f32]) -> Self {
        let greatest = vector.iter().fold(f32::MIN_POSITIVE, |greatest, value| greatest.max(value.abs()));
        let step = |value: &f32| (value / greatest * f32::from(i16::MAX)).round() as i16;
        Self(vector.iter().map(step).collect())
    }

    /// What [`Probe::of`] makes the same probe of.
    pub(crate) fn vector(&self) -> Vec<f32> {
        self.0.iter().map(|step| f32::from(*step)).collect()
    }

    /// Of vectors of different lengths 0.
    #[must_use]
    pub fn cosine(&self, other: &Self) -> f64 {
        let product = |a: &Self, b: &Self| -> f64 {
            a.0.iter().zip(&b.0).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum()
        };
        let lengths = (product(self, self) * product(other, other)).sqrt();
        if self.0.len() == other.0.len() && lengths > 0.0 { product(self, other) / lengths } else { 0.0 }
    }

    /// Whether both are of one model, as far as its server's rounding lets that be told.
    #[must_use]
    pub fn is_same_model(&self, other: &Self) -> bool {
        self.cosine(other) >= SAME_MODEL
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_server_rounds_is_the_same_model_and_another_is_not() {
        let vector: Vec<f32> = (0..384).map(|at| (at as f32 * 0.7).sin() * 0.05).collect();
        let moved = |by: f32| -> Vec<f32> {
            vector.iter().enumerate().map(|(at, value)| value + by * (at as f32 * 1.9).cos()).collect()
        };
        let probe = Probe::of(&vector);
        assert!(probe.is_same_model(&Probe::of(&moved(1e-4))));
        assert!(probe.is_same_model(&Probe::of(&vector.iter().map(|value| value * 3.0).collect::<Vec<_>>())));
        assert!(!probe.is_same_model(&Probe::of(&moved(0.01))));
        assert!(!probe.is_same_model(&Probe::of(&vector[..383])));
        assert!(!Probe::of(&[0.0]).is_same_model(&Probe::of(&[0.0])));
        assert_eq!(Probe::of(&probe.vector()), probe);
    }
}
