use evalign_core::{FinishReason, Latency, RunId};
use rusqlite::params;
use serde::Deserialize;

use crate::error::StoreError;
use crate::runs::parse;
use crate::store::Store;

/// What the answers of a run took and cost.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Spending {
    /// Of the answers that came from a server, in (task, document, repeat) order.
    pub latencies: Vec<Latency>,
    /// Absent where the price of any answer is not known, and over nothing.
    pub cost_usd: Option<f64>,
}

/// The part of a stored record that is read here.
#[derive(Deserialize)]
struct Taken {
    output: Option<Answer>,
    latency: Option<Latency>,
    cost_usd: Option<f64>,
}

#[derive(Deserialize)]
struct Answer {
    text: Option<Text>,
}

#[derive(Deserialize)]
struct Text {
    finish: FinishReason,
}

impl Answer {
    /// The server kept it back, and may not say what that cost.
    fn is_withheld(&self) -> bool {
        self.text.as_ref().is_some_and(|text| text.finish == FinishReason::ContentFilter)
    }
}

impl Store {
    /// Sums up what all stored samples of a run took and cost. Samples without an answer do not count, nor do
    /// answers that were withheld without a price: nobody says what they cost.
    ///
    /// # Errors
    /// A database failure, or a record that cannot be read.
    pub fn spending(&self, run: &RunId) -> Result<Spending, StoreError> {
        self.read(|db| {
            let mut query = db.prepare_cached(
                r#"SELECT s.record FROM samples s JOIN runs r ON r.seq = s.run
                   WHERE r.id = ?1 AND r.tenant = ?2 ORDER BY s.task, s.doc, s."repeat""#,
            )?;
            let mut rows = query.query(params![run.as_str(), self.tenant().as_str()])?;
            let mut found = Spending::default();
            let (mut cost_usd, mut priced, mut unpriced) = (0.0, 0_u64, 0_u64);
            while let Some(row) = rows.next()? {
                let record: String = row.get(0)?;
                let taken: Taken = parse(&record, || format!("a sample of {run}"))?;
                found.latencies.extend(taken.latency);
                match (taken.output, taken.cost_usd) {
                    (None, _) => {}
                    (Some(answer), None) => unpriced += u64::from(!answer.is_withheld()),
                    (Some(_), Some(cost)) => {
                        cost_usd += cost;
                        priced += 1;
                    }
                }
            }
            found.cost_usd = (priced > 0 && unpriced == 0).then_some(cost_usd);
            Ok(found)
        })
    }
}
