//! Ticks at a steady rate, whatever becomes of what they start: an open loop.
//!
//! A thread of its own sleeps until each is due: the timers of an async runtime are a millisecond coarse. A tick says when it
//! was *due*, so that who is late counts it against himself (no coordinated omission).

use std::time::{Duration, Instant};

use tokio::sync::mpsc;

/// Times at which something is due, as they come.
#[derive(Debug)]
pub struct Ticks(mpsc::UnboundedReceiver<Instant>);

impl Ticks {
    /// `count` ticks, `per_second` of them.
    #[expect(clippy::disallowed_methods, reason = "time itself is what is waited for")]
    pub fn start(per_second: u32, count: usize) -> Self {
        let (sender, receiver) = mpsc::unbounded_channel();
        std::thread::spawn(move || {
            let start = Instant::now();
            for number in 0..count {
                let due = start + Duration::from_secs_f64(number as f64 / f64::from(per_second.max(1)));
                std::thread::sleep(due.saturating_duration_since(Instant::now()));
                if sender.send(due).is_err() {
                    break;
                }
            }
        });
        Self(receiver)
    }

    /// The next one, when it is due; `None` after the last.
    pub async fn next(&mut self) -> Option<Instant> {
        self.0.recv().await
    }
}
