//! Persistent threads for parallel regions of a few microseconds.
//!
//! One word, `state`, holds the whole protocol: the number of the region in its upper half, whether
//! the region is open, and how many workers have joined it. A worker joins an open region by a
//! compare-and-swap, claims tasks from a shared counter and leaves. The caller claims tasks as well;
//! when none is left it closes the region and waits only for the workers that joined. A worker that
//! the operating system has not scheduled therefore delays nobody.
//!
//! Workers spin for [`SPIN`] after a region (the next one usually follows at once) and then park; after [`Pool::rest`]
//! they park at once.

use std::any::Any;
use std::cell::{Cell, UnsafeCell};
use std::fmt;
use std::marker::PhantomData;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{JoinHandle, Thread};
use std::time::{Duration, Instant};

use super::isa::Isa;

/// How long an idle worker looks for the next region before it parks.
const SPIN: Duration = Duration::from_micros(80);
/// Spins of the waiting caller before it offers its core to others.
const CALLER_SPINS: u32 = 4096;
const OPEN: u64 = 1 << 31;
const JOINED: u64 = OPEN - 1;
const REGION: u64 = 1 << 32;

thread_local! {
    /// Whether this thread is inside a region: nested regions run in place.
    static INSIDE: Cell<bool> = const { Cell::new(false) };
}

/// A fixed team of threads; the caller of [`Pool::run`] is one of them.
pub struct Pool {
    shared: Arc<Shared>,
    workers: Vec<Worker>,
    isa: Isa,
    turn: Mutex<()>,
}

struct Worker {
    handle: Option<JoinHandle<()>>,
    thread: Thread,
    parked: Arc<AtomicBool>,
}

/// Keeps words that different threads write on different cache lines.
#[repr(align(128))]
struct Apart<T>(T);

struct Shared {
    state: Apart<AtomicU64>,
    next: Apart<AtomicUsize>,
    /// No region follows soon. A hint: it decides when a worker parks and nothing else.
    resting: AtomicBool,
    job: UnsafeCell<Option<Job>>,
    panic: Mutex<Option<Box<dyn Any + Send>>>,
    shutdown: AtomicBool,
}

#[derive(Clone, Copy)]
struct Job {
    task: *const (dyn Fn(usize) + Sync + 'static),
    tasks: usize,
}

#[expect(unsafe_code, reason = "the region's task is reached through a raw pointer")]
// SAFETY: `job` is written only by the caller that holds `turn`, while no worker has joined, and read
// only by workers that joined an open region; the state word orders the two. What it points to is `Sync`.
unsafe impl Sync for Shared {}
#[expect(unsafe_code, reason = "the region's task is reached through a raw pointer")]
// SAFETY: as above; nothing in it is tied to a thread.
unsafe impl Send for Shared {}

impl fmt::Debug for Pool {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Pool").field("threads", &self.threads()).field("isa", &self.isa).finish()
    }
}

impl Pool {
    /// A team of `threads` (the caller included; `None`: the available parallelism) on the best instruction set.
    ///
    /// # Errors
    /// When the operating system refuses a thread.
    pub fn new(threads: Option<usize>) -> std::io::Result<Self> {
        Self::with_isa(threads, Isa::detect())
    }

    /// A team whose kernels use the given instruction set.
    ///
    /// # Errors
    /// When the operating system refuses a thread.
    pub fn with_isa(threads: Option<usize>, isa: Isa) -> std::io::Result<Self> {
        let available = || std::thread::available_parallelism().map_or(1, usize::from);
        let threads = threads.unwrap_or_else(available).max(1);
        let shared = Arc::new(Shared {
            state: Apart(AtomicU64::new(0)),
            next: Apart(AtomicUsize::new(0)),
            resting: AtomicBool::new(false),
            job: UnsafeCell::new(None),
            panic: Mutex::new(None),
            shutdown: AtomicBool::new(false),
        });
        let mut pool = Self { shared, workers: Vec::with_capacity(threads - 1), isa, turn: Mutex::new(()) };
        for index in 1..threads {
            pool.workers.push(Worker::spawn(index, &pool.shared)?);
        }
        Ok(pool)
    }

    /// Number of threads that work on a region, the caller included.
    #[must_use]
    pub fn threads(&self) -> usize {
        self.workers.len() + 1
    }

    /// The instruction set the kernels use.
    #[must_use]
    pub fn isa(&self) -> Isa {
        self.isa
    }

    /// Calls `task(0)`, ..., `task(tasks - 1)`, each once, on whichever thread is free; returns when all are done.
    ///
    /// Inside a task, another `run` works in place on the same thread.
    ///
    /// # Panics
    /// With the first panic of a task, after all threads have left the region; tasks not yet begun are dropped.
    pub fn run(&self, tasks: usize, task: &(dyn Fn(usize) + Sync)) {
        if tasks <= 1 || self.workers.is_empty() || INSIDE.get() {
            (0..tasks).for_each(task);
            return;
        }
        let _turn = lock(&self.turn);
        let job = Job::erase(task, tasks);
        self.open(job);
        self.shared.work(job);
        self.close();
        let panic = lock(&self.shared.panic).take();
        if let Some(payload) = panic {
            resume_unwind(payload);
        }
    }

    /// Leaves the cores of the workers to others until the next region: nothing more is computed for now.
    pub fn rest(&self) {
        self.shared.resting.store(true, Ordering::Relaxed);
    }

    /// Calls `task(i, part)` for consecutive parts of `data` of `part_len` elements (the last may be shorter).
    pub fn for_each_part<T: Send>(
        &self,
        data: &mut [T],
        part_len: usize,
        task: &(dyn Fn(usize, &mut [T]) + Sync),
    ) {
        let len = data.len();
        let shared = SharedSlice::new(data);
        self.run(len.div_ceil(part_len.max(1)), &|index| {
            let start = index * part_len;
            #[expect(unsafe_code, reason = "each task gets its own part of the slice")]
            // SAFETY: part `index` is given to exactly one task and parts do not overlap.
            let part = unsafe { shared.part(start, part_len.min(len - start)) };
            task(index, part);
        });
    }

    fn open(&self, job: Job) {
        #[expect(unsafe_code, reason = "publishes the region's task")]
        // SAFETY: `turn` is held and the last region is closed with nobody in it, so no one else looks at `job`.
        unsafe {
            *self.shared.job.get() = Some(job);
        }
        self.shared.next.0.store(0, Ordering::Relaxed);
        self.shared.resting.store(false, Ordering::Relaxed);
        let state = self.shared.state.0.load(Ordering::Relaxed);
        let region = (state & !(OPEN | JOINED)).wrapping_add(REGION);
        // SeqCst pairs with `Worker::park`: either the worker sees this region or we see that it is parked.
        self.shared.state.0.store(region | OPEN, Ordering::SeqCst);
        for worker in &self.workers {
            if worker.parked.load(Ordering::SeqCst) && worker.parked.swap(false, Ordering::SeqCst) {
                worker.thread.unpark();
            }
        }
    }

    fn close(&self) {
        let mut state = self.shared.state.0.fetch_and(!OPEN, Ordering::AcqRel);
        let mut spins = 0;
        while state & JOINED != 0 {
            if spins < CALLER_SPINS {
                spins += 1;
                std::hint::spin_loop();
            } else {
                std::thread::yield_now();
            }
            state = self.shared.state.0.load(Ordering::Acquire);
        }
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.shared.shutdown.store(true, Ordering::SeqCst);
        for worker in &mut self.workers {
            worker.thread.unpark();
            if let Some(handle) = worker.handle.take() {
                // A worker never panics (tasks are caught), so there is nothing to report.
                drop(handle.join());
            }
        }
    }
}

impl Worker {
    fn spawn(index: usize, shared: &Arc<Shared>) -> std::io::Result<Self> {
        let parked = Arc::new(AtomicBool::new(false));
        let (team, flag) = (Arc::clone(shared), Arc::clone(&parked));
        let handle = std::thread::Builder::new()
            .name(format!("evalign-kernel-{index}"))
            .spawn(move || serve(&team, &flag))?;
        let thread = handle.thread().clone();
        Ok(Self { handle: Some(handle), thread, parked })
    }
}

/// A worker's life: wait for a region, join it, work, leave.
fn serve(shared: &Shared, parked: &AtomicBool) {
    INSIDE.set(true);
    let mut served = 0;
    while let Some(region) = wait(shared, parked, served) {
        served = region;
        let Some(job) = shared.join(region) else { continue };
        shared.work(job);
        shared.state.0.fetch_sub(1, Ordering::Release);
    }
}

/// Spins, then parks, until a region other than `served` is open; `None` at shutdown.
fn wait(shared: &Shared, parked: &AtomicBool, served: u64) -> Option<u64> {
    let open_region = |order| {
        let state = shared.state.0.load(order);
        let region = state & !(OPEN | JOINED);
        (state & OPEN != 0 && region != served).then_some(region)
    };
    loop {
        let start = Instant::now();
        while start.elapsed() < SPIN && !shared.resting.load(Ordering::Relaxed) {
            for _ in 0..32 {
                if let Some(region) = open_region(Ordering::Acquire) {
                    return Some(region);
                }
                std::hint::spin_loop();
            }
        }
        parked.store(true, Ordering::SeqCst);
        loop {
            if shared.shutdown.load(Ordering::SeqCst) {
                return None;
            }
            if let Some(region) = open_region(Ordering::SeqCst) {
                parked.store(false, Ordering::SeqCst);
                return Some(region);
            }
            if !parked.load(Ordering::SeqCst) {
                break;
            }
            std::thread::park();
        }
    }
}

impl Shared {
    /// Joins the region if it is still open, and reads its job.
    fn join(&self, region: u64) -> Option<Job> {
        let mut state = self.state.0.load(Ordering::Acquire);
        while state & OPEN != 0 && state & !(OPEN | JOINED) == region {
            match self.state.0.compare_exchange_weak(state, state + 1, Ordering::AcqRel, Ordering::Acquire) {
                #[expect(unsafe_code, reason = "reads the region's task")]
                // SAFETY: joined, so the caller cannot leave the region or publish another job before we leave.
                Ok(_) => return unsafe { *self.job.get() },
                Err(now) => state = now,
            }
        }
        None
    }

    /// Claims and runs tasks until none is left; a panic is kept for the caller and ends the region early.
    fn work(&self, job: Job) {
        let outside = INSIDE.replace(true);
        let outcome = catch_unwind(AssertUnwindSafe(|| {
            #[expect(unsafe_code, reason = "calls the region's task")]
            // SAFETY: `Pool::run` keeps the closure borrowed until every thread that joined has left.
            let task = unsafe { &*job.task };
            loop {
                let index = self.next.0.fetch_add(1, Ordering::Relaxed);
                if index >= job.tasks {
                    break;
                }
                task(index);
            }
        }));
        INSIDE.set(outside);
        if let Err(payload) = outcome {
            self.next.0.store(job.tasks, Ordering::Relaxed);
            lock(&self.panic).get_or_insert(payload);
        }
    }
}

impl Job {
    fn erase<'a>(task: &'a (dyn Fn(usize) + Sync + 'a), tasks: usize) -> Self {
        let task: *const (dyn Fn(usize) + Sync + 'a) = task;
        #[expect(unsafe_code, reason = "threads outlive the borrow, the region does not")]
        // SAFETY: only the lifetime changes; the pointer is used only inside the region that `Pool::run` waits for.
        let task = unsafe {
            std::mem::transmute::<*const (dyn Fn(usize) + Sync + 'a), *const (dyn Fn(usize) + Sync + 'static)>(
                task,
            )
        };
        Self { task, tasks }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A mutable slice whose parts several tasks write at the same time.
#[derive(Clone, Copy, Debug)]
pub(super) struct SharedSlice<'a, T> {
    start: *mut T,
    len: usize,
    borrow: PhantomData<&'a mut [T]>,
}

#[expect(unsafe_code, reason = "parts are handed out to several threads")]
// SAFETY: access goes through `part` alone, whose caller promises that parts in use do not overlap.
unsafe impl<T: Send> Sync for SharedSlice<'_, T> {}

impl<'a, T> SharedSlice<'a, T> {
    pub(super) fn new(slice: &'a mut [T]) -> Self {
        Self { start: slice.as_mut_ptr(), len: slice.len(), borrow: PhantomData }
    }

    /// The part `[start, start + len)`, bounds checked.
    ///
    /// # Safety
    /// No other part in use at the same time may overlap this one.
    #[expect(unsafe_code, reason = "the caller promises disjoint parts")]
    pub(super) unsafe fn part(&self, start: usize, len: usize) -> &'a mut [T] {
        assert!(start <= self.len && len <= self.len - start, "part lies outside the slice");
        // SAFETY: in bounds of the borrowed slice; the caller promises that no other live part overlaps.
        unsafe { std::slice::from_raw_parts_mut(self.start.add(start), len) }
    }

    /// Pointer to a rectangle of `rows` rows of `columns` elements, `stride` apart, bounds checked; whoever writes
    /// through it must be the only one.
    pub(super) fn rectangle(&self, start: usize, rows: usize, columns: usize, stride: usize) -> *mut T {
        let end = start + rows.saturating_sub(1) * stride + columns;
        assert!(end <= self.len, "rectangle lies outside the slice");
        self.start.wrapping_add(start)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_task_runs_once_whatever_the_counts() {
        for threads in [1, 2, 3, 5] {
            let pool = Pool::new(Some(threads)).expect("threads");
            assert_eq!(pool.threads(), threads);
            for tasks in [0_usize, 1, 2, 7, 300] {
                let hits: Vec<AtomicUsize> = (0..tasks).map(|_| AtomicUsize::new(0)).collect();
                pool.run(tasks, &|index| {
                    hits[index].fetch_add(1, Ordering::Relaxed);
                });
                assert!(hits.iter().all(|hit| hit.load(Ordering::Relaxed) == 1));
            }
        }
    }

    #[test]
    fn thousands_of_regions_with_and_without_parking() {
        let pool = Pool::new(Some(3)).expect("threads");
        let total = AtomicUsize::new(0);
        for round in 0..5000 {
            pool.run(4, &|index| {
                total.fetch_add(index, Ordering::Relaxed);
            });
            if round % 100 == 0 {
                pool.rest();
            }
            if round % 1000 == 0 {
                std::thread::sleep(Duration::from_millis(1));
            }
        }
        assert_eq!(total.load(Ordering::Relaxed), 5000 * 6);
    }

    #[test]
    fn a_panic_reaches_the_caller_and_the_pool_stays_usable() {
        let pool = Pool::new(Some(3)).expect("threads");
        for _ in 0..20 {
            let outcome = catch_unwind(AssertUnwindSafe(|| {
                pool.run(64, &|index| assert!(index != 13, "task thirteen"));
            }));
            let payload = outcome.expect_err("must panic");
            assert_eq!(payload.downcast_ref::<&str>(), Some(&"task thirteen"));
            let count = AtomicUsize::new(0);
            pool.run(10, &|_| {
                count.fetch_add(1, Ordering::Relaxed);
            });
            assert_eq!(count.load(Ordering::Relaxed), 10);
        }
    }

    #[test]
    fn nested_and_concurrent_regions_work() {
        let pool = Pool::new(Some(3)).expect("threads");
        let count = AtomicUsize::new(0);
        std::thread::scope(|scope| {
            for _ in 0..3 {
                scope.spawn(|| {
                    for _ in 0..50 {
                        pool.run(4, &|_| {
                            pool.run(3, &|_| {
                                count.fetch_add(1, Ordering::Relaxed);
                            });
                        });
                    }
                });
            }
        });
        assert_eq!(count.load(Ordering::Relaxed), 3 * 50 * 12);
    }

    #[test]
    fn parts_cover_the_slice() {
        let pool = Pool::new(Some(2)).expect("threads");
        let mut data = vec![0_usize; 103];
        pool.for_each_part(&mut data, 10, &|index, part| {
            part.iter_mut().for_each(|value| *value = index + 1);
        });
        assert!(data.iter().enumerate().all(|(place, value)| *value == place / 10 + 1));
    }
}
