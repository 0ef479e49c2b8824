//! What a server keeps in memory for those who do nothing.

use millstream_benches::quic::{DATAGRAM_BYTES_MAX, Error};
use millstream_client::{Durability, Start};

use crate::Plan;
use crate::child::Limits;
use crate::outcome::Outcome;
use crate::product::Product;
use crate::scale::connect;

const CONNECTIONS: usize = 1_000;
const BOUND_KIB: f64 = 64.0;
const STREAM: &str = "idle";

/// Memory for each connection, and for each consumer on one of them; the larger counts.
pub fn memory(plan: &Plan<'_>) -> Result<Vec<Outcome>, Error> {
    let count = plan.amount(CONNECTIONS, 200).min(plan.open_files_max.saturating_sub(100) as usize);
    let (mut larger, mut of_connections, mut of_consumers) = (Vec::new(), Vec::new(), Vec::new());
    for round in 0..plan.rounds.min(3) {
        let dir = plan.dir.join(format!("idle-{round}"));
        let product = Product::start_with(&dir, DATAGRAM_BYTES_MAX, Limits::RAISED)?;
        product.create(STREAM, 1, Durability::Synced)?;
        let of_each = |before: u64, after: u64| after.saturating_sub(before) as f64 / 1_024.0 / count as f64;
        let before = product.server.memory()?;
        let clients = connect(&product, count)?;
        let connected = settled(&product)?;
        let consumers = product.runtime.block_on(async {
            let mut consumers = Vec::with_capacity(count);
            for client in &clients {
                consumers.push(client.consumer(STREAM).start(Start::Latest).follow().build().await?);
            }
            Ok::<_, Error>(consumers)
        })?;
        let consuming = settled(&product)?;
        drop(consumers);
        let (connection, consumer) = (of_each(before, connected), of_each(connected, consuming));
        of_connections.push(connection);
        of_consumers.push(consumer);
        larger.push(connection.max(consumer));
    }
    let median = |figures: Vec<f64>| millstream_benches::ratio::Spread::of(figures).median;
    let outcome = Outcome::bounded("idle-memory", DATAGRAM_BYTES_MAX, "KiB", larger, BOUND_KIB)
        .note("connections", count)
        .note("kib_per_connection", median(of_connections))
        .note("kib_per_consumer", median(of_consumers))
        .note("raised", Limits::RAISED.to_string());
    Ok(vec![outcome])
}

/// Memory once it no longer changes: handshakes and path probes are over.
#[expect(clippy::disallowed_methods, reason = "nothing tells when a process's memory has settled but looking again")]
fn settled(product: &Product) -> Result<u64, Error> {
    let mut last = product.server.memory()?;
    for _ in 0..50 {
        std::thread::sleep(std::time::Duration::from_millis(200));
        let now = product.server.memory()?;
        if now.abs_diff(last) < 64 << 10 {
            return Ok(now);
        }
        last = now;
    }
    Ok(last)
}
