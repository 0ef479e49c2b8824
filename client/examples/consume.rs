//! Prints a stream's records as they come: `consume DATA_DIR STREAM`. Ends with Ctrl-C.

use std::error::Error;

use millstream_client::{Client, LocalServer, Start};

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let (Some(data_dir), Some(stream)) = (arguments.next(), arguments.next()) else {
        return Err("usage: consume DATA_DIR STREAM".into());
    };
    let server = LocalServer::read(data_dir)?;
    let client =
        Client::builder(server.address).fingerprint(server.fingerprint).name("consume-example").connect().await?;
    let mut consumer = client.consumer(stream).start(Start::Earliest).follow().build().await?;
    while let Some(item) = consumer.next().await {
        match item {
            Ok(found) => {
                let value = String::from_utf8_lossy(found.record.value.as_deref().unwrap_or_default()).into_owned();
                println!("{}/{} {value}", found.partition, found.offset);
            }
            // Records are missing: said, not skipped in silence. Delivery goes on behind them.
            Err(error) if error.gap().is_some() => eprintln!("{error}"),
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}
