use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::JoinHandle;

use rusqlite::Connection;
use tokio::sync::oneshot;

use crate::error::{Failure, StoreError};

/// Writes that may wait before [`Writer::submit`] blocks. A bound on memory, not a tuning knob: callers
/// bound what they have in flight far below it.
const QUEUE: usize = 4096;

/// Most writes in one transaction, so that a flood of them is still acknowledged in steps.
const BATCH: usize = 512;

/// The thread that owns the writing connection.
#[derive(Debug)]
pub(crate) struct Writer {
    path: PathBuf,
    queue: Option<SyncSender<Box<dyn Write>>>,
    thread: Option<JoinHandle<()>>,
}

impl Writer {
    pub(crate) fn start(path: &Path, db: Connection) -> Result<Self, StoreError> {
        let (queue, waiting) = sync_channel(QUEUE);
        let owned = path.to_owned();
        let thread = std::thread::Builder::new()
            .name("evalign-store".to_owned())
            .spawn(move || serve(&db, &owned, &waiting))
            .map_err(|error| StoreError::Record {
                what: "cannot start the store's writer thread".to_owned(),
                detail: error.to_string(),
            })?;
        Ok(Self { path: path.to_owned(), queue: Some(queue), thread: Some(thread) })
    }

    /// For a store that is only read: every write is refused.
    pub(crate) fn absent(path: &Path) -> Self {
        Self { path: path.to_owned(), queue: None, thread: None }
    }

    /// Queues a write. The receiver is answered after the commit that contains it; a dropped receiver
    /// does not undo the write. Writes take effect in the order in which they are submitted.
    pub(crate) fn submit<T, F>(&self, write: F) -> oneshot::Receiver<Result<T, StoreError>>
    where
        T: Send + 'static,
        F: FnOnce(&Connection) -> Result<T, Failure> + Send + 'static,
    {
        let (reply, answer) = oneshot::channel();
        self.enqueue(write, move |outcome| drop(reply.send(outcome)));
        answer
    }

    /// Queues a write and blocks until it is committed. Usable inside and outside an async runtime.
    pub(crate) fn write<T, F>(&self, write: F) -> Result<T, StoreError>
    where
        T: Send + 'static,
        F: FnOnce(&Connection) -> Result<T, Failure> + Send + 'static,
    {
        let (reply, answer) = sync_channel(1);
        self.enqueue(write, move |outcome| drop(reply.send(outcome)));
        answer.recv().unwrap_or(Err(StoreError::Stopped))
    }

    /// A write that finds the thread gone is dropped, and with it `settle`'s reply: the caller reads
    /// "stopped".
    fn enqueue<T, F, S>(&self, write: F, settle: S)
    where
        T: Send + 'static,
        F: FnOnce(&Connection) -> Result<T, Failure> + Send + 'static,
        S: FnOnce(Result<T, StoreError>) + Send + 'static,
    {
        let pending = Pending { write: Some(write), outcome: None, path: self.path.clone(), settle };
        if let Some(queue) = &self.queue {
            drop(queue.send(Box::new(pending)));
        }
    }
}

impl Drop for Writer {
    /// Closes the queue and waits for what is in it, so that nothing submitted is lost at exit.
    fn drop(&mut self) {
        drop(self.queue.take());
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the store's writer thread panicked");
        }
    }
}

/// One queued write: applied inside a transaction it shares with others, answered after the commit.
trait Write: Send {
    /// Runs the statements and says whether they are to be kept.
    fn apply(&mut self, db: &Connection) -> bool;
    /// Why [`Write::apply`] failed.
    fn refusal(&self) -> Option<StoreError>;
    fn settle(self: Box<Self>, committed: Result<(), StoreError>);
}

struct Pending<T, F, S> {
    write: Option<F>,
    outcome: Option<Result<T, StoreError>>,
    path: PathBuf,
    settle: S,
}

impl<T, F, S> Write for Pending<T, F, S>
where
    T: Send,
    F: FnOnce(&Connection) -> Result<T, Failure> + Send,
    S: FnOnce(Result<T, StoreError>) + Send,
{
    fn apply(&mut self, db: &Connection) -> bool {
        let Some(write) = self.write.take() else { return false };
        let outcome = write(db).map_err(|failure| failure.at(&self.path));
        let keep = outcome.is_ok();
        self.outcome = Some(outcome);
        keep
    }

    fn refusal(&self) -> Option<StoreError> {
        self.outcome.as_ref().and_then(|outcome| outcome.as_ref().err().cloned())
    }

    fn settle(self: Box<Self>, committed: Result<(), StoreError>) {
        let outcome = match (committed, self.outcome) {
            // Its own refusal says more than the failure of the transaction around it.
            (_, Some(Err(error))) | (Err(error), _) => Err(error),
            (Ok(()), Some(Ok(value))) => Ok(value),
            (Ok(()), None) => Err(StoreError::Stopped),
        };
        (self.settle)(outcome);
    }
}

fn serve(db: &Connection, path: &Path, waiting: &Receiver<Box<dyn Write>>) {
    while let Ok(first) = waiting.recv() {
        let mut batch = vec![first];
        batch.extend(waiting.try_iter().take(BATCH - 1));
        let committed = commit(db, path, &mut batch);
        for write in batch {
            write.settle(committed.clone());
        }
    }
}

/// Everything in one transaction. A write that fails is undone alone, through its savepoint; a failure
/// of the transaction (disk full, I/O) undoes and fails all of it.
fn commit(db: &Connection, path: &Path, batch: &mut [Box<dyn Write>]) -> Result<(), StoreError> {
    let done = apply_all(db, batch).map_err(|failure| failure.at(path));
    if done.is_err() && !db.is_autocommit() {
        db.execute_batch("ROLLBACK").map_err(|error| StoreError::sqlite(path, &error))?;
    }
    done
}

fn apply_all(db: &Connection, batch: &mut [Box<dyn Write>]) -> Result<(), Failure> {
    let run = |sql: &str| db.prepare_cached(sql)?.execute([]).map(drop);
    run("BEGIN IMMEDIATE")?;
    for write in batch {
        run("SAVEPOINT one")?;
        if !write.apply(db) {
            // Some errors (disk full, I/O) make SQLite roll the whole transaction back by itself: then
            // the writes before this one are gone too, and fail for its reason.
            if db.is_autocommit() {
                return Err(write.refusal().unwrap_or(StoreError::Stopped).into());
            }
            run("ROLLBACK TO one")?;
        }
        run("RELEASE one")?;
    }
    Ok(run("COMMIT")?)
}
