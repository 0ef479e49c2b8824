//! A server and a client in this process: what a lake that catches up costs producers, and how fresh a lake is.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use futures::StreamExt;
use futures::stream::FuturesUnordered;
use hdrhistogram::Histogram;
use millstream_benches::pipe::runtime;
use millstream_client::{Client, Producer, Record, StreamConfig};
use millstream_log::{Clock, SystemClock};
use millstream_protocol::frame::control::LakeConfig;
use millstream_server::{Server, ServerConfig};
use tokio::runtime::Runtime;

use crate::Error;
use crate::flights::Flights;

const FLIGHT: &str = r#"{"id":0,"event_time":"2013-01-01T10:15:00Z","carrier":"UA","flight":1545,"tailnum":"N14228","origin":"EWR","dest":"IAH","sched_dep_time":515,"dep_time":517,"dep_delay":2,"sched_arr_time":819,"arr_time":830,"arr_delay":11,"air_time":227,"distance":1400}"#;
/// Lakes have at least so much to catch up with, together: more than they land while something is measured.
const BACKLOG_BYTES: u64 = 1 << 30;
const IN_FLIGHT_MAX: usize = 20_000;
const TICK: Duration = Duration::from_millis(10);
const FRESH_PER_SECOND: u64 = 1_000;
const ROLL: Duration = Duration::from_secs(10);
const LOOK: Duration = Duration::from_millis(100);

/// What producing came to.
pub struct Produced {
    pub rate: f64,
    pub p50_us: f64,
    pub p99_us: f64,
}

/// A running server, a client, and a stream.
pub struct Live {
    dir: PathBuf,
    client: Client,
    client_runtime: Runtime,
    server: Server,
    server_runtime: Runtime,
    lakes: AtomicU64,
}

impl Live {
    pub fn start(dir: &Path) -> Result<Live, Error> {
        let (server_runtime, client_runtime) = (runtime("server")?, runtime("client")?);
        let config = ServerConfig {
            data_dir: dir.join("data"),
            listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
            http: None,
            ..ServerConfig::default()
        };
        let server = server_runtime.block_on(Server::start(config))?;
        let address = server.address().to_string();
        let client = client_runtime.block_on(async {
            let client = Client::connect(&address, server.fingerprint()).await?;
            client.create_stream("live", 4, StreamConfig::default()).await?;
            Ok::<_, Error>(client)
        })?;
        Ok(Live { dir: dir.into(), client, client_runtime, server, server_runtime, lakes: AtomicU64::new(0) })
    }

    /// A stream with the flights.
    pub fn fill(&self, stream: &str, flights: &Flights) -> Result<(), Error> {
        self.client_runtime.block_on(async {
            self.client.create_stream(stream, 4, StreamConfig::default()).await?;
            let producer = self.client.producer(stream).build().await?;
            let mut lines = Vec::new();
            flights.each_line(|line| {
                lines.push(bytes::Bytes::copy_from_slice(line.trim_ascii_end()));
                Ok(())
            })?;
            for line in lines {
                drop(producer.enqueue(Record::new(line)).await?);
            }
            producer.close().await?;
            Ok(())
        })
    }

    /// Sends records for so long: so many a second, or as many as go.
    pub fn produce(&self, time: Duration, per_second: Option<u64>) -> Result<Produced, Error> {
        self.client_runtime.block_on(async {
            let producer = self.client.producer("live").linger(Duration::from_millis(5)).build().await?;
            let produced = send(&producer, time, per_second).await;
            producer.close().await?;
            produced
        })
    }

    /// Does something while a new lake reads the backlog from its beginning; several, where one would be done too soon. The
    /// server reads for as many at a time as for one. Says so if they have caught up before that is done.
    pub fn behind<T>(&self, flights: &Flights, work: impl FnOnce() -> Result<T, Error>) -> Result<T, Error> {
        let lakes = BACKLOG_BYTES.div_ceil(flights.bytes());
        let names: Vec<String> =
            (0..lakes).map(|_| format!("l{}", self.lakes.fetch_add(1, Ordering::Relaxed))).collect();
        let directory = tempfile::tempdir_in(&self.dir)?;
        self.client_runtime.block_on(async {
            for name in &names {
                let url = format!("file://{}", directory.path().join(name).display());
                self.client.create_lake(LakeConfig::new(name, "backlog", url)).await?;
            }
            // What a lake does once, at its beginning, is not what is measured.
            for name in &names {
                while self.client.lake_status(name).await?.partitions.iter().all(|part| part.read_end == 0) {
                    tokio::time::sleep(LOOK).await;
                }
            }
            Ok::<_, Error>(())
        })?;
        let done = work()?;
        let left = self.client_runtime.block_on(async {
            let mut left = 0;
            for name in &names {
                let status = self.client.lake_status(name).await?;
                left +=
                    status.partitions.iter().map(|part| part.high_watermark.saturating_sub(part.read_end)).sum::<u64>();
            }
            for name in &names {
                self.client.remove_lake(name).await?;
            }
            Ok::<u64, Error>(left)
        })?;
        if left == 0 {
            eprintln!("the lakes had caught up before the producer was done: a larger MILLSTREAM_BENCH_MIB shows more");
        }
        Ok(done)
    }

    pub fn stop(self) -> Result<(), Error> {
        let Self { client, client_runtime, server, server_runtime, .. } = self;
        client_runtime.block_on(client.close());
        Ok(server_runtime.block_on(server.stop())?)
    }
}

async fn send(producer: &Producer, time: Duration, per_second: Option<u64>) -> Result<Produced, Error> {
    let mut acks = FuturesUnordered::new();
    let mut times = Histogram::<u64>::new_with_bounds(1, 60_000_000, 3)?;
    let (start, mut sent) = (Instant::now(), 0_u64);
    let mut ticks = tokio::time::interval(TICK);
    while start.elapsed() < time {
        let due = match per_second {
            Some(rate) => {
                ticks.tick().await;
                (start.elapsed().as_secs_f64() * rate as f64) as u64
            }
            None => sent + 100,
        };
        while sent < due {
            let ack = producer.enqueue(Record::new(FLIGHT)).await?;
            let began = Instant::now();
            acks.push(async move { ack.await.map(|_| began.elapsed()) });
            sent += 1;
        }
        while let Some(Some(took)) = futures::FutureExt::now_or_never(acks.next()) {
            times.saturating_record(took?.as_micros() as u64);
        }
        while acks.len() > IN_FLIGHT_MAX {
            let Some(took) = acks.next().await else { break };
            times.saturating_record(took?.as_micros() as u64);
        }
    }
    while let Some(took) = acks.next().await {
        times.saturating_record(took?.as_micros() as u64);
    }
    let us = |quantile| times.value_at_quantile(quantile) as f64;
    Ok(Produced { rate: sent as f64 / start.elapsed().as_secs_f64(), p50_us: us(0.5), p99_us: us(0.99) })
}

/// How old the newest landed record is, looked at ten times a second.
pub fn freshness(dir: &Path) -> Result<String, Error> {
    let seconds: u64 = match std::env::var("MILLSTREAM_LAKE_SECONDS") {
        Ok(seconds) => seconds.parse()?,
        Err(_) => 30,
    };
    let live = Live::start(dir)?;
    let clock = SystemClock::default();
    let mut ages = Histogram::<u64>::new_with_bounds(1, 3_600_000, 3)?;
    let roll_ms = ROLL.as_millis() as u64;
    live.client_runtime.block_on(async {
        let url = format!("file://{}", dir.join("lake").display());
        let config = LakeConfig::new("fresh", "live", url);
        live.client.create_lake(LakeConfig { roll_age_ms: roll_ms, max_age_ms: roll_ms, ..config }).await?;
        let producer = live.client.producer("live").linger(Duration::from_millis(5)).build().await?;
        let watched = async {
            let mut looks = tokio::time::interval(LOOK);
            let mut first = None;
            loop {
                looks.tick().await;
                let newest = live.client.lake_status("fresh").await?.newest_landed_ms;
                if newest > 0 {
                    // Behind the first file, which begins at no particular time.
                    let since = *first.get_or_insert_with(Instant::now);
                    ages.saturating_record(clock.append_time().0.saturating_sub(newest).max(1).unsigned_abs());
                    if since.elapsed() >= Duration::from_secs(seconds) {
                        return Ok::<_, Error>(());
                    }
                }
            }
        };
        let time = Duration::from_secs(seconds) + 2 * ROLL;
        tokio::select! {
            watched = watched => watched,
            sent = send(&producer, time, Some(FRESH_PER_SECOND)) => sent.and(Err("nothing landed".into())),
        }
    })?;
    live.stop()?;
    let ms = |quantile| ages.value_at_quantile(quantile) as f64 / 1e3;
    Ok(format!(
        "freshness: at {FRESH_PER_SECOND} records/s and a roll of {} s the newest landed record is {:.1} s old (p50), {:.1} s \
         (p99), {:.1} s (max), in {} looks",
        ROLL.as_secs(),
        ms(0.5),
        ms(0.99),
        ages.max() as f64 / 1e3,
        ages.len()
    ))
}
