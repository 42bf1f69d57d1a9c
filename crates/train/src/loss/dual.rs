//! Numbers that carry their derivatives by the two sums of log-probabilities of a pair.

use std::ops::{Add, Mul, Neg, Sub};

/// A value and its derivatives by the chosen and the rejected side.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Dual {
    pub(super) value: f64,
    pub(super) slope: [f64; 2],
}

impl Dual {
    pub(super) fn constant(value: f64) -> Self {
        Self { value, slope: [0.0; 2] }
    }

    /// The variable of one side (0: chosen, 1: rejected).
    pub(super) fn variable(value: f64, side: usize) -> Self {
        let mut slope = [0.0; 2];
        slope[side] = 1.0;
        Self { value, slope }
    }

    /// Chain rule: a function's value here, and its derivative.
    fn map(self, value: f64, derivative: f64) -> Self {
        Self { value, slope: self.slope.map(|slope| slope * derivative) }
    }

    pub(super) fn scale(self, factor: f64) -> Self {
        self.map(self.value * factor, factor)
    }

    pub(super) fn exp(self) -> Self {
        let value = self.value.exp();
        self.map(value, value)
    }

    pub(super) fn square(self) -> Self {
        self.map(self.value * self.value, 2.0 * self.value)
    }

    /// `max(x, 0)`; the derivative at 0 is 0, as torch's.
    pub(super) fn relu(self) -> Self {
        if self.value > 0.0 { self } else { Self::default() }
    }

    /// The smaller of the value and a constant; derivative 0 from there on.
    pub(super) fn at_most(self, limit: f64) -> Self {
        if self.value > limit { Self::constant(limit) } else { self }
    }

    pub(super) fn sigmoid(self) -> Self {
        let value = sigmoid(self.value);
        self.map(value, value * sigmoid(-self.value))
    }

    /// `ln(1 / (1 + exp(-x)))`, without overflow.
    pub(super) fn log_sigmoid(self) -> Self {
        self.map(log_sigmoid(self.value), sigmoid(-self.value))
    }

    /// `ln(1 - exp(x))` of a negative number.
    pub(super) fn log_1m_exp(self) -> Self {
        let value = (-self.value.exp_m1()).ln();
        self.map(value, -1.0 / (-self.value).exp_m1())
    }
}

pub(super) fn sigmoid(x: f64) -> f64 {
    if x >= 0.0 { 1.0 / (1.0 + (-x).exp()) } else { x.exp() / (1.0 + x.exp()) }
}

pub(super) fn log_sigmoid(x: f64) -> f64 {
    x.min(0.0) - (-x.abs()).exp().ln_1p()
}

impl Add for Dual {
    type Output = Self;
    fn add(self, other: Self) -> Self {
        Self {
            value: self.value + other.value,
            slope: [self.slope[0] + other.slope[0], self.slope[1] + other.slope[1]],
        }
    }
}

impl Neg for Dual {
    type Output = Self;
    fn neg(self) -> Self {
        self.scale(-1.0)
    }
}

impl Sub for Dual {
    type Output = Self;
    fn sub(self, other: Self) -> Self {
        self + -other
    }
}

impl Mul for Dual {
    type Output = Self;
    #[expect(clippy::suspicious_arithmetic_impl, reason = "the product rule adds")]
    fn mul(self, other: Self) -> Self {
        let product = |side: usize| self.slope[side] * other.value + self.value * other.slope[side];
        Self { value: self.value * other.value, slope: [product(0), product(1)] }
    }
}
