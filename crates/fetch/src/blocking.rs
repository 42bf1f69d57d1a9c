use std::sync::OnceLock;

use tokio::runtime::{Builder, Runtime};

use crate::FetchError;

/// Runs a fetch to its end for callers that are not async, from inside a tokio runtime or outside. All
/// such calls share one background runtime, so that connections are reused.
///
/// # Errors
/// Those of the future, and [`FetchError::Io`] where the system refuses threads.
pub fn block_on<T: Send>(
    future: impl Future<Output = Result<T, FetchError>> + Send,
) -> Result<T, FetchError> {
    static RUNTIME: OnceLock<Result<Runtime, std::io::ErrorKind>> = OnceLock::new();
    let runtime = RUNTIME
        .get_or_init(|| {
            let built =
                Builder::new_multi_thread().worker_threads(1).thread_name("fetch").enable_all().build();
            built.map_err(|error| error.kind())
        })
        .as_ref()
        .map_err(|kind| no_threads(std::io::Error::from(*kind)))?;
    // A thread of its own: tokio forbids blocking on one of its own.
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().name("fetch-wait".to_owned());
        let waiting = thread.spawn_scoped(scope, || runtime.block_on(future)).map_err(no_threads)?;
        match waiting.join() {
            Ok(result) => result,
            Err(panic) => std::panic::resume_unwind(panic),
        }
    })
}

fn no_threads(source: std::io::Error) -> FetchError {
    FetchError::Io { action: "start a thread for", path: "downloads".into(), source }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn works_inside_and_outside_a_runtime() {
        let inside = block_on(async {
            tokio::time::sleep(std::time::Duration::from_millis(1)).await;
            Ok(1)
        });
        let outside = std::thread::spawn(|| block_on(async { Ok(2) })).join().unwrap();
        assert_eq!((inside.unwrap(), outside.unwrap()), (1, 2));
    }
}
