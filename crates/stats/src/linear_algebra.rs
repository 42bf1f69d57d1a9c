//! Small dense symmetric matrices, row by row.

/// A square matrix.
#[derive(Clone, Debug, PartialEq)]
pub struct Square {
    size: usize,
    values: Vec<f64>,
}

impl Square {
    pub(crate) fn zero(size: usize) -> Self {
        Self { size, values: vec![0.0; size * size] }
    }

    #[must_use]
    pub fn size(&self) -> usize {
        self.size
    }

    /// # Panics
    /// Outside of the matrix.
    #[must_use]
    pub fn at(&self, row: usize, column: usize) -> f64 {
        self.values[row * self.size + column]
    }

    pub(crate) fn add(&mut self, row: usize, column: usize, value: f64) {
        self.values[row * self.size + column] += value;
    }

    /// Adds `weight` times the outer product of `x` with itself.
    pub(crate) fn add_outer(&mut self, x: &[f64], weight: f64) {
        for (row, a) in x.iter().enumerate().filter(|(_, a)| **a != 0.0) {
            for (column, b) in x.iter().enumerate() {
                self.add(row, column, weight * a * b);
            }
        }
    }

    pub(crate) fn product(&self, other: &Self) -> Self {
        let mut product = Self::zero(self.size);
        for row in 0..self.size {
            for inner in 0..self.size {
                let value = self.at(row, inner);
                for column in 0..self.size {
                    product.add(row, column, value * other.at(inner, column));
                }
            }
        }
        product
    }

    /// The inverse, by Cholesky decomposition; `None` where the matrix is not positive definite (as far as
    /// f64 can tell).
    pub(crate) fn inverse(&self) -> Option<Self> {
        let lower = self.cholesky()?;
        let mut inverse = Self::zero(self.size);
        for column in 0..self.size {
            let mut unit = vec![0.0; self.size];
            unit[column] = 1.0;
            for (row, value) in lower.solve(&unit).into_iter().enumerate() {
                inverse.add(row, column, value);
            }
        }
        Some(inverse)
    }

    pub(crate) fn cholesky(&self) -> Option<Cholesky> {
        let mut lower = Self::zero(self.size);
        let largest = (0..self.size).map(|i| self.at(i, i)).fold(0.0, f64::max);
        for row in 0..self.size {
            for column in 0..=row {
                let dot: f64 = (0..column).map(|k| lower.at(row, k) * lower.at(column, k)).sum();
                let rest = self.at(row, column) - dot;
                if row == column {
                    // Below this a direction has no curvature left but rounding.
                    if rest.is_nan() || rest <= largest * 1e-13 {
                        return None;
                    }
                    lower.add(row, row, rest.sqrt());
                } else {
                    let divisor = lower.at(column, column);
                    lower.add(row, column, rest / divisor);
                }
            }
        }
        Some(Cholesky(lower))
    }
}

/// A lower triangular factor L of a matrix L L^T.
pub(crate) struct Cholesky(Square);

impl Cholesky {
    /// The x with L L^T x = b.
    pub(crate) fn solve(&self, b: &[f64]) -> Vec<f64> {
        let (lower, n) = (&self.0, b.len());
        let mut x = b.to_vec();
        for row in 0..n {
            let dot: f64 = (0..row).map(|k| lower.at(row, k) * x[k]).sum();
            x[row] = (x[row] - dot) / lower.at(row, row);
        }
        for row in (0..n).rev() {
            let dot: f64 = (row + 1..n).map(|k| lower.at(k, row) * x[k]).sum();
            x[row] = (x[row] - dot) / lower.at(row, row);
        }
        x
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_inverse_times_its_matrix_is_one() {
        let mut matrix = Square::zero(3);
        for x in [[1.0, 2.0, 0.5], [0.0, 1.0, -1.0], [2.0, 0.1, 0.3], [1.0, 1.0, 1.0]] {
            matrix.add_outer(&x, 1.5);
        }
        let one = matrix.inverse().unwrap().product(&matrix);
        for row in 0..3 {
            for column in 0..3 {
                let expected = f64::from(u8::from(row == column));
                assert!((one.at(row, column) - expected).abs() < 1e-12, "{one:?}");
            }
        }
    }

    #[test]
    fn a_matrix_without_full_rank_has_none() {
        let mut matrix = Square::zero(2);
        matrix.add_outer(&[1.0, 2.0], 1.0);
        assert_eq!(matrix.inverse(), None);
    }
}
