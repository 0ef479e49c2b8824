//! Completed rides, and the five who must hear of each: `ride_completion DATA_DIR RIDES.ndjson LAKE_DIR`.
//!
//! ```text
//! rides ─┬─► notification    every ride
//!        ├─► accounting      every ride; one is poison until the bug is fixed
//!        ├─► loyalty         rides of three carriers
//!        ├─► extraordinary   rides of 2,000 miles and more
//!        └─► lake            every ride, as Parquet
//! ```
//! One stored copy, a queue for each subscriber. What each got is held against the same choice made directly from the file. The
//! poison ride is delivered three times, lies among the dead letters then, and comes back to accounting alone after the fix.
//! Any file of JSON lines with `id`, `carrier` and `distance` will do, for example `tools/millstream/data/flights-sample.ndjson`.

use std::error::Error;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use millstream_client::{
    Client, Code, Delivery, LakeConfig, LocalServer, Message, Offset, QueueBackoff, QueueConfig, QueueInfo, QueueStart,
    Record, RedriveOptions, Start, StreamConfig,
};
use serde_json::Value;
use tokio::sync::watch;

type Result<T> = std::result::Result<T, Box<dyn Error + Send + Sync>>;

const RIDES: &str = "rides";
const DEAD: &str = "rides-dead";
const LAKE: &str = "rides-lake";
const POISON: u64 = 42;
const RECEIVES: u16 = 3;

/// A subscriber: its queue's name and filter, and the same in Rust.
type Subscriber = (&'static str, &'static str, fn(&Value) -> bool);

const SUBSCRIBERS: [Subscriber; 4] = [
    ("notification", "", |_| true),
    ("accounting", "", |_| true),
    ("loyalty", r#"value.carrier in ["UA", "DL", "AA"]"#, |ride| {
        ride["carrier"].as_str().is_some_and(|carrier| ["UA", "DL", "AA"].contains(&carrier))
    }),
    ("extraordinary", "value.distance >= 2000.0", |ride| {
        ride["distance"].as_f64().is_some_and(|distance| distance >= 2000.0)
    }),
];

#[tokio::main]
async fn main() -> Result<()> {
    let mut arguments = std::env::args().skip(1);
    let (Some(data_dir), Some(rides), Some(lake)) = (arguments.next(), arguments.next(), arguments.next()) else {
        return Err("usage: ride_completion DATA_DIR RIDES.ndjson LAKE_DIR".into());
    };
    let server = LocalServer::read(data_dir)?;
    let client =
        Client::builder(server.address).fingerprint(server.fingerprint).name("ride-completion").connect().await?;
    make(&client, Path::new(&lake)).await?;

    // The subscribers are at work before the first ride is over.
    let (stop, stopped) = watch::channel(false);
    let is_fixed = Arc::new(AtomicBool::new(false));
    let mut workers = Vec::new();
    for (name, ..) in SUBSCRIBERS {
        workers.push((name, work(&client, name, is_fixed.clone(), stopped.clone())));
    }

    let text = std::fs::read_to_string(rides)?;
    let rides: Vec<Value> = text.lines().map(serde_json::from_str).collect::<std::result::Result<_, _>>()?;
    publish(&client, &text, &rides).await?;
    let published = rides.len() as u64;
    println!("{published} rides published");

    for (name, ..) in SUBSCRIBERS {
        settled(&client, name, |info| info.total.acked + info.total.dead + info.total.filtered == published).await?;
    }
    let before = client.describe_queue("notification").await?.total.acked;
    dead_letter(&client).await?;
    is_fixed.store(true, Relaxed);
    client.redrive_queue("accounting", RedriveOptions::default()).await?;
    settled(&client, "accounting", |info| info.total.acked == published).await?;
    println!("fixed and redriven: accounting has every ride");
    let after = client.describe_queue("notification").await?.total.acked;
    check("notification heard nothing of the redrive", after, before)?;

    stop.send(true)?;
    for ((name, worker), (_, _, chooses)) in workers.into_iter().zip(SUBSCRIBERS) {
        let expected = rides.iter().filter(|ride| chooses(ride)).count() as u64;
        check(name, worker.await??, expected)?;
    }
    let landed = client.flush_lake(LAKE, Duration::from_secs(60)).await?;
    check("lake", landed.rows, published)
}

/// The stream, its queues and its lake, anew.
async fn make(client: &Client, lake: &Path) -> Result<()> {
    for (name, ..) in SUBSCRIBERS {
        gone(client.delete_queue(name).await)?;
    }
    gone(client.remove_lake(LAKE).await)?;
    for stream in [RIDES, DEAD] {
        gone(client.delete_stream(stream).await)?;
        client.create_stream(stream, if stream == RIDES { 4 } else { 1 }, StreamConfig::default()).await?;
    }
    for (name, filter, _) in SUBSCRIBERS {
        let config = QueueConfig {
            filter: filter.into(),
            max_receives: Some(RECEIVES),
            dead_letter: Some(DEAD.into()),
            backoff: QueueBackoff { min_ms: 50, ..QueueBackoff::default() },
            ..QueueConfig::default()
        };
        client.create_queue(name, RIDES, config, QueueStart::Earliest).await?;
    }
    std::fs::create_dir_all(lake)?;
    let url = format!("file://{}", lake.canonicalize()?.display());
    client.create_lake(LakeConfig::new(LAKE, RIDES, url)).await?;
    Ok(())
}

/// What is not there need not be deleted.
fn gone(deleted: millstream_client::Result<()>) -> Result<()> {
    match deleted {
        Err(error) if matches!(error.code(), Code::UnknownQueue | Code::UnknownLake | Code::UnknownStream) => Ok(()),
        other => Ok(other?),
    }
}

/// A subscriber at work; answers how many rides it has handled.
fn work(
    client: &Client,
    name: &'static str,
    is_fixed: Arc<AtomicBool>,
    mut stopped: watch::Receiver<bool>,
) -> tokio::task::JoinHandle<Result<u64>> {
    let worker = client.queue(name).worker(8).window(500).extend_while_running();
    let handled = Arc::new(AtomicU64::new(0));
    tokio::spawn(async move {
        let counted = handled.clone();
        let handler = move |message: Message| {
            let (handled, is_fixed) = (counted.clone(), is_fixed.clone());
            async move {
                let ride: Value = serde_json::from_slice(message.record().value.as_deref().unwrap_or_default())?;
                if name == "accounting" && ride["id"] == POISON && !is_fixed.load(Relaxed) {
                    return Err("no fare for this ride".into());
                }
                handled.fetch_add(1, Relaxed);
                Ok::<(), Box<dyn Error + Send + Sync>>(())
            }
        };
        worker.run_until(handler, async move { drop(stopped.wait_for(|stop| *stop).await) }).await?;
        Ok(handled.load(Relaxed))
    })
}

async fn publish(client: &Client, text: &str, rides: &[Value]) -> Result<()> {
    let producer = client.producer(RIDES).build().await?;
    let mut deliveries: Vec<Delivery> = Vec::with_capacity(rides.len());
    for (line, ride) in text.lines().zip(rides) {
        let key = ride["tailnum"].as_str().unwrap_or("unknown").to_owned();
        deliveries.push(producer.enqueue(Record::new(line.to_owned()).key(key)).await?);
    }
    for delivery in deliveries {
        delivery.await?;
    }
    Ok(producer.close().await?)
}

async fn settled(client: &Client, queue: &str, is_done: impl Fn(&QueueInfo) -> bool) -> Result<()> {
    let waiting = async {
        loop {
            let info = client.describe_queue(queue).await?;
            if is_done(&info) {
                return Ok(());
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(300), waiting).await.map_err(|_| format!("{queue} is not done"))?
}

/// The poison ride lies there, and says why.
async fn dead_letter(client: &Client) -> Result<()> {
    let info = client.describe_queue("accounting").await?;
    check("dead in accounting", info.total.dead, 1)?;
    let mut letters = client.consumer(DEAD).start(Start::Offset(Offset(0))).bounded().build().await?;
    let letter = letters.next().await.ok_or("no dead letter")??;
    let said = |name: &str| {
        let header = letter.record.headers.iter().find(|header| header.name == name);
        header.and_then(|header| header.value.as_deref()).map(|value| String::from_utf8_lossy(value).into_owned())
    };
    println!(
        "dead letter: ride {POISON} of {:?} after {:?} deliveries: {:?}, {:?}",
        said("ms-dl-queue").unwrap_or_default(),
        said("ms-dl-receives").unwrap_or_default(),
        said("ms-dl-reason").unwrap_or_default(),
        said("ms-dl-error").unwrap_or_default()
    );
    check("deliveries", said("ms-dl-receives").and_then(|n| n.parse().ok()).unwrap_or(0), RECEIVES.into())
}

fn check(what: &str, found: u64, expected: u64) -> Result<()> {
    println!("{what}: {found}, expected {expected}");
    if found == expected { Ok(()) } else { Err(format!("{what}: {found}, expected {expected}").into()) }
}
