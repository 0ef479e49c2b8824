//! Sends the lines of stdin to a stream: `produce DATA_DIR STREAM < FILE`.
//!
//! Finds the server of this machine by the file it leaves in its data directory. A line that cannot be sent ends the
//! program; what was sent before is flushed.

use std::error::Error;
use std::io::BufRead;

use millstream_client::{Client, Codec, LocalServer, Record};

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let (Some(data_dir), Some(stream)) = (arguments.next(), arguments.next()) else {
        return Err("usage: produce DATA_DIR STREAM < FILE".into());
    };
    let server = LocalServer::read(data_dir)?;
    let client =
        Client::builder(server.address).fingerprint(server.fingerprint).name("produce-example").connect().await?;
    let producer = client.producer(stream).compression(Codec::Zstd).build().await?;
    for line in std::io::stdin().lock().lines() {
        // The outcome of each is looked at by `close`: the first failure is its error.
        drop(producer.enqueue(Record::new(line?)).await?);
    }
    let sent = producer.stats().records;
    producer.close().await?;
    println!("{sent} records are stored");
    client.close().await;
    Ok(())
}
