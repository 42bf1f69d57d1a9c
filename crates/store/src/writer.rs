use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::JoinHandle;
use std::time::Duration;

use rusqlite::Connection;
use tokio::sync::oneshot;

use crate::error::{Failure, StoreError};
use crate::sums::Sums;

/// Writes that may wait before [`Writer::submit`] blocks. A bound on memory, not a tuning knob: callers
/// bound what they have in flight far below it.
const QUEUE: usize = 4096;

/// Most writes in one transaction, so that a flood of them is still acknowledged in steps.
const BATCH: usize = 512;

/// Under load, how long the first write of a transaction waits for others to share the disk's
/// confirmation: each costs as much as dozens of writes. Short against the time a server takes to answer:
/// an answer that waits here when the process is killed is asked for again.
const LINGER: Duration = Duration::from_millis(5);

/// So many writes in the transaction before count as load. One after the other never waits.
const LOAD: usize = 4;

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

    /// Queues a write that can be made again after the transaction it was part of was undone. The receiver
    /// is answered after the commit that contains it; a dropped receiver does not undo the write. Writes
    /// take effect in the order in which they are submitted.
    pub(crate) fn submit<F>(&self, write: F) -> oneshot::Receiver<Result<(), StoreError>>
    where
        F: Fn(&Connection, &mut Sums) -> Result<(), Failure> + Send + 'static,
    {
        let (reply, answer) = oneshot::channel();
        self.enqueue(Repeatable { write, outcome: Ok(()), path: self.path.clone(), reply });
        answer
    }

    /// Queues a write and blocks until it is committed. Usable inside and outside an async runtime.
    pub(crate) fn write<T, F>(&self, write: F) -> Result<T, StoreError>
    where
        T: Send + 'static,
        F: FnOnce(&Connection) -> Result<T, Failure> + Send + 'static,
    {
        let (reply, answer) = sync_channel(1);
        self.enqueue(Once { write: Some(write), outcome: None, path: self.path.clone(), reply });
        answer.recv().unwrap_or(Err(StoreError::Stopped))
    }

    /// A write that finds the thread gone is dropped, and with it its reply: the caller reads "stopped".
    fn enqueue(&self, write: impl Write + 'static) {
        if let Some(queue) = &self.queue {
            drop(queue.send(Box::new(write)));
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
    /// Runs the statements and says whether they are to be kept. What they add to the rows of runs is left
    /// in `shared`, or else written at once.
    fn apply(&mut self, db: &Connection, shared: Option<&mut Sums>) -> bool;
    /// Why [`Write::apply`] failed.
    fn refusal(&self) -> Option<StoreError>;
    fn settle(self: Box<Self>, committed: Result<(), StoreError>);
    /// Can be applied again, and nobody is blocked until it is done.
    fn is_repeatable(&self) -> bool;
}

struct Repeatable<F> {
    write: F,
    outcome: Result<(), StoreError>,
    path: PathBuf,
    reply: oneshot::Sender<Result<(), StoreError>>,
}

impl<F> Write for Repeatable<F>
where
    F: Fn(&Connection, &mut Sums) -> Result<(), Failure> + Send,
{
    fn apply(&mut self, db: &Connection, shared: Option<&mut Sums>) -> bool {
        let done = match shared {
            Some(shared) => (self.write)(db, shared),
            None => {
                let mut own = Sums::default();
                (self.write)(db, &mut own).and_then(|()| own.write(db))
            }
        };
        self.outcome = done.map_err(|failure| failure.at(&self.path));
        self.outcome.is_ok()
    }

    fn refusal(&self) -> Option<StoreError> {
        self.outcome.clone().err()
    }

    fn settle(self: Box<Self>, committed: Result<(), StoreError>) {
        // Its own refusal says more than the failure of the transaction around it. Nobody may be waiting.
        drop(self.reply.send(self.outcome.and(committed)));
    }

    fn is_repeatable(&self) -> bool {
        true
    }
}

struct Once<T, F> {
    write: Option<F>,
    outcome: Option<Result<T, StoreError>>,
    path: PathBuf,
    reply: SyncSender<Result<T, StoreError>>,
}

impl<T, F> Write for Once<T, F>
where
    T: Send,
    F: FnOnce(&Connection) -> Result<T, Failure> + Send,
{
    fn apply(&mut self, db: &Connection, _shared: Option<&mut Sums>) -> bool {
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
            // As above.
            (_, Some(Err(error))) | (Err(error), _) => Err(error),
            (Ok(()), Some(Ok(value))) => Ok(value),
            (Ok(()), None) => Err(StoreError::Stopped),
        };
        drop(self.reply.send(outcome));
    }

    fn is_repeatable(&self) -> bool {
        false
    }
}

fn serve(db: &Connection, path: &Path, waiting: &Receiver<Box<dyn Write>>) {
    let mut load = 0;
    while let Ok(first) = waiting.recv() {
        if load >= LOAD && first.is_repeatable() {
            std::thread::sleep(LINGER);
        }
        let mut batch = vec![first];
        batch.extend(waiting.try_iter().take(BATCH - 1));
        load = batch.len();
        let committed = commit(db, path, &mut batch);
        for write in batch {
            write.settle(committed.clone());
        }
    }
}

/// Everything in one transaction. A write that fails is undone alone; a failure of the transaction (disk
/// full, I/O) undoes and fails all of it.
fn commit(db: &Connection, path: &Path, batch: &mut [Box<dyn Write>]) -> Result<(), StoreError> {
    let mut done = Ok(false);
    if batch.iter().all(|write| write.is_repeatable()) {
        done = undone_on_failure(db, path, || all_together(db, batch));
    }
    if let Ok(false) = done {
        done = undone_on_failure(db, path, || one_by_one(db, batch).map(|()| true));
    }
    done.map(drop)
}

/// A transaction that is not left open, whether it was given up (`false`) or failed.
fn undone_on_failure(
    db: &Connection,
    path: &Path,
    transaction: impl FnOnce() -> Result<bool, Failure>,
) -> Result<bool, StoreError> {
    let done = transaction().map_err(|failure| failure.at(path));
    if !matches!(done, Ok(true)) && !db.is_autocommit() {
        db.execute_batch("ROLLBACK").map_err(|error| StoreError::sqlite(path, &error))?;
    }
    done
}

fn run(db: &Connection, sql: &str) -> rusqlite::Result<()> {
    db.prepare_cached(sql)?.execute([]).map(drop)
}

/// What nearly always works: no savepoints, and the row of a run is written once for all of its samples.
/// `false`, with the transaction to be undone, where one of the writes fails.
fn all_together(db: &Connection, batch: &mut [Box<dyn Write>]) -> Result<bool, Failure> {
    run(db, "BEGIN IMMEDIATE")?;
    let mut sums = Sums::default();
    if !batch.iter_mut().all(|write| write.apply(db, Some(&mut sums))) || sums.write(db).is_err() {
        return Ok(false);
    }
    run(db, "COMMIT")?;
    Ok(true)
}

/// Each write in a savepoint of its own.
fn one_by_one(db: &Connection, batch: &mut [Box<dyn Write>]) -> Result<(), Failure> {
    run(db, "BEGIN IMMEDIATE")?;
    for write in batch {
        run(db, "SAVEPOINT one")?;
        if !write.apply(db, None) {
            // Some errors (disk full, I/O) make SQLite roll the whole transaction back by itself: then
            // the writes before this one are gone too, and fail for its reason.
            if db.is_autocommit() {
                return Err(write.refusal().unwrap_or(StoreError::Stopped).into());
            }
            run(db, "ROLLBACK TO one")?;
        }
        run(db, "RELEASE one")?;
    }
    Ok(run(db, "COMMIT")?)
}
