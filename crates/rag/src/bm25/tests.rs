use super::*;

fn terms(text: &str) -> Vec<String> {
    Analyzer::english().terms(text)
}

#[test]
fn text_becomes_stemmed_words_without_stop_words() {
    assert_eq!(
        terms("What are the Flows of compressible_gas at Mach 2, and x² in 10 ½ days?"),
        ["what", "flow", "compressible_ga", "mach", "x²", "10", "day"]
    );
    assert_eq!(terms("a I . the of"), Vec::<String>::new());
    assert_eq!(terms("ÜBER naïve ΣΟΦΟΣ"), ["über", "naïv", "σοφος"]);
}

#[test]
fn a_repeated_query_term_counts_each_time() {
    let query = Analyzer::english().query("flow of flows over a wing");
    let mut values = query.values.clone();
    values.sort_by(f32::total_cmp);
    assert_eq!(values, [1.0, 1.0, 2.0]);
    assert!(query.indices.is_sorted());
}

#[test]
fn a_document_weight_is_the_saturated_term_frequency() {
    let bm25 = Bm25::new(4.0);
    // tf 2, length 3: 2 / (2 + 1.2 (0.25 + 0.75 * 3 / 4))
    let vector = bm25.document(&terms("wing wing lift"));
    let wing = vector.indices.iter().position(|index| *index == dimension("wing")).unwrap();
    assert!((f64::from(vector.values[wing]) - 2.0 / 2.975).abs() < 1e-7);
    assert_eq!(Bm25::new(0.0).document(&[]), SparseVector::default());
}

#[test]
fn lengths_are_counted_and_drift_is_seen() {
    let mut lengths = LengthStatistics::default();
    assert_eq!(lengths.mean(), None);
    for terms in [10, 20, 0] {
        lengths.add(terms);
    }
    assert_eq!(lengths.mean(), Some(10.0));
    assert!(!lengths.drifted(10.05));
    lengths.remove(0);
    assert!(lengths.drifted(10.05));
}

/// The dimensions are stored in every index: they must never change.
#[test]
fn dimensions_are_fixed() {
    assert_eq!(
        [dimension("wing"), dimension("flow"), dimension("")],
        [1_940_996_098, 1_720_354_293, 4_023_394_144]
    );
}
