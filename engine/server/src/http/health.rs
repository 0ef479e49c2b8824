//! `GET /health`: whether the server does its work, and what keeps it from it.
//!
//! | status | HTTP | meaning |
//! | --- | --- | --- |
//! | `ok` | 200 | everything is served |
//! | `degraded` | 200 | served, but for what `partitions` and `lakes` name: an operator should look |
//! | `stopping` | 503 | no new work |

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use millstream_broker::Broker;
use millstream_protocol::frame::control::PartitionState;
use serde::Serialize;

use crate::shared::{Shared, blocking};

/// The most partitions and lakes that are named; the counts are whole.
const NAMED_MAX: usize = 100;

#[derive(Serialize)]
struct Health {
    status: &'static str,
    version: &'static str,
    server_id: String,
    streams: usize,
    connections: u64,
    impaired_partitions: usize,
    partitions: Vec<Impaired>,
    lakes: Vec<FailingLake>,
}

#[derive(Serialize)]
struct Impaired {
    stream: String,
    partition: u32,
    state: &'static str,
}

#[derive(Serialize)]
struct FailingLake {
    lake: String,
    error: String,
}

pub(super) async fn get(State(shared): State<Arc<Shared>>) -> Response {
    let broker = Arc::clone(&shared.broker);
    let (streams, mut partitions) = match blocking(move || impaired(&broker)).await {
        Ok(found) => found,
        Err(refusal) => return (StatusCode::INTERNAL_SERVER_ERROR, refusal.text).into_response(),
    };
    let failing = shared.lakes.all().into_iter().filter(|lake| !lake.error.is_empty());
    let lakes: Vec<_> = failing.map(|lake| FailingLake { lake: lake.config.name, error: lake.error }).collect();
    let is_stopping = shared.stopping.is_cancelled();
    let status = match (is_stopping, partitions.is_empty() && lakes.is_empty()) {
        (true, _) => "stopping",
        (false, true) => "ok",
        (false, false) => "degraded",
    };
    let impaired_partitions = partitions.len();
    partitions.truncate(NAMED_MAX);
    let health = Health {
        status,
        version: env!("CARGO_PKG_VERSION"),
        server_id: format!("{:016x}", shared.broker.server_id()),
        streams,
        connections: shared.metrics.connections(),
        impaired_partitions,
        partitions,
        lakes: lakes.into_iter().take(NAMED_MAX).collect(),
    };
    let code = if is_stopping { StatusCode::SERVICE_UNAVAILABLE } else { StatusCode::OK };
    (code, Json(health)).into_response()
}

/// How many streams there are, and the partitions that cannot do everything.
fn impaired(broker: &Broker) -> (usize, Vec<Impaired>) {
    let streams = broker.streams();
    let mut impaired = Vec::new();
    for stream in &streams {
        for partition in stream.info().partitions {
            let state = match partition.state {
                PartitionState::Online => continue,
                PartitionState::ReadOnly => "read only",
                PartitionState::Offline => "offline",
            };
            impaired.push(Impaired { stream: stream.name.clone(), partition: partition.partition, state });
        }
    }
    (streams.len(), impaired)
}
