/// The ranks a competitor can have, best first, 1-based.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RankInterval {
    pub best: u64,
    pub worst: u64,
}

/// Ranks from pairwise tests: a competitor's best rank is 1 + the number of those shown to be better,
/// its worst is the number of competitors less those shown to be worse (Mogstad, Romano, Shaikh, Wilhelm
/// 2024, "Inference for Ranks with Applications to Mobility across Neighbourhoods and Academic
/// Achievement across Countries", Review of Economic Studies 91:476). If the tests hold
/// jointly at 95 % (see [`crate::holm`]), all true ranks lie in their intervals at 95 %.
///
/// `better` lists the pairs `(winner, loser)` that were shown, as indices below `count`; others are
/// ignored.
#[must_use]
pub fn rank_intervals(count: usize, better: &[(usize, usize)]) -> Vec<RankInterval> {
    let mut ranks = vec![RankInterval { best: 1, worst: count as u64 }; count];
    for (winner, loser) in better.iter().copied().filter(|(w, l)| *w < count && *l < count && w != l) {
        ranks[loser].best += 1;
        ranks[winner].worst -= 1;
    }
    ranks
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ranks(count: usize, better: &[(usize, usize)]) -> Vec<(u64, u64)> {
        rank_intervals(count, better).into_iter().map(|rank| (rank.best, rank.worst)).collect()
    }

    #[test]
    fn what_is_not_shown_stays_open() {
        assert_eq!(ranks(3, &[]), [(1, 3), (1, 3), (1, 3)]);
        // The first beats the last; the middle one is like both.
        assert_eq!(ranks(3, &[(0, 2)]), [(1, 2), (1, 3), (2, 3)]);
        assert_eq!(ranks(3, &[(0, 1), (0, 2), (1, 2)]), [(1, 1), (2, 2), (3, 3)]);
        assert_eq!(ranks(1, &[(0, 0), (0, 5)]), [(1, 1)]);
    }
}
