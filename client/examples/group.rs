//! Consumes streams as a member of a group: `group DATA_DIR GROUP STREAM...`. Start several, and kill some. Ends with Ctrl-C.

use std::error::Error;

use millstream_client::{Client, GroupEvent, LocalServer};

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let (Some(data_dir), Some(group)) = (arguments.next(), arguments.next()) else {
        return Err("usage: group DATA_DIR GROUP STREAM...".into());
    };
    let server = LocalServer::read(data_dir)?;
    let client =
        Client::builder(server.address).fingerprint(server.fingerprint).name("group-example").connect().await?;
    let mut consumer = client.group(group).streams(arguments).build().await?;
    while let Some(event) = consumer.next().await {
        match event {
            // It is processed when the next one is asked for, and committed some time after that.
            Ok(GroupEvent::Record(found)) => {
                let value = String::from_utf8_lossy(found.record.value.as_deref().unwrap_or_default()).into_owned();
                println!("{}/{} {} {value}", found.stream, found.partition, found.offset);
            }
            Ok(GroupEvent::Assigned(partitions)) => eprintln!("mine from now on: {partitions:?}"),
            // Nothing is in hand here, because each record is printed at once: the next call lets them go.
            Ok(GroupEvent::Revoking(partitions)) => eprintln!("going to others: {partitions:?}"),
            Ok(GroupEvent::Lost(partitions)) => eprintln!("lost: {partitions:?}"),
            Ok(_) => {}
            // Of one partition: said, not skipped in silence. The others go on.
            Err(error) if error.partition().is_some() => eprintln!("{error}"),
            Err(error) => return Err(error.into()),
        }
    }
    consumer.close().await?;
    Ok(())
}
