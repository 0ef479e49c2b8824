//! The last read: a fresh client reads every partition from the log start to the high watermark.

use std::collections::BTreeMap;
use std::time::Duration;

use millstream_check::history::{Place, Recorder, What};
use millstream_check::value::ValueId;
use millstream_client::{Client, Consumer, Error, LocalServer, Offset, PartitionInfo, Position, Record, Start};

use crate::failure::Failure;
use crate::load::consumer::{gap, records};

/// Reading a stream takes longer only if it hangs.
const DEADLINE: Duration = Duration::from_secs(300);

/// Where partitions end.
pub type Ends = BTreeMap<Place, u64>;

/// Reads it all, into the history; `seen` tells the value of a record.
pub async fn read_all(
    server: &LocalServer,
    streams: &[String],
    seen: fn(&Record) -> Option<ValueId>,
    mut recorder: Recorder,
) -> Result<(), Failure> {
    let client = Client::connect(&server.address, &server.fingerprint).await.map_err(failed)?;
    for (stream, name) in (0..).zip(streams) {
        let info = client.describe_stream(name).await.map_err(failed)?;
        let consumer = client.consumer(name).start(Start::Earliest).bounded().build().await.map_err(failed)?;
        match tokio::time::timeout(DEADLINE, read(consumer, stream, seen, &mut recorder)).await {
            Ok(done) => done?,
            Err(_) => return Err(Failure::run(format!("the last read of {name:?} did not end within {DEADLINE:?}"))),
        }
        for partition in info.partitions {
            let at = Place { stream, partition: partition.partition };
            recorder.record(What::FinalEnd { at, start: partition.log_start, end: partition.high_watermark });
        }
    }
    client.close().await;
    recorder.finish()?;
    Ok(())
}

async fn read(
    mut consumer: Consumer,
    stream: u32,
    seen: fn(&Record) -> Option<ValueId>,
    recorder: &mut Recorder,
) -> Result<(), Failure> {
    while let Some(item) = consumer.next_batch().await {
        let read = item.and_then(|batch| {
            let at = Place { stream, partition: batch.partition.0 };
            records(&batch, seen).map(|records| What::Final { at, records })
        });
        let what = read.or_else(|error| gap(stream, &error).ok_or_else(|| failed(error)))?;
        recorder.record(what);
    }
    Ok(())
}

fn failed(error: Error) -> Failure {
    Failure::run(format!("the last read failed: {error}"))
}

/// Where every partition ends now.
pub async fn ends(server: &LocalServer, streams: &[String]) -> Result<Ends, Failure> {
    let client = Client::connect(&server.address, &server.fingerprint).await.map_err(failed)?;
    let mut ends = Ends::new();
    for (stream, name) in (0..).zip(streams) {
        let info = client.describe_stream(name).await.map_err(failed)?;
        let end = |p: PartitionInfo| (Place { stream, partition: p.partition }, p.high_watermark);
        ends.extend(info.partitions.into_iter().map(end));
    }
    client.close().await;
    Ok(ends)
}

/// Whether a consumer of a stream is at those ends.
pub fn reached(ends: &Ends, stream: u32, positions: &[Position]) -> bool {
    positions.iter().all(|position| {
        let at = Place { stream, partition: position.partition.0 };
        ends.get(&at).is_none_or(|end| position.next >= Offset(*end))
    })
}
