//! NATS JetStream: a stream on files to produce into; with one durable pull consumer, which consumers share, it is a queue.
//!
//! A producer publishes with the inbox of its connection as the reply subject, and counts what comes there. A consumer has two
//! pulls of 100 open, so that the server never waits for it, and answers each job with `+ACK`, which the server does not
//! answer: a run ends when the consumer's state says that all are delivered, once, and none is unacknowledged. Jobs stay in
//! the stream: work-queue retention, which deletes each with its ack, made the same queue slower by a third.

mod connection;
mod text;

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Buf;
use serde_json::{Value, json};

use connection::{Connection, refusal};
use text::{Said, put_message, said};

use super::process::{Directory, Process, Program};
use super::run::{self, Producers, Progress};
use super::wire::Wire;
use super::{Error, Load, RUN_MAX, SyncPolicy, payload};

pub(super) const SERVER: Program = Program { name: "nats-server", before_version: ": v", ready: "Server is ready" };

const CONSUMER: &str = "workers";
/// Jobs that a consumer asks for at a time.
const BATCH: u64 = 100;
/// The server's default of 1,000 would hold back 16 consumers with two batches each.
const UNACKED_MAX: u64 = 20_000;
const MESSAGE_BYTES_MAX: u64 = 8 << 20;

/// What is set, in words.
pub(super) fn settings(sync: SyncPolicy) -> String {
    let when = match sync {
        SyncPolicy::Always => "sync_interval always",
        SyncPolicy::Periodic => "sync_interval as shipped",
    };
    format!(
        "file storage, 1 replica, {when}; limits retention; queues: one durable pull consumer, batches of {BATCH}, explicit acks"
    )
}

pub(super) async fn start(sync: SyncPolicy, directory: Directory, version: &str) -> Result<Process, Error> {
    let configuration = |address: SocketAddr, path: &Path| {
        let sync_interval = match sync {
            SyncPolicy::Always => "sync_interval: always",
            SyncPolicy::Periodic => "",
        };
        let store = path.join("store");
        let text = format!(
            "listen: \"{address}\"\nmax_payload: {MESSAGE_BYTES_MAX}\njetstream {{ store_dir: {store:?}\n{sync_interval} }}\n"
        );
        let file = path.join("server.conf");
        std::fs::write(&file, text)?;
        Ok(["--config".to_owned(), file.to_string_lossy().into_owned()].to_vec())
    };
    if sync == SyncPolicy::Always {
        let mut arguments = configuration(SocketAddr::from(([127, 0, 0, 1], 4_222)), directory.path())?;
        arguments.push("-t".to_owned());
        let (is_valid, text) = SERVER.run(&arguments)?;
        if !is_valid && text.contains("sync_interval") {
            let text = format!("nats-server {version} has no sync_interval: it cannot sync before each ack");
            return Err(Error::Unsupported(text));
        }
    }
    Process::start(&SERVER, directory, configuration).await
}

pub(super) async fn produce(address: SocketAddr, stream: &str, load: &Load) -> Result<Duration, Error> {
    let mut control = Connection::open(address).await?;
    create_stream(&mut control, stream).await?;
    let took = run::produce(producers(address, stream, load).await?).await?;
    delete_stream(&mut control, stream).await?;
    Ok(took)
}

pub(super) async fn round_trips(
    address: SocketAddr,
    stream: &str,
    count: u64,
    record_bytes: usize,
) -> Result<Vec<Duration>, Error> {
    let mut control = Connection::open(address).await?;
    create_stream(&mut control, stream).await?;
    let producer = Connection::open(address).await?;
    let request = publication(&producer, stream, record_bytes);
    let times = run::round_trips(producer.wire, &request, count, answers).await?;
    delete_stream(&mut control, stream).await?;
    Ok(times)
}

pub(super) async fn queue(address: SocketAddr, stream: &str, load: &Load, consumers: usize) -> Result<Duration, Error> {
    let mut control = Connection::open(address).await?;
    create_stream(&mut control, stream).await?;
    create_consumer(&mut control, stream).await?;
    let mut connected = Vec::with_capacity(consumers);
    for _ in 0..consumers {
        connected.push(Connection::open(address).await?);
    }
    let start = run::queue(producers(address, stream, load).await?, |progress| {
        connected.into_iter().map(|connection| consume(connection, stream.to_owned(), progress.clone())).collect()
    })
    .await?;
    // All acks are sent. The server works them off, and answers this question meanwhile.
    let info = format!("$JS.API.CONSUMER.INFO.{stream}.{CONSUMER}");
    loop {
        let state = control.request(&info, &Value::Null).await?;
        let figure = |value: &Value| value.as_u64().ok_or_else(|| Error::Malformed(format!("no figure in {state}")));
        let delivered = figure(&state["delivered"]["consumer_seq"])?;
        if delivered != load.records || figure(&state["num_redelivered"])? != 0 {
            return Err(Error::Unaccounted(format!("{delivered} deliveries of {} jobs", load.records)));
        }
        if figure(&state["num_ack_pending"])? == 0 && figure(&state["num_pending"])? == 0 {
            break;
        }
    }
    let took = start.elapsed();
    delete_stream(&mut control, stream).await?;
    Ok(took)
}

async fn producers(address: SocketAddr, stream: &str, load: &Load) -> Result<Producers, Error> {
    let mut wires = Vec::with_capacity(load.producers);
    for _ in 0..load.producers.max(1) {
        let connection = Connection::open(address).await?;
        let request: Arc<[u8]> = publication(&connection, stream, load.record_bytes).into();
        wires.push((connection.wire, request));
    }
    Ok(Producers { wires, answers, load: *load })
}

/// The request that adds a record: its answer comes to the connection's inbox.
fn publication(connection: &Connection, stream: &str, record_bytes: usize) -> Vec<u8> {
    let mut request = Vec::with_capacity(record_bytes + 64);
    let subject = subject(stream);
    put_message(&mut request, subject.as_bytes(), connection.inbox.as_bytes(), &payload(record_bytes));
    request
}

fn subject(stream: &str) -> String {
    format!("records.{stream}")
}

async fn create_stream(control: &mut Connection, stream: &str) -> Result<(), Error> {
    let config = json!({
        "name": stream, "subjects": [subject(stream)], "retention": "limits", "storage": "file", "num_replicas": 1,
        "max_consumers": -1, "max_msgs": -1, "max_bytes": -1, "max_age": 0, "max_msg_size": -1, "discard": "old",
    });
    control.request(&format!("$JS.API.STREAM.CREATE.{stream}"), &config).await.map(drop)
}

async fn create_consumer(control: &mut Connection, stream: &str) -> Result<(), Error> {
    // Longer than a run: a job that comes twice is an error here, not a slow consumer.
    let ack_wait = 2 * RUN_MAX.as_nanos() as u64;
    let config = json!({
        "durable_name": CONSUMER, "deliver_policy": "all", "ack_policy": "explicit", "ack_wait": ack_wait,
        "max_ack_pending": UNACKED_MAX, "replay_policy": "instant",
    });
    let request = json!({ "stream_name": stream, "config": config });
    control.request(&format!("$JS.API.CONSUMER.DURABLE.CREATE.{stream}.{CONSUMER}"), &request).await.map(drop)
}

async fn delete_stream(control: &mut Connection, stream: &str) -> Result<(), Error> {
    control.request(&format!("$JS.API.STREAM.DELETE.{stream}"), &Value::Null).await.map(drop)
}

/// Each record is answered by JSON that begins with the stream, or with an error.
fn answers(wire: &mut Wire) -> Result<u64, Error> {
    let (mut count, mut taken) = (0, 0);
    while let Some((found, length)) = said(&wire.input[taken..])? {
        match found {
            Said::Message(message) if message.payload.starts_with(b"{\"stream\"") => count += 1,
            Said::Message(message) => return Err(refusal(message.headers, message.payload)),
            Said::Ping => wire.output.extend_from_slice(b"PONG\r\n"),
            Said::Pong | Said::Else => {}
        }
        taken += length;
    }
    wire.input.advance(taken);
    Ok(count)
}

/// Takes jobs and acknowledges them, for ever.
async fn consume(connection: Connection, stream: String, progress: Progress) -> Result<(), Error> {
    let mut pull = Vec::new();
    // It must not end before the run does: then the server would have to be asked again.
    let terms = json!({ "batch": BATCH, "expires": 2 * RUN_MAX.as_nanos() as u64 }).to_string();
    let subject = format!("$JS.API.CONSUMER.MSG.NEXT.{stream}.{CONSUMER}");
    put_message(&mut pull, subject.as_bytes(), connection.inbox.as_bytes(), terms.as_bytes());
    let mut wire = connection.wire;
    let mut wanted = 0;
    loop {
        while wanted <= BATCH {
            wire.output.extend_from_slice(&pull);
            wanted += BATCH;
        }
        wire.read().await?;
        let (mut acks, mut taken) = (0, 0);
        while let Some((found, length)) = said(&wire.input[taken..])? {
            match found {
                Said::Message(message) if message.reply.starts_with(b"$JS.ACK.") => {
                    put_message(&mut wire.output, message.reply, b"", b"+ACK");
                    acks += 1;
                }
                Said::Message(message) => return Err(refusal(message.headers, message.payload)),
                Said::Ping => wire.output.extend_from_slice(b"PONG\r\n"),
                Said::Pong | Said::Else => {}
            }
            taken += length;
        }
        wire.input.advance(taken);
        wire.flush().await?;
        wanted -= acks;
        if acks > 0 {
            // Whoever counts may have gone: then this is dropped at once.
            let _ = progress.send(acks);
        }
    }
}
