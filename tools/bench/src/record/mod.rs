//! What is measured while it runs: each kind of event has a [`Meter`], each task a [`Probe`] into it.
//!
//! A probe gathers a second by itself and hands it over as a whole, so that tasks share nothing per record. Seconds that are
//! over are encoded and let go of: memory does not grow with the run but by a line a second.
//!
//! An event counts if it falls into the run's [`Window`]; a latency counts if its record was *to be sent* within the window,
//! however late the answer came.
//!
//! - `series`: the seconds of a meter. `process`: what a process uses. `sampler`: looks at it once a second.

pub mod process;
pub mod sampler;
pub mod series;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use hdrhistogram::Histogram;
use parking_lot::Mutex;

use crate::clock::SECOND_NS;
use series::Series;

/// Nanoseconds, up to an hour, to three digits.
pub fn histogram_ns() -> Histogram<u64> {
    Histogram::new_with_bounds(1, 3_600 * SECOND_NS, 3).expect("the bounds are legal")
}

/// The time that counts.
#[derive(Debug)]
pub struct Window {
    start_ns: AtomicU64,
    end_ns: AtomicU64,
}

impl Window {
    /// From `start_ns` until it is closed, or `end_ns`.
    pub fn new(start_ns: u64, end_ns: u64) -> Self {
        Self { start_ns: start_ns.into(), end_ns: end_ns.into() }
    }

    /// When it begins.
    pub fn start(&self) -> u64 {
        self.start_ns.load(Ordering::Relaxed)
    }

    /// When it ends; `u64::MAX`: when what is to be done is done.
    pub fn end(&self) -> u64 {
        self.end_ns.load(Ordering::Relaxed)
    }

    /// Ends it then, or earlier if it was to.
    pub fn close(&self, at_ns: u64) {
        self.end_ns.fetch_min(at_ns.max(self.start()), Ordering::Relaxed);
    }

    /// Whether it counts.
    pub fn holds(&self, at_ns: u64) -> bool {
        at_ns >= self.start() && at_ns < self.end()
    }
}

/// One kind of event: what is counted, and how long it took.
#[derive(Debug)]
pub struct Meter {
    /// Its name, stable.
    pub name: &'static str,
    /// What its latencies run from and to; none if it has none.
    pub latency_of: Option<&'static str>,
    window: Arc<Window>,
    series: Mutex<Series>,
    live_records: AtomicU64,
    live_bytes: AtomicU64,
}

impl Meter {
    /// A meter of that name.
    pub fn new(name: &'static str, latency_of: Option<&'static str>, window: Arc<Window>) -> Arc<Self> {
        let (series, live_records, live_bytes) = Default::default();
        Arc::new(Self { name, latency_of, window, series, live_records, live_bytes })
    }

    /// For one task.
    pub fn probe(self: &Arc<Self>) -> Probe {
        Probe {
            meter: Arc::clone(self),
            second: 0,
            records: 0,
            bytes: 0,
            last_ns: 0,
            latency_ns: self.latency_of.map(|_| histogram_ns()),
        }
    }

    /// Records and bytes so far, warm-up included: for who watches.
    pub fn live(&self) -> (u64, u64) {
        (self.live_records.load(Ordering::Relaxed), self.live_bytes.load(Ordering::Relaxed))
    }

    /// Lets go of the seconds before that one.
    pub fn settle(&self, before_second: u64) {
        self.series.lock().settle(before_second);
    }

    /// What came together; nothing may be recorded after.
    pub fn take(&self) -> Series {
        let mut series = self.series.lock();
        series.settle(u64::MAX);
        std::mem::take(&mut series)
    }
}

/// One task's side of a meter. What it holds is handed over when a second is over, and when it is dropped.
#[derive(Debug)]
pub struct Probe {
    meter: Arc<Meter>,
    second: u64,
    records: u64,
    bytes: u64,
    last_ns: u64,
    latency_ns: Option<Histogram<u64>>,
}

impl Probe {
    /// Another one into the same meter.
    pub fn twin(&self) -> Self {
        self.meter.probe()
    }

    /// So many came at that time.
    pub fn count(&mut self, at_ns: u64, records: u64, bytes: u64) {
        self.meter.live_records.fetch_add(records, Ordering::Relaxed);
        self.meter.live_bytes.fetch_add(bytes, Ordering::Relaxed);
        if self.meter.window.holds(at_ns) {
            self.turn(at_ns);
            self.records += records;
            self.bytes += bytes;
            self.last_ns = self.last_ns.max(at_ns);
        }
    }

    /// One that was to be sent then had its answer at that time.
    pub fn latency(&mut self, at_ns: u64, intended_ns: u64) {
        if self.meter.window.holds(intended_ns) {
            self.turn(at_ns);
            if let Some(histogram) = &mut self.latency_ns {
                histogram.saturating_record(at_ns.saturating_sub(intended_ns).max(1));
            }
        }
    }

    /// Something of that time was the newest there was at this time.
    pub fn age(&mut self, at_ns: u64, of_ns: u64) {
        if self.meter.window.holds(at_ns) {
            self.turn(at_ns);
            if let Some(histogram) = &mut self.latency_ns {
                histogram.saturating_record(at_ns.saturating_sub(of_ns).max(1));
            }
        }
    }

    fn turn(&mut self, at_ns: u64) {
        let window = &self.meter.window;
        let last = window.end().saturating_sub(1).min(at_ns);
        let second = last.saturating_sub(window.start()) / SECOND_NS;
        if second != self.second {
            self.hand_over();
            self.second = second;
        }
    }

    fn hand_over(&mut self) {
        let has_latency = self.latency_ns.as_ref().is_some_and(|histogram| !histogram.is_empty());
        if self.records > 0 || has_latency {
            let latency = self.latency_ns.as_ref().filter(|_| has_latency);
            self.meter.series.lock().add(self.second, (self.records, self.bytes), self.last_ns, latency);
        }
        (self.records, self.bytes) = (0, 0);
        if let Some(histogram) = self.latency_ns.as_mut().filter(|_| has_latency) {
            histogram.reset();
        }
    }
}

impl Drop for Probe {
    fn drop(&mut self) {
        self.hand_over();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_falls_outside_of_the_window_is_not_counted_and_a_late_answer_is() {
        let window = Arc::new(Window::new(10 * SECOND_NS, 12 * SECOND_NS));
        let meter = Meter::new("m", Some("of"), Arc::clone(&window));
        let mut probe = meter.probe();
        for second in 8..15 {
            let at = second * SECOND_NS;
            probe.count(at, 2, 20);
            // Every answer takes five seconds.
            probe.latency(at + 5 * SECOND_NS, at);
        }
        drop(probe);
        let series = meter.take();
        let counted: Vec<(u64, u64)> = series.seconds().map(|second| (second.second, second.records)).collect();
        assert_eq!(counted, [(0, 2), (1, 2)]);
        assert_eq!((series.records, series.bytes, series.total_ns.len()), (4, 40, 2));
        assert!(series.total_ns.min() >= 4_990 * SECOND_NS / 1_000);
        assert_eq!(meter.live(), (14, 140));
    }

    #[test]
    fn probes_of_many_tasks_add_up_over_seconds() {
        let window = Arc::new(Window::new(0, u64::MAX));
        let meter = Meter::new("m", Some("of"), window);
        let mut probes: Vec<Probe> = (0..3).map(|_| meter.probe()).collect();
        for n in 0..300_u64 {
            let at = n * SECOND_NS / 100;
            probes[n as usize % 3].count(at, 1, 7);
            probes[n as usize % 3].latency(at, at.saturating_sub(n * 1_000));
            if n % 100 == 99 {
                meter.settle(n / 100);
            }
        }
        drop(probes);
        let series = meter.take();
        let seconds: Vec<_> = series.seconds().collect();
        assert_eq!(seconds.iter().map(|second| second.records).collect::<Vec<_>>(), [100, 100, 100]);
        assert_eq!((series.records, series.total_ns.len()), (300, 300));
        assert_eq!(series.last_ns, 299 * SECOND_NS / 100);
    }
}
