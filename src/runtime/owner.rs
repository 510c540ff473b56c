//! MLX keeps streams, encoders and the compile cache per thread, so one thread of the process evaluates everything.
//!
//! Work arrives as jobs. A long job does a slice at a time and goes to the back of the queue in between, so that a
//! generation, a training run and the reading of an array share the thread fairly.

use std::cell::Cell;
use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Condvar, Mutex, OnceLock, mpsc};
use std::time::{Duration, Instant};

use crate::mlx::{Error, Result};

/// What a job says after a slice of work.
pub enum Poll {
    Done,
    Again,
}

/// Work for the owner thread. `step` is called until it says `Done`; it reports its own errors to whoever waits for it.
pub trait Job: Send {
    fn step(&mut self) -> Poll;
}

struct Once<F: FnOnce() + Send>(Option<F>);

impl<F: FnOnce() + Send> Job for Once<F> {
    fn step(&mut self) -> Poll {
        if let Some(work) = self.0.take() {
            work();
        }
        Poll::Done
    }
}

#[derive(Default)]
struct Queue {
    jobs: Mutex<VecDeque<Box<dyn Job>>>,
    wake: Condvar,
    running: AtomicBool,
    closed: AtomicBool,
}

thread_local! {
    static IS_OWNER: Cell<bool> = const { Cell::new(false) };
}

/// Whether the caller runs on the owner thread.
pub fn is_owner() -> bool {
    IS_OWNER.get()
}

/// Puts a job at the end of the queue.
pub fn spawn(job: impl Job + 'static) {
    let queue = queue();
    queue.jobs.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).push_back(Box::new(job));
    queue.wake.notify_one();
}

/// Runs `work` on the owner thread some time later.
pub fn spawn_once(work: impl FnOnce() + Send + 'static) {
    spawn(Once(Some(work)));
}

/// Runs `work` on the owner thread and waits for it. On the owner thread itself it simply runs.
pub fn block_on_owner<T: Send>(work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    if is_owner() {
        return work();
    }
    let (sender, receiver) = mpsc::sync_channel(1);
    // What is evaluated for a traced function must keep its graph.
    let in_trace = crate::mlx::transforms::in_trace();
    let job: Box<dyn FnOnce() + Send + '_> = Box::new(move || {
        let _inherited = crate::mlx::transforms::Inherited::new(in_trace);
        let result = catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|panic| Err(panic_error(panic)));
        let _ = sender.send(result);
    });
    // SAFETY: this function does not return before the job has run or has been dropped (the channel closes then),
    // so everything it borrows outlives it.
    let job: Box<dyn FnOnce() + Send + 'static> = unsafe { std::mem::transmute(job) };
    spawn(Once(Some(job)));
    receiver.recv().unwrap_or_else(|_| Err(Error::Cancelled))
}

/// Turns a panic into the error that its waiter sees.
pub(crate) fn panic_error(panic: Box<dyn std::any::Any + Send>) -> Error {
    let text = panic
        .downcast_ref::<&str>()
        .map(|text| text.to_string())
        .or_else(|| panic.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "unknown panic".to_string());
    Error::Internal(format!("a bug in mlx-node: {text}. Please report it."))
}

/// Whether the owner thread is at work or has work waiting.
pub fn busy() -> bool {
    let queue = queue();
    queue.running.load(Ordering::Acquire) || !queue.jobs.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).is_empty()
}

/// Drops what waits and gives the running slice up to `patience` to end. Returns whether the thread is idle.
pub fn shut_down(patience: Duration) -> bool {
    let Some(queue) = QUEUE.get() else { return true };
    queue.closed.store(true, Ordering::Release);
    let waiting = std::mem::take(&mut *queue.jobs.lock().unwrap_or_else(|poisoned| poisoned.into_inner()));
    drop(waiting);
    queue.wake.notify_one();
    let start = Instant::now();
    while queue.running.load(Ordering::Acquire) {
        if start.elapsed() > patience {
            return false;
        }
        std::thread::sleep(Duration::from_micros(200));
    }
    true
}

static QUEUE: OnceLock<&'static Queue> = OnceLock::new();

fn queue() -> &'static Queue {
    QUEUE.get_or_init(|| {
        let queue: &'static Queue = Box::leak(Box::default());
        let (ready, started) = mpsc::sync_channel(1);
        std::thread::Builder::new()
            .name("mlx-owner".into())
            // Evaluation and differentiation of deep graphs recurse.
            .stack_size(64 << 20)
            .spawn(move || {
                IS_OWNER.set(true);
                crate::mlx::stream::start_owner();
                let _ = ready.send(());
                run(queue);
            })
            .expect("the operating system refused a thread");
        let _ = started.recv();
        queue
    })
}

fn run(queue: &'static Queue) {
    loop {
        let mut job = {
            let mut jobs = queue.jobs.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
            loop {
                if let Some(job) = jobs.pop_front() {
                    queue.running.store(true, Ordering::Release);
                    break job;
                }
                queue.running.store(false, Ordering::Release);
                jobs = queue.wake.wait(jobs).unwrap_or_else(|poisoned| poisoned.into_inner());
            }
        };
        // A panicking job is dropped; whoever waits for it sees its channel close.
        let again = catch_unwind(AssertUnwindSafe(|| job.step())).is_ok_and(|poll| matches!(poll, Poll::Again));
        if again && !queue.closed.load(Ordering::Acquire) {
            queue.jobs.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).push_back(job);
        } else {
            drop(job);
        }
    }
}
