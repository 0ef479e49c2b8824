//! Sends a hundred records and prints where they were stored.
//! `cargo run -p millstream-client --example produce -- 127.0.0.1:4650 sha256:… rides`

use millstream_client::{Client, Record, Result, StreamConfig};

#[tokio::main]
async fn main() -> Result<()> {
    let mut arguments = std::env::args().skip(1);
    let mut argument = |what: &str| arguments.next().unwrap_or_else(|| panic!("missing argument: {what}"));
    let (address, fingerprint, stream) = (argument("address"), argument("fingerprint"), argument("stream"));

    let client = Client::connect(&address, &fingerprint).await?;
    client.create_stream_automatically(&stream, 4, StreamConfig::default()).await?;
    let producer = client.producer(&stream).build().await?;
    // Enqueue first, wait later: the records share batches.
    let mut deliveries = Vec::new();
    for n in 0..100 {
        let record = Record::new(format!("{{\"ride\":{n}}}")).key(format!("car-{}", n % 7));
        deliveries.push(producer.enqueue(record).await?);
    }
    for delivery in deliveries {
        let receipt = delivery.await?;
        println!("partition {} offset {}", receipt.partition, receipt.offset);
    }
    producer.close().await?;
    client.close().await;
    Ok(())
}
