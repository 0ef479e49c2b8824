//! The threads that read and encode for all lakes of a server: few, and behind everybody else.
//!
//! A lake that catches up would take all the processor it gets, and producers would feel it. Its threads ask the system for less
//! than others (`nice`), which takes threads of their own: the async runtime's blocking threads serve others, too, and a thread
//! may not take its rank back. (`SCHED_IDLE`, which leaves producers little more, would starve a lake beside any program that
//! keeps the cores busy.)

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use tokio::sync::oneshot;

/// How far behind: at this rank a thread gets about a tenth of what others get, while they want all.
const NICE: i32 = 10;

type Job = Box<dyn FnOnce() + Send>;

/// See the module.
#[derive(Debug)]
pub struct Workers {
    jobs: crossbeam_channel::Sender<Job>,
}

/// Why work came to no result.
pub(crate) enum Lost {
    /// It panicked.
    Panic(Box<dyn Any + Send>),
    /// Its thread is gone.
    Ended,
}

impl Workers {
    /// Starts so many threads, at least one. They end with the last handle.
    pub fn start(threads: usize) -> Arc<Workers> {
        let (jobs, queue) = crossbeam_channel::unbounded::<Job>();
        for number in 0..threads.max(1) {
            let queue = queue.clone();
            let started = std::thread::Builder::new().name(format!("lake-{number}")).spawn(move || {
                // Where the system refuses, the thread works at everybody's rank.
                let _ = rustix::process::setpriority_process(None, NICE);
                queue.iter().for_each(|job| job());
            });
            if let Err(error) = started {
                tracing::error!(%error, "a thread for lakes does not start");
            }
        }
        Arc::new(Workers { jobs })
    }

    /// Runs work when a thread is free, and waits for it.
    pub(crate) async fn run<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> Result<T, Lost> {
        let (done, result) = oneshot::channel();
        let job = move || {
            // Who waited may have gone.
            let _ = done.send(catch_unwind(AssertUnwindSafe(work)));
        };
        self.jobs.send(Box::new(job)).map_err(|_| Lost::Ended)?;
        result.await.map_err(|_| Lost::Ended)?.map_err(Lost::Panic)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_panic_is_told_and_the_thread_goes_on() {
        let workers = Workers::start(1);
        let panicked = workers.run(|| -> u32 { panic!("no") }).await;
        assert!(matches!(panicked, Err(Lost::Panic(panic)) if panic.downcast_ref() == Some(&"no")));
        assert_eq!(workers.run(|| 7).await.ok(), Some(7));
    }
}
