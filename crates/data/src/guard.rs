use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind};

thread_local! {
    static CATCHING: Cell<bool> = const { Cell::new(false) };
}

/// Whether a panic on this thread, now, is caught here and becomes an error that names the file. A panic hook
/// asks, to be silent about these and only these.
#[must_use]
pub fn panic_is_caught() -> bool {
    CATCHING.get()
}

/// The decoder checks most of what a file can contain, and panics on some of the rest: `None` then. It must
/// stay on this thread: a panic on another could not be told from one that nobody catches.
pub fn guarded<T>(read: impl FnOnce() -> T) -> Option<T> {
    let outer = CATCHING.replace(true);
    let result = catch_unwind(AssertUnwindSafe(read));
    CATCHING.set(outer);
    result.ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_caught_is_silent() {
        assert!(!panic_is_caught());
        assert_eq!(guarded(panic_is_caught), Some(true));
        assert_eq!(guarded(|| -> bool { panic!("a decoder's") }), None);
        assert!(!panic_is_caught());
        // Within each other: the inner one's end does not end the outer one.
        assert_eq!(guarded(|| (guarded(|| ()), panic_is_caught())), Some((Some(()), true)));
        assert_eq!(guarded(|| std::thread::spawn(panic_is_caught).join().unwrap()), Some(false));
    }
}
