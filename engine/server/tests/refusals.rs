//! What the server refuses over real QUIC, and that it says why: bad requests on the control stream, and peers that do
//! not keep to the protocol.

mod support;

use std::time::Duration;

use millstream_protocol::Code;
use millstream_protocol::frame::control::{
    CreateMode, LakeCompression, LakeConfig, LakeFormat, Message, Request, StreamConfig,
};
use millstream_protocol::frame::hello::Hello;
use millstream_protocol::frame::produce::OpenProduce;
use millstream_protocol::frame::{FRAME_HEADER_BYTES, Kind, Refusal};
use millstream_server::{ServeError, Server, ServerConfig};
use quinn::ConnectionError;
use support::{Client, Frames, Rig, close_code, config, dial, dial_with_alpn, hello, soon};

fn create(name: &str, partitions: u32) -> Request {
    let mode = CreateMode::Explicit;
    Request::CreateStream { name: name.into(), partitions, config: StreamConfig::default(), mode }
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_requests_are_refused_each_with_its_code_and_the_connection_goes_on() {
    let rig = Rig::start_with(|config| config.auto_create_streams = false).await;
    let mut client = rig.connect().await;
    let name = |name: &str| name.to_owned();
    for bad in ["../x", "", &"a".repeat(300), "A", "_internal"] {
        assert_eq!(client.refused(&create(bad, 1)).await, Code::IllegalName, "{bad:?}");
        assert_eq!(client.refused(&Request::DescribeStream { name: name(bad) }).await, Code::IllegalName, "{bad:?}");
    }
    assert_eq!(client.refused(&create("flights", 0)).await, Code::IllegalSetting);
    assert_eq!(client.refused(&create("flights", 1_000_000)).await, Code::IllegalSetting);
    client.create("flights", 1, StreamConfig::default()).await;
    assert_eq!(client.refused(&create("flights", 1)).await, Code::StreamExists);
    assert_eq!(client.refused(&Request::DescribeStream { name: name("trains") }).await, Code::UnknownStream);
    assert_eq!(client.refused(&Request::DeleteStream { name: name("trains") }).await, Code::UnknownStream);
    let automatic = Request::CreateStream {
        name: name("trains"),
        partitions: 1,
        config: StreamConfig::default(),
        mode: CreateMode::Automatic,
    };
    assert_eq!(client.refused(&automatic).await, Code::UnknownStream, "the setting forbids it");
    let delete = |partition, offset| Request::DeleteBefore { stream: name("flights"), partition, offset };
    assert_eq!(client.refused(&delete(3, 0)).await, Code::UnknownPartition);
    assert_eq!(client.refused(&delete(0, 5)).await, Code::OffsetOutOfRange);
    assert_eq!(client.refused(&Request::LakeStatus { name: name("none") }).await, Code::UnknownLake);
    assert_eq!(client.refused(&Request::RemoveLake { name: name("none") }).await, Code::UnknownLake);
    assert_eq!(client.refused(&Request::FlushLake { name: name("none"), timeout_ms: 1 }).await, Code::UnknownLake);
    let lake = || LakeConfig::new("lake", "trains", "file:///nowhere");
    assert_eq!(client.refused(&Request::CreateLake { config: lake() }).await, Code::UnknownStream);
    assert_eq!(client.refused(&Request::PreviewLake { config: lake(), records: 10 }).await, Code::UnknownStream);
    let flights = || LakeConfig { stream: name("flights"), ..lake() };
    for records in [0, 10_001] {
        let preview = Request::PreviewLake { config: flights(), records };
        assert_eq!(client.refused(&preview).await, Code::IllegalSetting);
    }
    let snappy = LakeCompression::Snappy;
    let config = LakeConfig { format: LakeFormat::Ndjson, compression: snappy, ..flights() };
    assert_eq!(client.refused(&Request::CreateLake { config }).await, Code::IllegalSetting);
    let alter = Request::AlterLake { name: name("none"), schema: name("{}") };
    assert_eq!(client.refused(&alter).await, Code::UnknownLake);
    let retry = Request::RetryLakeErrors { name: name("none"), timeout_ms: 1 };
    assert_eq!(client.refused(&retry).await, Code::UnknownLake);
    assert_eq!(client.refused(&Request::AuditLake { name: name("none"), timeout_ms: 1 }).await, Code::UnknownLake);
    client.describe("flights").await;
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_hundred_requests_at_once_are_all_answered_by_their_correlation() {
    let rig = Rig::start().await;
    let mut client = rig.connect().await;
    client.create("flights", 1, StreamConfig::default()).await;
    let mut asked = std::collections::BTreeSet::new();
    for _ in 0..400 {
        asked.insert(client.ask(&Request::DescribeStream { name: "flights".into() }).await);
    }
    for _ in 0..400 {
        let (header, _) = client.control.expect(Kind::Response).await.expect("answered");
        assert!(asked.remove(&header.correlation));
    }
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_without_a_hello_in_time_is_closed() {
    let rig = Rig::start_with(|config| config.hello_timeout = Duration::from_millis(200)).await;
    let (_endpoint, silent) = dial(&rig.server).await.expect("connected");
    assert_eq!(close_code(&silent).await, Code::ProtocolViolation);
    let (_endpoint, half) = dial(&rig.server).await.expect("connected");
    let mut frames = Frames::open(&half).await;
    soon(frames.send.write_all(&[1, 2, 3])).await.expect("sent");
    assert_eq!(close_code(&half).await, Code::ProtocolViolation);
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hello_that_is_garbage_too_long_or_not_the_first_frame_closes_the_connection() {
    let rig = Rig::start().await;
    let long = Hello { token: "x".repeat(5_000), ..hello() };
    let mut lying = Kind::Hello as u8 as u64;
    lying = (lying << 32) | 0xffff_ffff;
    let cases: [(&str, Vec<u8>); 4] = [
        ("garbage", vec![0xff; FRAME_HEADER_BYTES]),
        ("a length of 4 GiB", [&lying.to_le_bytes()[..], &[0; 8]].concat()),
        ("another magic", frame(Kind::Hello, &[0; 20])),
        ("a request first", frame(Kind::Request, &Request::ListStreams.encode())),
    ];
    for (what, bytes) in cases {
        let (_endpoint, connection) = dial(&rig.server).await.expect("connected");
        let mut frames = Frames::open(&connection).await;
        soon(frames.send.write_all(&bytes)).await.expect("sent");
        assert_eq!(close_code(&connection).await, Code::ProtocolViolation, "{what}");
    }
    // A token that is too long is cut by our encoder, and legal.
    let (_endpoint, connection) = dial(&rig.server).await.expect("connected");
    let mut frames = Frames::open(&connection).await;
    frames.send(Kind::Hello, 0, 1, &long.encode()).await;
    frames.expect(Kind::HelloOk).await.expect("welcome");
    rig.stop().await;
}

fn frame(kind: Kind, body: &[u8]) -> Vec<u8> {
    let header = millstream_protocol::frame::FrameHeader::new(kind, 1, body.len()).encode();
    [&header[..], body].concat()
}

#[tokio::test(flavor = "multi_thread")]
async fn versions_that_do_not_overlap_are_told_so() {
    let rig = Rig::start().await;
    let (_endpoint, connection) = dial(&rig.server).await.expect("connected");
    let mut frames = Frames::open(&connection).await;
    frames.send(Kind::Hello, 0, 5, &Hello { version_min: 2, version_max: 9, ..hello() }.encode()).await;
    let refusal = frames.expect(Kind::HelloOk).await.expect_err("refused");
    assert_eq!(refusal.code, Code::Unsupported);
    assert!(refusal.text.contains("version 1"), "{refusal}");
    assert_eq!(close_code(&connection).await, Code::Unsupported);
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_before_the_hello_is_refused_and_the_hello_still_counts() {
    let rig = Rig::start().await;
    let (_endpoint, connection) = dial(&rig.server).await.expect("connected");
    let mut control = Frames::open(&connection).await;
    // The first byte of the hello only: the server knows the stream, and waits.
    let bytes = frame(Kind::Hello, &hello().encode());
    soon(control.send.write_all(&bytes[..1])).await.expect("sent");
    let mut early = Frames::open(&connection).await;
    early.send(Kind::OpenProduce, 0, 2, &OpenProduce { depth: 1 }.encode()).await;
    let refusal = early.expect(Kind::OpenProduceOk).await.expect_err("refused");
    assert_eq!(refusal.code, Code::ProtocolViolation);
    soon(control.send.write_all(&bytes[1..])).await.expect("sent");
    control.expect(Kind::HelloOk).await.expect("welcome");
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_of_an_unknown_kind_is_answered_and_ended_and_the_connection_goes_on() {
    let rig = Rig::start().await;
    let mut client = rig.connect().await;
    let mut newer = Frames::open(&client.connection).await;
    let mut header = [0; FRAME_HEADER_BYTES];
    header[4] = 250;
    soon(newer.send.write_all(&header)).await.expect("sent");
    let refusal = newer.expect(Kind::Response).await.expect_err("refused");
    assert_eq!(refusal.code, Code::Unsupported);
    assert!(newer.next().await.is_none());
    client.create("flights", 1, StreamConfig::default()).await;
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn frames_in_the_wrong_place_too_long_or_malformed_close_the_connection() {
    let rig = Rig::start().await;
    let mut too_long = frame(Kind::Request, &[]);
    too_long[..4].copy_from_slice(&u32::MAX.to_le_bytes());
    let mut flagged = frame(Kind::Request, &[]);
    flagged[5] = 1;
    let on_control: [(&str, Vec<u8>); 5] = [
        ("a second hello", frame(Kind::Hello, &hello().encode())),
        ("a batch on the control stream", frame(Kind::Produce, &[0; 200])),
        ("a frame above its limit", too_long),
        ("an unknown flag", flagged),
        ("a request that is no archive", frame(Kind::Request, &[1, 2, 3])),
    ];
    for (what, bytes) in on_control {
        let mut client = rig.connect().await;
        soon(client.control.send.write_all(&bytes)).await.expect("sent");
        assert_eq!(close_code(&client.connection).await, Code::ProtocolViolation, "{what}");
    }
    let on_others: [(&str, Vec<u8>); 4] = [
        ("a stream that begins with acks", frame(Kind::ProduceAcks, &[0; 4])),
        ("an opening cut short", frame(Kind::OpenProduce, &[1])),
        ("a consume opening that is no archive", frame(Kind::OpenConsume, &[1, 0xff, 0xff])),
        (
            "a request on a produce stream",
            [frame(Kind::OpenProduce, &OpenProduce { depth: 1 }.encode()), frame(Kind::Request, &[])].concat(),
        ),
    ];
    for (what, bytes) in on_others {
        let client = rig.connect().await;
        let mut frames = Frames::open(&client.connection).await;
        soon(frames.send.write_all(&bytes)).await.expect("sent");
        assert_eq!(close_code(&client.connection).await, Code::ProtocolViolation, "{what}");
    }
    let (status, metrics) = support::get(&rig.server, "/metrics").await;
    assert_eq!(status, 200);
    assert!(metrics.contains("millstream_protocol_violations_total 9"), "{metrics}");
    assert!(metrics.contains("millstream_panics_total 0"), "{metrics}");
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_speaks_another_protocol_does_not_get_in() {
    let rig = Rig::start().await;
    let refused = dial_with_alpn(&rig.server, b"h3").await.map(|_| ()).expect_err("refused");
    assert!(matches!(refused, ConnectionError::ConnectionClosed(_)), "{refused}");
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_beyond_the_limit_of_an_address_are_refused_until_one_ends() {
    let rig = Rig::start_with(|config| config.connections_per_address_max = 2).await;
    let one = rig.connect().await;
    let _two = rig.connect().await;
    let refused = dial(&rig.server).await.map(|_| ()).expect_err("refused");
    assert!(matches!(refused, ConnectionError::ConnectionClosed(_)), "{refused}");
    one.connection.close(0u32.into(), b"");
    support::until(async || dial(&rig.server).await.ok()).await;
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_crowd_of_half_open_connections_makes_newcomers_prove_their_address_and_they_get_in() {
    let rig = Rig::start_with(|config| {
        config.connections_per_address_max = 1_000;
        config.hello_timeout = Duration::from_secs(60);
        config.stop_timeout = Duration::ZERO;
    })
    .await;
    let (endpoint, first) = dial(&rig.server).await.expect("connected");
    let mut silent = vec![first];
    for _ in 0..256 {
        let connecting = endpoint.connect(rig.server.address(), "millstream").expect("a legal name");
        silent.push(soon(connecting).await.expect("connected"));
    }
    rig.connect().await.create("flights", 1, StreamConfig::default()).await;
    let metrics = support::get(&rig.server, "/metrics").await.1;
    let retried = metrics.lines().find_map(|line| line.strip_prefix("millstream_connections_retried_total "));
    assert_eq!(retried, Some("2"), "the last silent one, and the one that speaks");
    drop(silent);
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stopping_server_tells_every_stream_and_closes_with_its_code() {
    let rig = Rig::start().await;
    let mut client = rig.connect().await;
    let stream = client.create("flights", 1, StreamConfig::default()).await;
    let mut producer = client.producer(4).await;
    let Client { connection, mut control, .. } = client;
    producer.store(&stream, 0, &support::batch(&["x"])).await.expect("stored");
    let client_file = rig.dir.path().join("client.json");
    assert!(client_file.exists());
    let (stopped, told) = tokio::join!(soon(rig.server.stop()), async {
        let code = |frame: Option<(_, bytes::Bytes)>| Refusal::decode(&frame.expect("told").1).expect("a refusal").code;
        (code(producer.frames.next().await), code(control.next().await), close_code(&connection).await)
    });
    stopped.expect("it stops");
    assert_eq!(told, (Code::ShuttingDown, Code::ShuttingDown, Code::ShuttingDown));
    assert!(!client_file.exists());
}

async fn start_error(config: ServerConfig) -> ServeError {
    soon(Server::start(config)).await.expect_err("it should not start")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_cannot_start_says_why() {
    let rig = Rig::start().await;
    let other = tempfile::tempdir().expect("a directory");

    let locked = start_error(config(rig.dir.path())).await;
    assert!(matches!(locked, ServeError::DataDirLocked { .. }), "{locked}");

    let quic = start_error(ServerConfig { listen: rig.server.address(), ..config(other.path()) }).await;
    assert!(matches!(quic, ServeError::PortInUse { protocol: "QUIC", .. }), "{quic}");
    let http = start_error(ServerConfig { http: rig.server.http_address(), ..config(other.path()) }).await;
    assert!(matches!(http, ServeError::PortInUse { protocol: "HTTP", .. }), "{http}");

    let foreign = tempfile::tempdir().expect("a directory");
    std::fs::write(foreign.path().join("thesis.txt"), "x").expect("written");
    let foreign = start_error(config(foreign.path())).await;
    assert!(matches!(foreign, ServeError::Broker(_)), "{foreign}");

    let pem = other.path().join("none.pem");
    let files =
        ServerConfig { tls_certificate: Some(pem.clone()), tls_key: Some(pem), ..config(&other.path().join("new")) };
    let missing = start_error(files.clone()).await;
    assert!(matches!(missing, ServeError::File { .. }), "{missing}");
    std::fs::write(other.path().join("none.pem"), "no certificate").expect("written");
    let bad = start_error(files).await;
    assert!(matches!(bad, ServeError::Certificate { .. }), "{bad}");

    let newer = tempfile::tempdir().expect("a directory");
    std::fs::write(newer.path().join("FORMAT"), "millstream data directory\nformat 99\ndirectory 00\n")
        .expect("written");
    let newer = start_error(config(newer.path())).await;
    assert!(matches!(newer, ServeError::NewerFormat { found: 99, .. }), "{newer}");

    let range =
        start_error(ServerConfig { memory_in_hand: millstream_protocol::ByteSize(1), ..config(other.path()) }).await;
    assert!(matches!(range, ServeError::Config(_)), "{range}");
    for error in [locked, quic, http, foreign, missing, bad, newer, range] {
        assert!(error.is_local(), "{error}");
    }
    // A start that failed leaves nothing locked.
    soon(Server::start(config(&other.path().join("new")))).await.expect("it starts").stop().await.expect("it stops");
    rig.stop().await;
}
