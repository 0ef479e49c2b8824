//! `/health` and `/metrics` over real HTTP.

mod support;

use millstream_protocol::frame::control::StreamConfig;
use support::{Rig, batch, get, until};

#[tokio::test(flavor = "multi_thread")]
async fn health_is_ok_and_names_what_there_is() {
    let rig = Rig::start().await;
    let mut client = rig.connect().await;
    client.create("flights", 2, StreamConfig::default()).await;
    let (status, body) = get(&rig.server, "/health").await;
    let health: serde_json::Value = serde_json::from_str(&body).expect("JSON");
    assert_eq!((status, &health["status"]), (200, &"ok".into()));
    assert_eq!((&health["streams"], &health["connections"]), (&1.into(), &1.into()));
    assert_eq!(health["server_id"], format!("{:016x}", client.welcome.server_id));
    assert_eq!(get(&rig.server, "/nothing").await.0, 404);
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn metrics_count_what_was_stored_refused_and_read() {
    let rig = Rig::start().await;
    let mut client = rig.connect().await;
    let stream = client.create("flights", 1, StreamConfig::default()).await;
    let mut producer = client.producer(4).await;
    producer.store(&stream, 0, &batch(&["a", "b"])).await.expect("stored");
    producer.store(&stream, 0, b"no batch").await.expect_err("refused");
    assert_eq!(client.read_all(&stream).await[0].len(), 2);
    // An ack may overtake its counting by a moment.
    let lines = [
        "millstream_produce_batches_total 1",
        "millstream_produce_records_total 2",
        "millstream_produce_refused_batches_total 1",
        "millstream_consume_records_total 2",
        "millstream_errors_total{code=\"105\",name=\"corrupt batch\"} 1",
        "millstream_append_seconds_count 1",
        "millstream_connections 1",
        "millstream_in_hand_bytes{share=\"incoming\"} 0",
        "millstream_panics_total 0",
    ];
    for line in lines {
        until(async || {
            let (status, metrics) = get(&rig.server, "/metrics").await;
            (status == 200 && metrics.lines().any(|found| found == line)).then_some(())
        })
        .await;
    }
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn http_can_be_off() {
    let rig = Rig::start_with(|config| config.http = None).await;
    assert_eq!(rig.server.http_address(), None);
    rig.connect().await;
    rig.stop().await;
}
