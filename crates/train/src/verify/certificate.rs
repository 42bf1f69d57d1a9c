use serde::Serialize;

/// What was compared, and how well it agrees.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Certificate {
    pub case: String,
    pub checks: Vec<Check>,
    /// Recorded arguments of the trainer that nothing here reads.
    pub arguments_not_read: Vec<String>,
}

/// All comparisons of one quantity.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Check {
    pub quantity: String,
    pub compared: u64,
    /// Largest difference; absent for what is equal or not.
    pub worst: Option<f64>,
    /// Largest difference that passes at that place; absent for what has to be equal.
    pub limit: Option<f64>,
    pub failures: u64,
    /// Where the first difference beyond the limit is.
    pub first_failure: Option<String>,
}

impl Certificate {
    pub(super) fn new(case: &str) -> Self {
        Self { case: case.to_owned(), checks: Vec::new(), arguments_not_read: Vec::new() }
    }

    /// Everything that was compared agrees, and something was.
    #[must_use]
    pub fn agrees(&self) -> bool {
        !self.checks.is_empty() && self.checks.iter().all(|check| check.failures == 0)
    }

    fn check(&mut self, quantity: &str) -> &mut Check {
        let at = self.checks.iter().position(|check| check.quantity == quantity).unwrap_or_else(|| {
            self.checks.push(Check {
                quantity: quantity.to_owned(),
                compared: 0,
                worst: None,
                limit: None,
                failures: 0,
                first_failure: None,
            });
            self.checks.len() - 1
        });
        &mut self.checks[at]
    }

    pub(super) fn equal(&mut self, quantity: &str, equal: bool, place: impl FnOnce() -> String) {
        let check = self.check(quantity);
        check.compared += 1;
        if !equal {
            check.failures += 1;
            check.first_failure.get_or_insert_with(place);
        }
    }

    pub(super) fn close(
        &mut self,
        quantity: &str,
        found: f64,
        expected: f64,
        limit: f64,
        place: impl FnOnce() -> String,
    ) {
        let place = || format!("{}: {found}, not {expected}", place());
        self.within(quantity, (found - expected).abs(), limit, place);
    }

    /// What is no number is never within a limit.
    pub(super) fn within(
        &mut self,
        quantity: &str,
        difference: f64,
        limit: f64,
        place: impl FnOnce() -> String,
    ) {
        let check = self.check(quantity);
        check.compared += 1;
        if difference.is_nan() || check.worst.is_none_or(|worst| difference > worst) {
            (check.worst, check.limit) = (Some(difference), Some(limit));
        }
        if difference.is_nan() || difference > limit {
            check.failures += 1;
            check.first_failure.get_or_insert_with(place);
        }
    }
}
