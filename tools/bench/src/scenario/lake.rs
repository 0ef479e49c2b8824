//! Watches a lake land what is sent: how far it is, and how old the newest is that has landed.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use millstream_client::{Client, LakeStatus};
use tokio::task::JoinHandle;

use super::tasks::Meters;
use crate::drive::Shared;
use crate::failure::Failure;
use crate::load::Load;
use crate::result::Landed;

/// How often it is looked at.
const LOOK: Duration = Duration::from_millis(100);

/// A lake that is watched.
pub struct Watch {
    client: Client,
    lake: String,
    looking: JoinHandle<Result<(), Failure>>,
    lag_max: Arc<AtomicU64>,
}

impl Watch {
    /// Begins to look.
    pub fn start(client: Client, lake: String, meters: &Meters, shared: &Arc<Shared>) -> Self {
        let lag_max = Arc::<AtomicU64>::default();
        let looking = look(
            client.clone(),
            lake.clone(),
            meters.land.as_ref().expect("a lake is measured").probe(),
            meters.produce.as_ref().expect("who lands sends").clone(),
            Arc::clone(shared),
            Arc::clone(&lag_max),
        );
        Self { client, lake, looking: tokio::spawn(looking), lag_max }
    }

    /// All is sent: has it landed, and compared with the log. Gives what is wrong, too.
    pub async fn finish(self, load: &Load, sent: u64) -> Result<(Landed, Vec<String>), Failure> {
        let since = Instant::now();
        let patience = load.drain_timeout.get();
        let status = self.client.flush_lake(&self.lake, patience).await?;
        let catch_up_seconds = since.elapsed().as_secs_f64();
        self.looking.abort();
        match self.looking.await {
            Ok(failed) => failed?,
            // It goes on until it is told.
            Err(ended) if ended.is_cancelled() => {}
            Err(panicked) => std::panic::resume_unwind(panicked.into_panic()),
        }
        let mut wrong = Vec::new();
        if load.verify {
            let audit = self.client.audit_lake(&self.lake, patience).await?;
            if !audit.complete || audit.lost > 0 {
                wrong.push(format!("the lake is not complete: {}", audit.named.join("; ")));
            }
            if audit.rows + audit.rejected < sent {
                let (rows, rejected) = (audit.rows, audit.rejected);
                wrong.push(format!(
                    "the lake has {rows} rows and {rejected} rejected records, of {sent} that were sent"
                ));
            }
        }
        let landed = Landed {
            files: status.files,
            rows: status.rows,
            bytes: status.bytes,
            rejected: status.rejected,
            catch_up_seconds,
            lag_records_max: self.lag_max.load(Ordering::Relaxed),
            audited: load.verify,
        };
        Ok((landed, wrong))
    }
}

async fn look(
    client: Client,
    lake: String,
    mut probe: crate::record::Probe,
    produced: Arc<crate::record::Meter>,
    shared: Arc<Shared>,
    lag_max: Arc<AtomicU64>,
) -> Result<(), Failure> {
    let mut ticks = tokio::time::interval(LOOK);
    let (mut rows, mut bytes) = (0, 0);
    loop {
        ticks.tick().await;
        let status: LakeStatus = client.lake_status(&lake).await?;
        let at = shared.clock.now();
        probe.count(at, status.rows.saturating_sub(rows), status.bytes.saturating_sub(bytes));
        (rows, bytes) = (status.rows, status.bytes);
        lag_max.fetch_max(produced.live().0.saturating_sub(rows), Ordering::Relaxed);
        if let Some(newest_ms) = u64::try_from(status.newest_landed_ms).ok().filter(|newest| *newest > 0) {
            probe.age(at, newest_ms.saturating_mul(1_000_000));
        }
    }
}
