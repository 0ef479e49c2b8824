//! The same lake over real partitions of the log, across a restart of both.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use millstream_lake::{LakeSettings, Sink, Source, reader};
use millstream_log::{Identity, Kind, Log, LogConfig, Partition, PartitionConfig};
use millstream_protocol::batch::{BatchBuilder, BatchView, Codec};
use millstream_protocol::frame::control::LakeConfig;
use millstream_protocol::{Epoch, Incarnation, LakeId, Offset, PartitionId, Record, StreamId};

const TIMEOUT: Duration = Duration::from_secs(60);

fn identity(partition: u32) -> Identity {
    let incarnation = Incarnation(100 + u64::from(partition));
    Identity { stream: StreamId(1), partition: PartitionId(partition), incarnation, kind: Kind::Records }
}

fn append(partition: &Arc<Partition>, from: u64, count: u64) {
    let mut builder = BatchBuilder::new(Codec::Zstd);
    for n in from..from + count {
        builder.push(&Record::new(format!(r#"{{"n":{n}}}"#))).expect("a legal record");
    }
    let batch = BatchView::parse(&builder.finish().expect("a batch")).expect("a batch");
    partition.append_wait(batch).expect("appended");
}

fn start(root: &Path, partitions: &[Arc<Partition>]) -> Sink {
    let url = format!("file://{}/lake", root.display());
    let config = LakeConfig { roll_age_ms: 3_600_000, ..LakeConfig::new("landing", "numbers", url) };
    let sources = partitions.iter().map(|partition| Arc::new(Arc::clone(partition)) as Arc<dyn Source>).collect();
    let settings = LakeSettings::new(root.join("spool"));
    Sink::start(LakeId(1), config, "numbers", sources, settings).expect("a legal lake")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_of_the_log_lands_across_a_restart() {
    let root = tempfile::tempdir().expect("a directory");
    let data = root.path().join("data");
    let log = Log::open(&data, LogConfig::default(), 1).expect("a log");
    let create = |partition| log.create_partition(identity(partition), PartitionConfig::default(), Epoch(1));
    let partitions: Vec<_> = (0..2).map(|partition| create(partition).expect("a partition")).collect();
    append(&partitions[0], 0, 100);
    let sink = start(root.path(), &partitions);
    sink.flush(TIMEOUT).await.expect("it lands");
    // What comes while it runs is heard.
    append(&partitions[1], 100, 50);
    sink.flush(TIMEOUT).await.expect("it lands");
    assert_eq!((sink.status().rows, sink.status().files), (150, 2));
    sink.stop().await;
    partitions.iter().for_each(|partition| partition.close());
    drop(partitions);
    log.close();
    drop(log);

    let log = Log::open(&data, LogConfig::default(), 1).expect("a log");
    let open = |partition| log.open_partition(identity(partition), PartitionConfig::default(), Epoch(2));
    let partitions: Vec<_> = (0..2).map(|partition| open(partition).expect("a partition")).collect();
    append(&partitions[0], 150, 10);
    let sink = start(root.path(), &partitions);
    assert_eq!((sink.status().rows, sink.status().files), (150, 2), "it knows what it did");
    sink.flush(TIMEOUT).await.expect("it lands");
    let mut landed: Vec<(u32, Offset, i64)> = Vec::new();
    for entry in std::fs::read_dir(root.path().join("lake")).expect("a directory") {
        let file = entry.expect("an entry").path();
        if file.extension().is_none_or(|extension| extension != "parquet") {
            continue;
        }
        for row in reader::read_rows(&file).expect("a Parquet file") {
            let row = row.expect("a row");
            landed.push((row.partition.0, row.offset, row.fields["n"].as_i64().expect("a number")));
        }
    }
    landed.sort();
    let first = (0..110).map(|at| (0, Offset(at), if at < 100 { at } else { at + 50 } as i64));
    let expected: Vec<_> = first.chain((0..50).map(|at| (1, Offset(at), at as i64 + 100))).collect();
    assert_eq!(landed, expected);
    sink.remove().await.expect("it is forgotten");
    assert_eq!(partitions[0].state_get("lake/1").expect("readable"), None);
}
