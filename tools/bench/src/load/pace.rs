//! When records are due: an open loop. A record's latency runs from when it was *to be sent*, whatever held it up: what waits
//! behind a slow server is counted as what it is (no coordinated omission).
//!
//! - [`Schedule`] (pure): the intended times of one producer.
//! - [`Metronome`]: a thread that wakes producers on time; a runtime's own timers are a millisecond coarse.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::{Duration, Instant};

use tokio::sync::Notify;

/// Producers that send more often than this are woken for several records at once.
const LEAST_WAIT: Duration = Duration::from_micros(100);

/// One producer's intended times.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Schedule {
    start_ns: u64,
    interval_ns: f64,
}

impl Schedule {
    /// Of producer `index` of `producers`, which together send `rate` records a second from `start_ns` on: evenly, one after
    /// the other.
    pub fn new(rate: f64, producers: u32, index: u32, start_ns: u64) -> Self {
        let interval_ns = 1e9 * f64::from(producers) / rate;
        let own_ns = interval_ns * f64::from(index) / f64::from(producers);
        Self { start_ns: start_ns + own_ns as u64, interval_ns }
    }

    /// When the n-th record is to be sent, from 0.
    pub fn intended(&self, n: u64) -> u64 {
        self.start_ns + (n as f64 * self.interval_ns) as u64
    }

    /// How many are to be sent by then, in all.
    pub fn due(&self, now_ns: u64) -> u64 {
        let Some(passed) = now_ns.checked_sub(self.start_ns) else { return 0 };
        let guess = (passed as f64 / self.interval_ns) as u64 + 1;
        // Rounding may be off by one, either way.
        match self.intended(guess) <= now_ns {
            true => guess + 1,
            false if self.intended(guess - 1) > now_ns => guess - 1,
            false => guess,
        }
    }
}

struct Wake {
    at: Instant,
    who: Arc<Notify>,
}

/// Wakes whoever asks, on time. Ends when the last handle is gone.
#[derive(Debug, Clone)]
pub struct Metronome(Sender<Wake>);

impl Metronome {
    /// Starts its thread.
    pub fn start() -> Self {
        let (send, asked) = channel();
        let run = move || tick(&asked);
        std::thread::Builder::new().name("metronome".to_owned()).spawn(run).expect("the system gives threads");
        Self(send)
    }

    /// Waits until then, and a moment at least.
    pub async fn wait(&self, at: Instant) {
        let who = Arc::new(Notify::new());
        let at = at.max(Instant::now() + LEAST_WAIT);
        self.0.send(Wake { at, who: Arc::clone(&who) }).expect("the thread runs as long as there is a handle");
        who.notified().await;
    }
}

fn tick(asked: &Receiver<Wake>) {
    let mut waiting: BinaryHeap<Reverse<(Instant, u64)>> = BinaryHeap::new();
    let mut who: HashMap<u64, Arc<Notify>> = HashMap::new();
    for number in 0_u64.. {
        let now = Instant::now();
        while let Some(Reverse((_, due))) = waiting.peek().copied().filter(|Reverse((at, _))| *at <= now) {
            waiting.pop();
            if let Some(who) = who.remove(&due) {
                who.notify_one();
            }
        }
        let wake = match waiting.peek() {
            None => asked.recv().map_err(|_| RecvTimeoutError::Disconnected),
            Some(Reverse((at, _))) => asked.recv_timeout(at.saturating_duration_since(now)),
        };
        match wake {
            Ok(Wake { at, who: one }) => {
                waiting.push(Reverse((at, number)));
                who.insert(number, one);
            }
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_are_due_at_their_times_and_never_bunch() {
        for rate in [0.5, 3.0, 1_000.0, 333_333.3, 7e6] {
            let schedule = Schedule::new(rate, 1, 0, 1_000);
            assert_eq!((schedule.due(999), schedule.due(1_000), schedule.intended(0)), (0, 1, 1_000));
            for n in (1..1_000).chain([1_000_000, 1_000_000_000]) {
                let at = schedule.intended(n);
                assert_eq!(schedule.due(at), n + 1, "{rate} {n}");
                assert_eq!(schedule.due(at - 1), n, "{rate} {n}");
            }
        }
    }

    #[test]
    fn producers_take_turns_and_add_up_to_the_rate() {
        let schedules: Vec<Schedule> = (0..4).map(|index| Schedule::new(1_000.0, 4, index, 0)).collect();
        let mut times: Vec<u64> = schedules.iter().flat_map(|s| (0..250).map(|n| s.intended(n))).collect();
        times.sort_unstable();
        let even: Vec<u64> = (0..1_000).map(|n| n * 1_000_000).collect();
        assert_eq!(times, even);
    }

    #[tokio::test]
    async fn the_metronome_wakes_no_one_early() {
        let metronome = Metronome::start();
        let start = Instant::now();
        let (late, early) = (start + Duration::from_millis(20), start + Duration::from_millis(5));
        let wait = async |at| {
            metronome.wait(at).await;
            Instant::now()
        };
        let (woken_late, woken_early) = tokio::join!(wait(late), wait(early));
        assert!(woken_late >= late && woken_early >= early);
    }
}
