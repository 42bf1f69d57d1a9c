use super::*;

fn battles() -> Vec<LengthBattle> {
    const POINTS: [f64; 8] = [1.0, 0.0, 0.5, 1.0, 1.0, 0.0, 0.25, 0.8];
    let battle = |i: usize| {
        let length_difference = (((i * 37) % 101) as f64 - 45.0) * 3.0;
        let points = match (i * 11) % 7 > 2 {
            true => POINTS[i % 8],
            false => f64::from(u8::from(length_difference > 0.0)),
        };
        LengthBattle { points, length_difference }
    };
    (0..120).map(battle).collect()
}

fn assert_close(ours: f64, reference: f64) {
    assert!((ours - reference).abs() < 1e-9, "{ours} is not {reference}");
}

// n = 120; i = np.arange(n); dl = ((i * 37) % 101 - 45.) * 3
// y = np.array([[1, 0, .5, 1, 1, 0, .25, .8][k % 8] if (k * 11) % 7 > 2 else float(dl[k] > 0) for k in i])
// X = np.column_stack([np.ones(n), np.tanh(dl / dl.std())])
// f = sm.GLM(y, X, family=sm.families.Binomial()).fit(tol=1e-14, cov_type="HC0")        # statsmodels 0.15
// print(f.params, f.bse, f.conf_int(), 1 / (1 + np.exp(-f.params[0])))
// kwds = dict(groups=i // 3, use_correction=False)
// print(sm.GLM(y, X, family=sm.families.Binomial()).fit(tol=1e-14, cov_type="cluster", cov_kwds=kwds).bse)
// l = LogisticRegression(C=np.inf, fit_intercept=False, tol=1e-14, solver="newton-cholesky")  # scikit-learn 1.9
// print(l.fit(np.vstack([X, X]), np.r_[np.ones(n), np.zeros(n)], sample_weight=np.r_[y, 1 - y]).coef_)
// # prints [[0.19320606 1.33556655]]
#[test]
fn promise_16_matches_statsmodels_and_scikit_learn() {
    let ours = length_controlled(&battles(), None, 0.95).unwrap();
    assert_close(ours.win_rate, 0.5481518221728806);
    assert_close(ours.length_coefficient, 1.3355665485137027);
    assert_close(ours.length_interval[0], 0.7804555305164912);
    assert_close(ours.length_interval[1], 1.8906775665109143);
    assert_close(ours.interval[0], sigmoid(-0.15965259129208506));
    assert_close(ours.interval[1], sigmoid(0.5460647166770513));
    let clusters: Vec<usize> = (0..120).map(|i| i / 3).collect();
    let ours = length_controlled(&battles(), Some(&clusters), 0.95).unwrap();
    let half = 1.959963984540054 * 0.26606048853744824;
    assert_close(ours.length_interval[1] - ours.length_coefficient, half);
}

#[test]
fn model_based_errors_are_those_of_the_information() {
    // sm.GLM(y, X, family=sm.families.Binomial()).fit(tol=1e-14, scale=1.0).bse
    let spread = {
        let lengths: Vec<f64> = battles().iter().map(|b| b.length_difference).collect();
        let mean = lengths.iter().sum::<f64>() / 120.0;
        (lengths.iter().map(|l| (l - mean).powi(2)).sum::<f64>() / 120.0).sqrt()
    };
    let observation = |b: &LengthBattle| Observation {
        features: vec![1.0, (b.length_difference / spread).tanh()],
        target: b.points,
        weight: 1.0,
    };
    let fit = logistic(&battles().iter().map(observation).collect::<Vec<_>>(), None).unwrap();
    assert_close(fit.covariance.at(0, 0).sqrt(), 0.20186721139046288);
    assert_close(fit.covariance.at(1, 1).sqrt(), 0.3121758783286486);
}

#[test]
fn what_has_no_maximum_is_none() {
    let battle = |points: f64, length_difference: f64| LengthBattle { points, length_difference };
    assert_eq!(length_controlled(&[battle(1.0, 5.0), battle(0.0, 5.0)], None, 0.95), None);
    assert_eq!(length_controlled(&[], None, 0.95), None);
    // The longer one always wins.
    let separated: Vec<_> = (-5..=5).map(|l| battle(f64::from(u8::from(l > 0)), f64::from(l))).collect();
    assert_eq!(length_controlled(&separated, None, 0.95), None);
}
