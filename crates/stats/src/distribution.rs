use std::f64::consts::{PI, SQRT_2};

use crate::finite;

/// Steps after which a continued fraction or a root search is given up; both converge in far fewer.
const MAX_STEPS: u32 = 500;

/// P(Z <= x) of the standard normal distribution.
#[must_use]
pub fn normal_cdf(x: f64) -> Option<f64> {
    if x.is_nan() {
        return None;
    }
    Some(if x < 0.0 { 0.5 * erfc(-x / SQRT_2) } else { 1.0 - 0.5 * erfc(x / SQRT_2) })
}

/// The x with P(Z <= x) = p, for 0 < p < 1.
#[must_use]
pub fn normal_quantile(p: f64) -> Option<f64> {
    if !(p > 0.0 && p < 1.0) {
        return None;
    }
    // A rational start (Abramowitz & Stegun 26.2.23, error < 4.5e-4) polished by Halley's method. The
    // search runs in the lower tail, where the distribution function keeps its relative precision.
    let tail = p.min(1.0 - p);
    let t = (-2.0 * tail.ln()).sqrt();
    let mut x = -(t
        - (2.515_517 + 0.802_853 * t + 0.010_328 * t * t)
            / (1.0 + 1.432_788 * t + 0.189_269 * t * t + 0.001_308 * t * t * t));
    for _ in 0..4 {
        let density = (-0.5 * x * x).exp() / (2.0 * PI).sqrt();
        let step = (0.5 * erfc(-x / SQRT_2) - tail) / density;
        x -= step / (1.0 + 0.5 * x * step);
    }
    finite(if p < 0.5 { x } else { -x })
}

/// P(T <= t) of Student's t distribution with `freedom` > 0 degrees of freedom, through the regularised
/// incomplete beta function (Abramowitz & Stegun 26.7.1).
#[must_use]
pub fn student_t_cdf(t: f64, freedom: f64) -> Option<f64> {
    if freedom.is_nan() || freedom <= 0.0 || t.is_nan() {
        return None;
    }
    let square = t * t;
    // Of the two equal forms the one whose argument is small, where nothing cancels.
    let tail = if square < freedom {
        0.5 - 0.5 * incomplete_beta(0.5, freedom / 2.0, square / (freedom + square))?
    } else {
        0.5 * incomplete_beta(freedom / 2.0, 0.5, freedom / (freedom + square))?
    };
    finite(if t > 0.0 { 1.0 - tail } else { tail })
}

/// The t with P(T <= t) = p, for 0 < p < 1 and `freedom` > 0.
#[must_use]
pub fn student_t_quantile(p: f64, freedom: f64) -> Option<f64> {
    if !(p > 0.0 && p < 1.0 && freedom > 0.0) {
        return None;
    }
    let tail = p.min(1.0 - p);
    let (mut low, mut high) = (-1.0, 0.0);
    while student_t_cdf(low, freedom)? > tail {
        high = low;
        low *= 2.0;
        finite(low)?;
    }
    // Bisection: slower than Newton, and it cannot diverge in the heavy tails of small `freedom`.
    for _ in 0..MAX_STEPS {
        let middle = 0.5 * (low + high);
        if middle == low || middle == high {
            break;
        }
        if student_t_cdf(middle, freedom)? < tail { low = middle } else { high = middle }
    }
    finite(if p < 0.5 { high } else { -high })
}

/// Complementary error function for x >= 0: its Taylor series near zero (Abramowitz & Stegun 7.1.6) and
/// a continued fraction beyond (7.1.14).
fn erfc(x: f64) -> f64 {
    if x < 0.0 {
        return 2.0 - erfc(-x);
    }
    if x < 2.0 {
        let (mut term, mut sum) = (x, x);
        for n in 1..MAX_STEPS {
            term *= 2.0 * x * x / f64::from(2 * n + 1);
            sum += term;
            if term < sum * f64::EPSILON {
                break;
            }
        }
        return 1.0 - 2.0 / PI.sqrt() * (-x * x).exp() * sum;
    }
    // 1/(x + (1/2)/(x + 1/(x + (3/2)/(x + ...)))), evaluated from the far end; 120 levels are exact to
    // double precision from x = 2 on.
    let fraction = (1..=120).rev().fold(x, |below, k| x + 0.5 * f64::from(k) / below);
    (-x * x).exp() / PI.sqrt() / fraction
}

/// Regularised incomplete beta function I_x(a, b) by its continued fraction (Abramowitz & Stegun
/// 26.5.8) with Lentz's method.
fn incomplete_beta(a: f64, b: f64, x: f64) -> Option<f64> {
    if x <= 0.0 || x >= 1.0 {
        return Some(if x <= 0.0 { 0.0 } else { 1.0 });
    }
    // The fraction converges fast only below the mean; above it, use the symmetry I_x(a,b) = 1 - I_{1-x}(b,a).
    if x > (a + 1.0) / (a + b + 2.0) {
        return Some(1.0 - incomplete_beta(b, a, 1.0 - x)?);
    }
    let front = (ln_gamma(a + b) - ln_gamma(a) - ln_gamma(b) + a * x.ln() + b * (-x).ln_1p()).exp() / a;
    let away_from_zero = |v: f64| if v.abs() < 1e-300 { 1e-300 } else { v };
    let mut c = 1.0;
    let mut d = 1.0 / away_from_zero(1.0 - (a + b) * x / (a + 1.0));
    let mut fraction = d;
    for step in 1..MAX_STEPS {
        let m = f64::from(step);
        let even = m * (b - m) * x / ((a + 2.0 * m - 1.0) * (a + 2.0 * m));
        let odd = -(a + m) * (a + b + m) * x / ((a + 2.0 * m) * (a + 2.0 * m + 1.0));
        let mut change = 1.0;
        for numerator in [even, odd] {
            d = 1.0 / away_from_zero(1.0 + numerator * d);
            c = away_from_zero(1.0 + numerator / c);
            change = c * d;
            fraction *= change;
        }
        if (change - 1.0).abs() < 1e-16 {
            break;
        }
    }
    finite(front * fraction)
}

/// ln Gamma(x) for x > 0: the recurrence lifts x above 12, then Stirling's series (Abramowitz & Stegun
/// 6.1.41) is exact to double precision.
pub(crate) fn ln_gamma(x: f64) -> f64 {
    let (mut shifted, mut product) = (x, 1.0);
    while shifted < 12.0 {
        product *= shifted;
        shifted += 1.0;
    }
    let inverse = 1.0 / (shifted * shifted);
    let series = (1.0 / 12.0
        - inverse
            * (1.0 / 360.0 - inverse * (1.0 / 1260.0 - inverse * (1.0 / 1680.0 - inverse * (1.0 / 1188.0)))))
        / shifted;
    (shifted - 0.5) * shifted.ln() - shifted + 0.5 * (2.0 * PI).ln() + series - product.ln()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::assert_close;
    use proptest::prelude::*;

    // from scipy import stats
    // for x in [-8.0, -3.3, -1.96, -0.5, 0.0, 0.1, 1.0, 2.9, 5.0]: print(x, repr(stats.norm.cdf(x)))
    // for p in [1e-12, 0.001, 0.025, 0.3, 0.5, 0.8, 0.975, 0.9999]: print(p, repr(stats.norm.ppf(p)))
    // for p, v in [(0.975, 1), (0.975, 2), (0.9, 4), (0.975, 24), (0.025, 99), (0.975, 1318), (0.999, 3), (0.5, 7)]:
    //     print(p, v, repr(stats.t.ppf(p, v)))
    // for t, v in [(-2.0, 3), (0.5, 1), (1.7, 30), (4.0, 1000)]: print(t, v, repr(stats.t.cdf(t, v)))
    #[test]
    fn promise_16_matches_scipy() {
        for (x, reference) in [
            (-8.0, 6.22096057427174e-16),
            (-3.3, 0.00048342414238377744),
            (-1.96, 0.024997895148220435),
            (-0.5, 0.3085375387259869),
            (0.0, 0.5),
            (0.1, 0.539827837277029),
            (1.0, 0.8413447460685429),
            (2.9, 0.998134186699616),
            (5.0, 0.9999997133484281),
        ] {
            assert_close(normal_cdf(x), reference);
        }
        for (p, reference) in [
            (1e-12, -7.034483825301131),
            (0.001, -3.090232306167813),
            (0.025, -1.9599639845400545),
            (0.3, -0.5244005127080409),
            (0.5, 0.0),
            (0.8, 0.8416212335729143),
            (0.975, 1.959963984540054),
            (0.9999, 3.719016485455709),
        ] {
            assert_close(normal_quantile(p), reference);
        }
        for (p, freedom, reference) in [
            (0.975, 1.0, 12.706204736174694),
            (0.975, 2.0, 4.302652729749462),
            (0.9, 4.0, 1.533206274058944),
            (0.975, 24.0, 2.0638985616280245),
            (0.025, 99.0, -1.9842169515864176),
            (0.975, 1318.0, 1.9617655127673146),
            (0.999, 3.0, 10.214531852407383),
            (0.5, 7.0, 0.0),
        ] {
            assert_close(student_t_quantile(p, freedom), reference);
        }
        for (t, freedom, reference) in [
            (-2.0, 3.0, 0.06966298427942152),
            (0.5, 1.0, 0.6475836176504333),
            (1.7, 30.0, 0.9502610622057416),
            (4.0, 1000.0, 0.9999659950403956),
        ] {
            assert_close(student_t_cdf(t, freedom), reference);
        }
    }

    #[test]
    fn undefined_is_none() {
        for p in [0.0, 1.0, -0.1, 1.1, f64::NAN] {
            assert_eq!(normal_quantile(p), None);
            assert_eq!(student_t_quantile(p, 3.0), None);
        }
        assert_eq!(student_t_quantile(0.5, 0.0), None);
        assert_eq!(student_t_cdf(f64::NAN, 1.0), None);
        assert_eq!(normal_cdf(f64::NAN), None);
    }

    proptest! {
        #[test]
        fn quantiles_invert_the_distribution(p in 0.0005f64..0.9995, freedom in 1.0f64..500.0) {
            let z = normal_quantile(p).unwrap();
            prop_assert!((normal_cdf(z).unwrap() - p).abs() < 1e-12);
            let t = student_t_quantile(p, freedom).unwrap();
            prop_assert!((student_t_cdf(t, freedom).unwrap() - p).abs() < 1e-10);
        }
    }
}
