//! What goes on, on a terminal and nowhere else.

use std::sync::Arc;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use tokio::task::JoinHandle;

use super::units;
use crate::clock::{RunClock, SECOND_NS};
use crate::load::Load;
use crate::record::{Meter, Window};

/// A line that is drawn anew four times a second.
pub struct Progress {
    bar: ProgressBar,
    drawing: Option<JoinHandle<()>>,
}

impl Progress {
    /// Begins to draw, if there is a terminal and that is wanted.
    pub fn start(
        name: &str,
        load: &Load,
        meters: &[Arc<Meter>],
        window: &Arc<Window>,
        clock: RunClock,
        is_shown: bool,
    ) -> Self {
        let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr());
        if !is_shown || bar.is_hidden() {
            return Self { bar: ProgressBar::hidden(), drawing: None };
        }
        bar.set_style(ProgressStyle::with_template("{spinner} {prefix}  {msg}").expect("the template is legal"));
        bar.set_prefix(name.to_owned());
        let target = match (load.duration, load.records) {
            (Some(duration), _) => format!(" of {duration}"),
            (None, Some(records)) => format!(", {} records", units::commas(records)),
            (None, None) => String::new(),
        };
        let draw = draw(bar.clone(), meters.to_vec(), Arc::clone(window), clock, target);
        Self { bar, drawing: Some(tokio::spawn(draw)) }
    }

    /// Takes the line away.
    pub fn finish(self) {
        drop(self);
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if let Some(drawing) = &self.drawing {
            drawing.abort();
        }
        self.bar.finish_and_clear();
    }
}

async fn draw(bar: ProgressBar, meters: Vec<Arc<Meter>>, window: Arc<Window>, clock: RunClock, target: String) {
    let mut ticks = tokio::time::interval(Duration::from_millis(250));
    let mut before: Vec<(u64, u64)> = vec![(0, 0); meters.len()];
    loop {
        ticks.tick().await;
        let now = clock.now();
        let when = match now.checked_sub(window.start()) {
            None => "warming up".to_owned(),
            Some(_) if now >= window.end() => "waiting for the rest".to_owned(),
            Some(since) => format!("{:.0} s{target}", since as f64 / SECOND_NS as f64),
        };
        let rates = meters.iter().zip(&mut before).map(|(meter, before)| {
            let live = meter.live();
            let (records, bytes) = (live.0 - before.0, live.1 - before.1);
            *before = live;
            format!("{} {}/s {}/s", meter.name, units::count(records as f64 * 4.0), units::bytes(bytes as f64 * 4.0))
        });
        let rates: Vec<String> = rates.collect();
        bar.set_message(format!("{when}  {}", rates.join("  ")));
        bar.tick();
    }
}
