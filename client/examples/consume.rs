//! Prints what a stream holds, then what comes.
//! `cargo run -p millstream-client --example consume -- 127.0.0.1:4650 sha256:… rides`

use millstream_client::{Client, Result, Start};

#[tokio::main]
async fn main() -> Result<()> {
    let mut arguments = std::env::args().skip(1);
    let mut argument = |what: &str| arguments.next().unwrap_or_else(|| panic!("missing argument: {what}"));
    let (address, fingerprint, stream) = (argument("address"), argument("fingerprint"), argument("stream"));

    let client = Client::connect(&address, &fingerprint).await?;
    let mut consumer = client.consumer(&stream).start(Start::Earliest).follow().build().await?;
    while let Some(item) = consumer.next().await {
        match item {
            Ok(consumed) => {
                let value = consumed.record.value.unwrap_or_default();
                println!("{}@{}: {}", consumed.partition, consumed.offset, String::from_utf8_lossy(&value));
            }
            // Records that are missing are told of, and reading goes on.
            Err(error) => eprintln!("{error}"),
        }
    }
    Ok(())
}
