//! Many tests at once.

/// Benjamini & Hochberg's step-up adjusted p-values ("q-values"; 1995, Journal of the Royal Statistical
/// Society B 57:289): calling everything with q <= 0.05 a finding keeps the expected share of false
/// findings at 5 %. In the order given. `None` for anything that is not a probability.
#[must_use]
pub fn benjamini_hochberg(p: &[f64]) -> Option<Vec<f64>> {
    let order = ascending(p)?;
    let mut adjusted = vec![0.0; p.len()];
    let mut least = 1.0f64;
    for (rank, index) in order.into_iter().enumerate().rev() {
        least = least.min(p[index] * p.len() as f64 / (rank + 1) as f64);
        adjusted[index] = least;
    }
    Some(adjusted)
}

/// Holm's step-down adjusted p-values (1979, Scandinavian Journal of Statistics 6:65): with everything
/// at or below 0.05 called a finding, the chance of even one false finding stays below 5 %, whatever
/// the dependence. In the order given. `None` for anything that is not a probability.
#[must_use]
pub fn holm(p: &[f64]) -> Option<Vec<f64>> {
    let order = ascending(p)?;
    let mut adjusted = vec![0.0; p.len()];
    let mut most = 0.0f64;
    for (rank, index) in order.into_iter().enumerate() {
        most = most.max((p[index] * (p.len() - rank) as f64).min(1.0));
        adjusted[index] = most;
    }
    Some(adjusted)
}

fn ascending(p: &[f64]) -> Option<Vec<usize>> {
    if !p.iter().all(|p| (0.0..=1.0).contains(p)) {
        return None;
    }
    let mut order: Vec<usize> = (0..p.len()).collect();
    order.sort_by(|a, b| p[*a].total_cmp(&p[*b]));
    Some(order)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::assert_close;

    // from statsmodels.stats.multitest import multipletests
    // p = [0.01, 0.04, 0.03, 0.005, 0.55, 0.04, 1.0, 0.0]
    // print(multipletests(p, method="fdr_bh")[1].tolist(), multipletests(p, method="holm")[1].tolist())
    #[test]
    fn promise_16_matches_statsmodels() {
        let p = [0.01, 0.04, 0.03, 0.005, 0.55, 0.04, 1.0, 0.0];
        let bh = [
            0.02666666666666667,
            0.05333333333333334,
            0.05333333333333334,
            0.02,
            0.6285714285714287,
            0.05333333333333334,
            1.0,
            0.0,
        ];
        let step_down = [0.06, 0.16, 0.15, 0.035, 1.0, 0.16, 1.0, 0.0];
        for (ours, reference) in [(benjamini_hochberg(&p), bh), (holm(&p), step_down)] {
            for (ours, reference) in ours.unwrap().into_iter().zip(reference) {
                assert_close(Some(ours), reference);
            }
        }
    }

    #[test]
    fn matches_the_published_example() {
        // Benjamini & Hochberg 1995, section 3.2: of these 15 p-values four are rejected at 0.05.
        let p = [
            0.0001, 0.0004, 0.0019, 0.0095, 0.0201, 0.0278, 0.0298, 0.0344, 0.0459, 0.3240, 0.4262, 0.5719,
            0.6528, 0.7590, 1.0000,
        ];
        let q = benjamini_hochberg(&p).unwrap();
        assert_eq!(q.iter().filter(|q| **q <= 0.05).count(), 4);
        // Bonferroni's method, and with it Holm's here, rejects three.
        assert_eq!(holm(&p).unwrap().iter().filter(|p| **p <= 0.05).count(), 3);
    }

    #[test]
    fn not_probabilities() {
        assert_eq!(benjamini_hochberg(&[0.1, f64::NAN]), None);
        assert_eq!(holm(&[1.1]), None);
        assert_eq!(benjamini_hochberg(&[]), Some(Vec::new()));
    }
}
