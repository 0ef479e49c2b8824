//! Once a second: what the server's process uses, and the meters' seconds that are over.

use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::time::MissedTickBehavior;

use super::process::ServerProcess;
use super::{Meter, Window};
use crate::clock::{RunClock, SECOND_NS};

/// Seconds that stay open for what comes late.
const OPEN_SECONDS: u64 = 3;

/// What a process used in a second.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Sample {
    /// Seconds since the window's start.
    pub at: f64,
    /// Of one core, since the sample before.
    pub cpu_percent: f64,
    /// Resident memory.
    pub resident_bytes: u64,
}

/// Samples until it is aborted; what it has found is in `samples`.
pub async fn run(
    process: Option<ServerProcess>,
    meters: Vec<Arc<Meter>>,
    window: Arc<Window>,
    clock: RunClock,
    samples: Arc<parking_lot::Mutex<Vec<Sample>>>,
) {
    let mut ticks = tokio::time::interval(Duration::from_secs(1));
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut before = None;
    loop {
        ticks.tick().await;
        let now = clock.now();
        let second = now.saturating_sub(window.start()) / SECOND_NS;
        meters.iter().for_each(|meter| meter.settle(second.saturating_sub(OPEN_SECONDS)));
        let Some((process, Ok(cpu))) = process.map(|process| (process, process.cpu())) else { continue };
        if let (Some((cpu_before, at)), Ok(resident_bytes)) = (before.replace((cpu, now)), process.resident_bytes())
            && now > window.start()
        {
            let used: Duration = cpu.saturating_sub(cpu_before);
            let passed = (now - at) as f64 / SECOND_NS as f64;
            let cpu_percent = 100.0 * used.as_secs_f64() / passed.max(1e-9);
            let at = (now - window.start()) as f64 / SECOND_NS as f64;
            samples.lock().push(Sample { at, cpu_percent, resident_bytes });
        }
    }
}
