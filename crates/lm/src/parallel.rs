use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

/// `f(0), ..., f(count - 1)` on several threads, results in order; the first error by index wins.
pub(crate) fn map<T: Send, E: Send>(
    threads: usize,
    count: usize,
    f: impl Fn(usize) -> Result<T, E> + Sync,
) -> Result<Vec<T>, E> {
    let next = AtomicUsize::new(0);
    let results: Mutex<Vec<(usize, Result<T, E>)>> = Mutex::new(Vec::with_capacity(count));
    let work = || {
        loop {
            let index = next.fetch_add(1, Ordering::Relaxed);
            if index >= count {
                return;
            }
            let result = f(index);
            results.lock().unwrap_or_else(std::sync::PoisonError::into_inner).push((index, result));
        }
    };
    std::thread::scope(|scope| {
        for _ in 1..threads.min(count) {
            scope.spawn(work);
        }
        work();
    });
    let mut results = results.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
    results.sort_by_key(|(index, _)| *index);
    results.into_iter().map(|(_, result)| result).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keeps_order_and_reports_the_first_error() {
        assert_eq!(map(3, 50, |i| Ok::<_, ()>(i * i)), Ok((0..50).map(|i| i * i).collect()));
        assert_eq!(map(3, 50, |i| if i % 7 == 3 { Err(i) } else { Ok(i) }), Err(3));
        assert_eq!(map(3, 0, Ok::<usize, ()>), Ok(vec![]));
    }
}
