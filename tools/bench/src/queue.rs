//! `queue`: jobs sent, pushed to competing consumers, and acknowledged one by one, durably; the backlog is bounded, so that
//! what is counted is jobs from end to end and not the faster of two halves.

use std::collections::VecDeque;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use clap::Args;
use hdrhistogram::Histogram;
use millstream_client::{
    ByteSize, Client, Code, Message, QueueConfig, QueueOrdering, QueueStart, Record, Settling, StreamConfig, Timestamp,
};
use serde::Serialize;
use tokio::sync::Semaphore;
use tokio::sync::mpsc::UnboundedReceiver;
use tokio::task::JoinSet;

use crate::Failure;
use crate::payload::Payload;
use crate::report::{Latency, histogram_us};
use crate::server::ServerProcess;
use crate::target::TargetFlags;

const STREAM: &str = "bench-queue";
const DEAD: &str = "bench-queue-dead";

#[derive(Debug, Args)]
pub struct Queue {
    /// How many consumers compete, each over a connection of its own; one figure each
    #[arg(long, value_name = "N,…", value_delimiter = ',', default_values_t = [1, 4, 16])]
    consumers: Vec<u32>,
    /// How many producers send, each over a connection of its own
    #[arg(long, value_name = "N", default_value_t = 2)]
    producers: u32,
    /// In FIFO order within so many groups; without, unordered
    #[arg(long, value_name = "N")]
    groups: Option<u64>,
    /// Queues on the stream, each with these consumers
    #[arg(long, value_name = "N", default_value_t = 1)]
    queues: u32,
    /// Partitions of the stream
    #[arg(long, value_name = "N", default_value_t = 4)]
    partitions: u32,
    /// Messages that a consumer may have unsettled
    #[arg(long, value_name = "N", default_value_t = 1_000)]
    window: u32,
    /// Jobs sent and not done, at most
    #[arg(long, value_name = "N", default_value_t = 50_000)]
    backlog: u32,
    /// The size of a record's value
    #[arg(long, value_name = "SIZE", default_value = "1024")]
    record_size: ByteSize,
    /// How long each figure takes, in seconds, after a second to warm up
    #[arg(long, value_name = "S", default_value_t = 10)]
    seconds: u64,
    /// The server's process on this machine: what it uses is measured, too
    #[arg(long, value_name = "PID")]
    server_pid: Option<u32>,
}

/// A run's result.
#[derive(Debug, Serialize)]
pub struct QueueReport {
    command: &'static str,
    ordering: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    groups: Option<u64>,
    queues: u32,
    producers: u32,
    partitions: u32,
    record_bytes: u64,
    figures: Vec<Figure>,
}

#[derive(Debug, Serialize)]
struct Figure {
    consumers: u32,
    /// Acknowledged, durably, over all queues.
    jobs_per_second: f64,
    /// Delivered more than once: none, unless a lease ended.
    redelivered: u64,
    /// From the record's making to its delivery.
    delivery: Latency,
    /// From an ack's saying to its answer.
    ack: Latency,
    #[serde(skip_serializing_if = "Option::is_none")]
    server_cpu_percent: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    server_rss_bytes: Option<u64>,
}

/// What the tasks of one figure share.
struct Run {
    started: Instant,
    stop: AtomicBool,
    counts: AtomicBool,
    acked: AtomicU64,
    redelivered: AtomicU64,
    /// Room in the backlog. A job of several queues is done when each has done it: each gives back its part.
    room: Semaphore,
    queues: u32,
}

impl Run {
    /// What records are stamped with: both ends are this process.
    fn since_start_us(&self) -> i64 {
        i64::try_from(self.started.elapsed().as_micros()).unwrap_or(i64::MAX)
    }
}

/// Runs it.
pub async fn run(client: &Client, target: &TargetFlags, command: &Queue) -> Result<QueueReport, Failure> {
    let server = command.server_pid.map(ServerProcess::new);
    let mut figures = Vec::new();
    for consumers in command.consumers.iter().copied().map(|count| count.max(1)) {
        make(client, command).await?;
        let figure = Box::pin(figure(target, command, consumers, server)).await;
        clean_up(client).await?;
        figures.push(figure?);
    }
    Ok(QueueReport {
        command: "queue",
        ordering: if command.groups.is_some() { "fifo" } else { "unordered" },
        groups: command.groups,
        queues: command.queues,
        producers: command.producers,
        partitions: command.partitions,
        record_bytes: command.record_size.bytes(),
        figures,
    })
}

fn queue_name(n: u32) -> String {
    format!("bench-queue-{n}")
}

async fn make(client: &Client, command: &Queue) -> Result<(), Failure> {
    clean_up(client).await?;
    client.create_stream(STREAM, command.partitions, StreamConfig::default()).await?;
    client.create_stream(DEAD, 1, StreamConfig::default()).await?;
    let ordering = match command.groups {
        None => QueueOrdering::Unordered,
        Some(_) => QueueOrdering::Fifo { group_batch: 1, on_dead: <_>::default() },
    };
    let config = QueueConfig { ordering, dead_letter: Some(DEAD.to_owned()), ..QueueConfig::default() };
    for n in 0..command.queues.max(1) {
        client.create_queue(&queue_name(n), STREAM, config.clone(), QueueStart::Earliest).await?;
    }
    Ok(())
}

async fn clean_up(client: &Client) -> Result<(), Failure> {
    for queue in client.list_queues().await?.into_iter().filter(|queue| queue.stream == STREAM) {
        client.delete_queue(&queue.name).await?;
    }
    for stream in [STREAM, DEAD] {
        match client.delete_stream(stream).await {
            Err(error) if error.code() != Code::UnknownStream => return Err(error.into()),
            _ => {}
        }
    }
    Ok(())
}

async fn figure(
    target: &TargetFlags,
    command: &Queue,
    consumers: u32,
    server: Option<ServerProcess>,
) -> Result<Figure, Failure> {
    let queues = command.queues.max(1);
    let run = Arc::new(Run {
        started: Instant::now(),
        stop: AtomicBool::new(false),
        counts: AtomicBool::new(false),
        acked: AtomicU64::new(0),
        redelivered: AtomicU64::new(0),
        room: Semaphore::new(command.backlog as usize * queues as usize),
        queues,
    });
    let mut receiving = JoinSet::new();
    for n in 0..queues {
        for _ in 0..consumers {
            let (client, run) = (target.connect().await?, Arc::clone(&run));
            let messages = client.queue(queue_name(n)).messages().window(command.window).open().await?;
            receiving.spawn(async move {
                let times = consume(messages, &run).await;
                client.close().await;
                times
            });
        }
    }
    let mut sending = JoinSet::new();
    for n in 0..command.producers.max(1) {
        let (client, run) = (target.connect().await?, Arc::clone(&run));
        let (size, groups) = (command.record_size.as_usize(), command.groups);
        sending.spawn(async move {
            let sent = produce(&client, &run, n, size, groups).await;
            client.close().await;
            sent
        });
    }
    tokio::time::sleep(Duration::from_secs(1)).await;
    run.counts.store(true, Ordering::Relaxed);
    let before = (run.acked.load(Ordering::Relaxed), server.map(ServerProcess::cpu).transpose()?, Instant::now());
    let time = Duration::from_secs(command.seconds);
    tokio::select! {
        () = tokio::time::sleep(time) => {}
        // Whoever ends before he is told has failed.
        Some(ended) = receiving.join_next() => { ended.expect("a consumer does not panic")?; }
        Some(ended) = sending.join_next() => ended.expect("a producer does not panic")?,
    }
    let elapsed = before.2.elapsed();
    let acked = run.acked.load(Ordering::Relaxed) - before.0;
    let server_cpu_percent = match (server, before.1) {
        (Some(server), Some(cpu)) => {
            Some(100.0 * server.cpu()?.saturating_sub(cpu).as_secs_f64() / elapsed.as_secs_f64())
        }
        _ => None,
    };
    let server_rss_bytes = server.map(ServerProcess::resident_bytes).transpose()?;
    run.counts.store(false, Ordering::Relaxed);
    run.stop.store(true, Ordering::Relaxed);
    run.room.close();
    while let Some(ended) = sending.join_next().await {
        ended.expect("a producer does not panic")?;
    }
    let (mut delivery, mut ack) = (histogram_us(), histogram_us());
    while let Some(ended) = receiving.join_next().await {
        let (of_delivery, of_ack) = ended.expect("a consumer does not panic")?;
        for (all, one) in [(&mut delivery, of_delivery), (&mut ack, of_ack)] {
            all.add(one).map_err(|error| Failure { exit: 50, text: format!("histograms do not add up: {error}") })?;
        }
    }
    Ok(Figure {
        consumers,
        jobs_per_second: acked as f64 / elapsed.as_secs_f64(),
        redelivered: run.redelivered.load(Ordering::Relaxed),
        delivery: Latency::from(&delivery),
        ack: Latency::from(&ack),
        server_cpu_percent,
        server_rss_bytes,
    })
}

async fn produce(client: &Client, run: &Run, number: u32, size: usize, groups: Option<u64>) -> Result<(), Failure> {
    let producer = client.producer(STREAM).build().await?;
    let mut payload = Payload::new(size);
    let mut key = u64::from(number);
    let mut unacked = VecDeque::new();
    while let Ok(room) = run.room.acquire_many(256 * run.queues).await {
        room.forget();
        for _ in 0..256 {
            let mut record = Record::new(payload.next());
            if let Some(groups) = groups {
                record = record.key((key % groups.max(1)).to_le_bytes().to_vec());
                key = key.wrapping_add(0x9E37_79B9_7F4A_7C15);
            }
            record.timestamp = Timestamp(run.since_start_us());
            unacked.push_back(producer.enqueue(record).await?);
        }
        while unacked.len() > 65_536
            && let Some(delivery) = unacked.pop_front()
        {
            delivery.await?;
        }
    }
    producer.close().await?;
    Ok(())
}

async fn consume(
    mut messages: millstream_client::Messages,
    run: &Arc<Run>,
) -> Result<(Histogram<u64>, Histogram<u64>), Failure> {
    let mut delivery_us = histogram_us();
    let (settling, settled) = tokio::sync::mpsc::unbounded_channel();
    // A task of its own: an answer that waits for the next message's turn would be counted late.
    let answering = tokio::spawn(answers(settled, Arc::clone(run)));
    let mut since_look = 0;
    while !run.stop.load(Ordering::Relaxed) && !answering.is_finished() {
        let next = tokio::time::timeout(Duration::from_millis(100), messages.next()).await;
        let Ok(next) = next else { continue };
        let message: Message = next.expect("a queue's messages end with an error")?;
        since_look += 1;
        if run.counts.load(Ordering::Relaxed) && since_look % 16 == 0 {
            let us = run.since_start_us() - message.record().timestamp.0;
            delivery_us.saturating_record(u64::try_from(us).unwrap_or(0));
        }
        if message.receive_count() > 1 {
            run.redelivered.fetch_add(1, Ordering::Relaxed);
        }
        // Each job is acknowledged by itself; the next one does not wait for its answer.
        let _ = settling.send((Instant::now(), message.ack()));
    }
    drop(settling);
    let ack_us = answering.await.expect("it does not panic")?;
    messages.close().await?;
    Ok((delivery_us, ack_us))
}

/// Waits for the answers to acks, and says how long they took.
async fn answers(
    mut settled: UnboundedReceiver<(Instant, Settling)>,
    run: Arc<Run>,
) -> Result<Histogram<u64>, Failure> {
    let mut ack_us = histogram_us();
    while let Some((since, answer)) = settled.recv().await {
        answer.await?;
        run.acked.fetch_add(1, Ordering::Relaxed);
        run.room.add_permits(1);
        if run.counts.load(Ordering::Relaxed) {
            ack_us.saturating_record(u64::try_from(since.elapsed().as_micros()).unwrap_or(u64::MAX));
        }
    }
    Ok(ack_us)
}

impl fmt::Display for QueueReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { ordering, queues, producers, partitions, record_bytes, .. } = self;
        let groups = self.groups.map_or(String::new(), |groups| format!(" over {groups} groups"));
        write!(
            f,
            "queue: {ordering}{groups}, {queues} queue(s) on {partitions} partitions, {producers} producers, {record_bytes} B, durable"
        )?;
        for figure in &self.figures {
            write!(
                f,
                "\n  {} consumers: {:.0} jobs/s  redelivered {}\n    delivery ms: {}\n    ack ms: {}",
                figure.consumers, figure.jobs_per_second, figure.redelivered, figure.delivery, figure.ack
            )?;
            if let (Some(cpu), Some(rss)) = (figure.server_cpu_percent, figure.server_rss_bytes) {
                write!(f, "\n    server: {cpu:.0} % of a core, {:.0} MB resident", rss as f64 / 1e6)?;
            }
        }
        Ok(())
    }
}
