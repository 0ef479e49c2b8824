//! Beside what people would pick instead: durable Millstream against Redis Streams and NATS JetStream, both as they sync each
//! record and as they do not.
//!
//! The peers speak TCP without TLS through clients written for this, which favours them.

use bytes::Bytes;
use millstream_benches::memory;
use millstream_benches::peers::{Kind, Load, Peer, SyncPolicy};
use millstream_benches::quic::{DATAGRAM_BYTES_MAX, Error};
use millstream_benches::ratio::{Better, Row};
use millstream_client::Durability;
use tokio::runtime::Runtime;

use crate::Plan;
use crate::bulk;
use crate::outcome::Outcome;
use crate::product::Product;
use crate::queue::Jobs;

const PRODUCERS: usize = 4;
const QUEUE_PRODUCERS: usize = 2;
const QUEUE_CONSUMERS: usize = 4;
const RECORD_BYTES: usize = 1 << 10;
/// Of one producer of a peer.
const IN_FLIGHT: u64 = 256;

/// Measures both paths beside every peer there is, and says which are not.
pub fn beside(plan: &Plan<'_>, mut print: impl FnMut(Outcome)) -> Result<(), Error> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let product = Product::start(&plan.dir.join("peers"), DATAGRAM_BYTES_MAX)?;
    for kind in Kind::ALL {
        for sync in [SyncPolicy::Always, SyncPolicy::Periodic] {
            match runtime.block_on(Peer::start(kind, sync, plan.dir)) {
                Ok(peer) => {
                    let aim = (sync == SyncPolicy::Periodic).then_some(1.0);
                    print(produce(plan, &product, &runtime, &peer, aim)?);
                    print(queue(plan, &product, &runtime, &peer, aim)?);
                }
                Err(absent) if absent.is_absence() => eprintln!("SKIPPED: {absent}"),
                Err(error) => return Err(error.into()),
            }
        }
    }
    Ok(())
}

fn load(records: u64, producers: usize) -> Load {
    Load { records, record_bytes: RECORD_BYTES, producers, in_flight: IN_FLIGHT }
}

fn produce(
    plan: &Plan<'_>,
    product: &Product,
    runtime: &Runtime,
    peer: &Peer,
    aim: Option<f64>,
) -> Result<Outcome, Error> {
    let records: u64 = plan.amount(200_000, 40_000);
    let value = Bytes::from(memory::noise(RECORD_BYTES));
    let rate = |seconds: f64| records as f64 * RECORD_BYTES as f64 / 1e6 / seconds;
    let mut row = Row::new("produce, by peer", "MB/s", Better::Higher, aim);
    for _ in 0..plan.rounds {
        row.round(
            || Ok::<_, Error>(rate(runtime.block_on(peer.produce(&load(records, PRODUCERS)))?.as_secs_f64())),
            || Ok(rate(bulk::stored(product, Durability::Synced, &value, records)?.0.as_secs_f64())),
        )?;
    }
    Ok(Outcome::new("peer-produce", DATAGRAM_BYTES_MAX, &row).note("peer", peer.describe()))
}

fn queue(
    plan: &Plan<'_>,
    product: &Product,
    runtime: &Runtime,
    peer: &Peer,
    aim: Option<f64>,
) -> Result<Outcome, Error> {
    let jobs: u64 = plan.amount(200_000, 40_000);
    let ours = Jobs::new(product, jobs, RECORD_BYTES)?;
    let rate = |seconds: f64| jobs as f64 / seconds;
    let mut row = Row::new("queue, by peer", "jobs/s", Better::Higher, aim);
    for _ in 0..plan.rounds {
        row.round(
            || {
                let took = runtime.block_on(peer.queue(&load(jobs, QUEUE_PRODUCERS), QUEUE_CONSUMERS))?;
                Ok::<_, Error>(rate(took.as_secs_f64()))
            },
            || Ok(rate(ours.queue()?.as_secs_f64())),
        )?;
    }
    Ok(Outcome::new("peer-queue", DATAGRAM_BYTES_MAX, &row).note("peer", peer.describe()))
}
