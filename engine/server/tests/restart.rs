//! Stop and start again over real QUIC: what was acknowledged is still there, and the epoch has risen.

mod support;

use millstream_protocol::frame::control::{Request, Response, StreamConfig};
use millstream_server::{ClientFile, Server};
use support::{Rig, batch, config, soon, text, until};

#[tokio::test(flavor = "multi_thread")]
async fn records_streams_and_identity_survive_a_restart_and_the_epoch_rises() {
    let rig = Rig::start().await;
    let fingerprint = rig.server.fingerprint().to_owned();
    let mut client = rig.connect().await;
    let server_id = client.welcome.server_id;
    let before = client.create("flights", 2, StreamConfig::default()).await;
    client.create("gone", 1, StreamConfig::default()).await;
    client.request(&Request::DeleteStream { name: "gone".into() }).await.expect("deleted");
    let mut producer = client.producer(8).await;
    producer.store(&before, 0, &batch(&["a", "b"])).await.expect("stored");
    producer.store(&before, 1, &batch(&["c"])).await.expect("stored");

    let rig = rig.restart().await;
    let mut client = rig.connect().await;
    assert_eq!(rig.server.fingerprint(), fingerprint);
    assert_eq!(client.welcome.server_id, server_id);
    let after = client.describe("flights").await;
    assert_eq!(after.id, before.id);
    for (before, after) in before.partitions.iter().zip(&after.partitions) {
        assert!(after.epoch > before.epoch);
        assert_eq!(after.incarnation, before.incarnation);
    }
    match client.request(&Request::ListStreams).await {
        Ok(Response::Streams(list)) => {
            assert_eq!(list.iter().map(|s| (&*s.name, s.records)).collect::<Vec<_>>(), [("flights", 3)])
        }
        other => panic!("{other:?}"),
    }
    client.producer(1).await.store(&after, 0, &batch(&["d"])).await.expect("stored");
    let records = client.read_all(&after).await;
    let values = |partition: usize| records[partition].iter().map(|(_, r)| text(r)).collect::<Vec<_>>();
    assert_eq!((values(0), values(1)), (vec!["a".into(), "b".into(), "d".into()], vec!["c".to_owned()]));
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn given_certificate_files_are_used_instead_of_a_self_signed_one() {
    let first = Rig::start().await;
    let files = first.dir.path().join("tls");
    let rig = Rig::start_with(|config| {
        config.tls_certificate = Some(files.join("certificate.pem"));
        config.tls_key = Some(files.join("key.pem"));
    })
    .await;
    assert_eq!(rig.server.fingerprint(), first.server.fingerprint());
    assert!(!rig.dir.path().join("tls/key.pem").exists(), "none is made where one is given");
    rig.stop().await;
    first.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_client_file_says_where_the_server_is_ready_and_goes_when_it_stops() {
    let rig = Rig::start().await;
    let file = ClientFile::read(rig.dir.path()).expect("readable").expect("there");
    assert_eq!((file.address, file.http), (rig.server.address(), rig.server.http_address()));
    assert_eq!(file.fingerprint, rig.server.fingerprint());
    let dir = rig.dir;
    soon(rig.server.stop()).await.expect("it stops");
    assert_eq!(ClientFile::read(dir.path()).expect("readable"), None);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_of_a_server_that_was_killed_is_told_by_the_next_one_at_once() {
    let rig = Rig::start().await;
    let address = rig.server.address();
    let client = rig.connect().await;
    let dir = rig.dir;
    // Dropped, not stopped: like a kill, nobody is told. Its tasks end soon after, and with them port and lock.
    drop(rig.server);
    let again = config(dir.path());
    let again = millstream_server::ServerConfig { listen: address, ..again };
    let server = until(async || Server::start(again.clone()).await.ok()).await;
    // The old connection's next packet is answered by a reset, long before its idle timeout of 30 s.
    if client.connection.close_reason().is_none() {
        // It may be cut at any moment from here on.
        let _ = client
            .connection
            .open_bi()
            .await
            .map(|(mut send, _)| tokio::spawn(async move { send.write_all(&[0; 64]).await }));
    }
    soon(client.connection.closed()).await;
    soon(server.stop()).await.expect("it stops");
}
