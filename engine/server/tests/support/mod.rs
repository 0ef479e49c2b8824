//! A server in a fresh directory, and a client that speaks frames by hand, so that tests can also say what a good
//! client never would. Every wait has a bound: a test that hangs fails.
#![allow(dead_code, reason = "each test file uses its part")]

use std::future::Future;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use millstream_protocol::batch::{BatchBuilder, BatchView, Codec};
use millstream_protocol::frame::consume::{BATCHES_PREFIX_BYTES, BatchesPrefix};
use millstream_protocol::frame::control::{
    ConsumeEvent, ConsumeMode, ConsumeOpen, ConsumeOpened, ConsumeStart, CreateMode, Message, Request, Response, Start,
    StreamConfig, StreamInfo,
};
use millstream_protocol::frame::hello::{Hello, HelloOk, PROTOCOL_VERSION};
use millstream_protocol::frame::produce::{OpenProduce, ProduceAck, ProducePrefix, Produced, Stored, decode_acks};
use millstream_protocol::frame::{FLAG_RESUME, FRAME_HEADER_BYTES, FrameHeader, Kind, Refusal};
use millstream_protocol::{ALPN, Code, Epoch, Incarnation, Offset, PartitionId, Record, StreamId};
use millstream_server::{Server, ServerConfig};
use quinn::crypto::rustls::QuicClientConfig;
use quinn::{Connection, ConnectionError, Endpoint, RecvStream, SendStream};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use tempfile::TempDir;

const WAIT_MAX: Duration = Duration::from_secs(20);

/// Waits for `future`, but not for ever.
pub async fn soon<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(WAIT_MAX, future).await.expect("it should have come by now")
}

/// Asks again and again until `found` gives something.
pub async fn until<T, F: Future<Output = Option<T>>>(mut found: impl FnMut() -> F) -> T {
    soon(async {
        loop {
            if let Some(value) = found().await {
                return value;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await
}

pub fn config(data_dir: &Path) -> ServerConfig {
    let any = "127.0.0.1:0".parse().expect("an address");
    ServerConfig { data_dir: data_dir.into(), listen: any, http: Some(any), ..ServerConfig::default() }
}

/// A server and its directory.
pub struct Rig {
    pub dir: TempDir,
    pub server: Server,
}

impl Rig {
    pub async fn start() -> Self {
        Self::start_with(|_| {}).await
    }

    pub async fn start_with(change: impl FnOnce(&mut ServerConfig)) -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let mut config = config(dir.path());
        change(&mut config);
        Self { server: soon(Server::start(config)).await.expect("it starts"), dir }
    }

    pub async fn restart(self) -> Self {
        let Self { dir, server } = self;
        soon(server.stop()).await.expect("it stops");
        let server = soon(Server::start(config(dir.path()))).await.expect("it starts again");
        Self { dir, server }
    }

    pub async fn connect(&self) -> Client {
        Client::connect(&self.server).await
    }

    pub async fn stop(self) {
        soon(self.server.stop()).await.expect("it stops");
    }
}

/// A QUIC connection without a hello yet.
pub async fn dial(server: &Server) -> Result<(Endpoint, Connection), ConnectionError> {
    dial_with_alpn(server, ALPN).await
}

pub async fn dial_with_alpn(server: &Server, alpn: &[u8]) -> Result<(Endpoint, Connection), ConnectionError> {
    let mut roots = rustls::RootCertStore::empty();
    let certificate = std::fs::read(server.data_dir().join("tls/certificate.pem")).expect("the server has made it");
    roots.add(CertificateDer::from_pem_slice(&certificate).expect("PEM")).expect("a certificate");
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut tls = rustls::ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .expect("TLS 1.3")
        .with_root_certificates(roots)
        .with_no_client_auth();
    tls.alpn_protocols = vec![alpn.to_vec()];
    let crypto = QuicClientConfig::try_from(tls).expect("QUIC's suite is there");
    let mut endpoint = Endpoint::client("127.0.0.1:0".parse().expect("an address")).expect("a socket");
    endpoint.set_default_client_config(quinn::ClientConfig::new(Arc::new(crypto)));
    let connecting = endpoint.connect(server.address(), "millstream").expect("a legal name");
    let connection = soon(connecting).await?;
    Ok((endpoint, connection))
}

/// One QUIC stream, frame by frame.
pub struct Frames {
    pub send: SendStream,
    pub recv: RecvStream,
}

impl Frames {
    pub async fn open(connection: &Connection) -> Self {
        let (send, recv) = soon(connection.open_bi()).await.expect("a stream");
        Self { send, recv }
    }

    pub async fn send(&mut self, kind: Kind, flags: u8, correlation: u64, body: &[u8]) {
        let mut header = FrameHeader::new(kind, correlation, body.len());
        header.flags = flags;
        let frame = [&header.encode()[..], body].concat();
        soon(self.send.write_all(&frame)).await.expect("the server takes it");
    }

    /// The next frame; `None` at the end of the stream, or of the connection.
    pub async fn next(&mut self) -> Option<(FrameHeader, Bytes)> {
        let mut header = [0; FRAME_HEADER_BYTES];
        soon(self.recv.read_exact(&mut header)).await.ok()?;
        let header = FrameHeader::decode(&header).expect("the server sends frames");
        let mut body = vec![0; header.body_len as usize];
        soon(self.recv.read_exact(&mut body)).await.ok()?;
        Some((header, body.into()))
    }

    /// The next frame, which must be of that kind, or the refusal in its place.
    pub async fn expect(&mut self, kind: Kind) -> Result<(FrameHeader, Bytes), Refusal> {
        let (header, body) = self.next().await.expect("an answer");
        match header.kind {
            Kind::Error => Err(Refusal::decode(&body).expect("a refusal")),
            found => {
                assert_eq!(found, kind);
                Ok((header, body))
            }
        }
    }
}

pub fn hello() -> Hello {
    Hello {
        version_min: PROTOCOL_VERSION,
        version_max: PROTOCOL_VERSION,
        client_name: "tests".into(),
        token: String::new(),
    }
}

/// A connection that is through its hello.
pub struct Client {
    pub endpoint: Endpoint,
    pub connection: Connection,
    pub control: Frames,
    pub welcome: HelloOk,
    correlation: u64,
}

impl Client {
    pub async fn connect(server: &Server) -> Self {
        let (endpoint, connection) = dial(server).await.expect("connected");
        let mut control = Frames::open(&connection).await;
        control.send(Kind::Hello, 0, 1, &hello().encode()).await;
        let (_, body) = control.expect(Kind::HelloOk).await.expect("welcome");
        let welcome = HelloOk::decode(&body).expect("a hello");
        Self { endpoint, connection, control, welcome, correlation: 1 }
    }

    pub async fn ask(&mut self, request: &Request) -> u64 {
        self.correlation += 1;
        self.control.send(Kind::Request, 0, self.correlation, &request.encode()).await;
        self.correlation
    }

    pub async fn request(&mut self, request: &Request) -> Result<Response, Refusal> {
        let correlation = self.ask(request).await;
        let (header, body) = self.control.expect(Kind::Response).await?;
        assert_eq!(header.correlation, correlation);
        Ok(Response::decode(&body).expect("a response"))
    }

    /// The code with which a request is refused.
    pub async fn refused(&mut self, request: &Request) -> Code {
        self.request(request).await.expect_err("it should be refused").code
    }

    pub async fn create(&mut self, name: &str, partitions: u32, config: StreamConfig) -> StreamInfo {
        let mode = CreateMode::Explicit;
        match self.request(&Request::CreateStream { name: name.into(), partitions, config, mode }).await {
            Ok(Response::Stream(info)) => info,
            other => panic!("{other:?}"),
        }
    }

    pub async fn describe(&mut self, name: &str) -> StreamInfo {
        match self.request(&Request::DescribeStream { name: name.into() }).await {
            Ok(Response::Stream(info)) => info,
            other => panic!("{other:?}"),
        }
    }

    pub async fn producer(&self, depth: u32) -> Producer {
        let mut frames = Frames::open(&self.connection).await;
        frames.send(Kind::OpenProduce, 0, 7, &OpenProduce { depth }.encode()).await;
        let (header, body) = frames.expect(Kind::OpenProduceOk).await.expect("granted");
        assert_eq!(header.correlation, 7);
        Producer { frames, granted: OpenProduce::decode(&body).expect("a grant").depth, acks: Vec::new() }
    }

    pub async fn consumer(&self, open: ConsumeOpen) -> Result<Consumer, Refusal> {
        let mut frames = Frames::open(&self.connection).await;
        frames.send(Kind::OpenConsume, 0, 9, &open.encode()).await;
        let (_, body) = frames.expect(Kind::OpenConsumeOk).await?;
        Ok(Consumer { frames, opened: ConsumeOpened::decode(&body).expect("positions") })
    }

    /// A consumer of all partitions of `stream` from its start to what is there now.
    pub async fn read_all(&self, stream: &StreamInfo) -> Vec<Vec<(Offset, Record)>> {
        let mut consumer = self.consumer(open(stream, Start::Earliest, ConsumeMode::Bounded)).await.expect("opened");
        let mut records = vec![Vec::new(); stream.partitions.len()];
        loop {
            match consumer.next().await {
                Some(Delivered::Batches(prefix, batches)) => {
                    let partition = prefix.partition.0 as usize;
                    records[partition].extend(decode(batches, stream.partitions[partition].incarnation));
                }
                Some(Delivered::Event(ConsumeEvent::End { .. })) => {}
                Some(Delivered::Event(event)) => panic!("{event:?}"),
                None => return records,
            }
        }
    }
}

pub fn open(stream: &StreamInfo, start: Start, mode: ConsumeMode) -> ConsumeOpen {
    let partitions = stream.partitions.iter().map(|p| ConsumeStart { partition: p.partition, start }).collect();
    ConsumeOpen { stream: stream.id, partitions, mode }
}

/// The records of stored batches.
pub fn decode(mut batches: Bytes, incarnation: u64) -> Vec<(Offset, Record)> {
    let mut records = Vec::new();
    while !batches.is_empty() {
        let view = BatchView::split_stored(&mut batches, Incarnation(incarnation)).expect("as stored");
        let mut decoded = view.records().expect("records");
        while let Some(record) = decoded.next_with_offset() {
            records.push(record.expect("a record"));
        }
    }
    records
}

pub fn batch(values: &[&str]) -> Bytes {
    let mut builder = BatchBuilder::new(Codec::Lz4);
    for value in values {
        builder.push(&Record::new(value.as_bytes().to_vec())).expect("legal");
    }
    builder.finish().expect("not empty")
}

/// A produce stream.
pub struct Producer {
    pub frames: Frames,
    pub granted: u32,
    acks: Vec<ProduceAck>,
}

impl Producer {
    pub async fn send(&mut self, stream: &StreamInfo, partition: u32, correlation: u64, batch: &[u8]) {
        self.send_flagged(stream, partition, correlation, batch, 0).await;
    }

    pub async fn resume(&mut self, stream: &StreamInfo, partition: u32, correlation: u64, batch: &[u8]) {
        self.send_flagged(stream, partition, correlation, batch, FLAG_RESUME).await;
    }

    pub async fn send_flagged(
        &mut self,
        stream: &StreamInfo,
        partition: u32,
        correlation: u64,
        batch: &[u8],
        flags: u8,
    ) {
        let prefix = ProducePrefix { stream: StreamId(stream.id), partition: PartitionId(partition), epoch: Epoch(0) };
        let body = [&prefix.encode()[..], batch].concat();
        self.frames.send(Kind::Produce, flags, correlation, &body).await;
    }

    /// The next ack, whatever it is.
    pub async fn any_ack(&mut self) -> (u64, Result<Produced, Refusal>) {
        while self.acks.is_empty() {
            let (_, body) = self.frames.expect(Kind::ProduceAcks).await.expect("acks");
            self.acks = decode_acks(&body).expect("acks");
        }
        let ack = self.acks.remove(0);
        (ack.correlation, ack.result)
    }

    /// The next ack, of a batch without dedup ids.
    pub async fn ack(&mut self) -> (u64, Result<Stored, Refusal>) {
        let (correlation, result) = self.any_ack().await;
        let stored = result.map(|produced| match produced {
            Produced::Stored(stored) => stored,
            Produced::Duplicates(all) => panic!("duplicates where none were sent: {all:?}"),
        });
        (correlation, stored)
    }

    /// Sends one batch and waits for its result.
    pub async fn store(&mut self, stream: &StreamInfo, partition: u32, batch: &[u8]) -> Result<Stored, Refusal> {
        self.send(stream, partition, 42, batch).await;
        let (correlation, result) = self.ack().await;
        assert_eq!(correlation, 42);
        result
    }
}

/// What came on a consume stream.
#[derive(Debug)]
pub enum Delivered {
    Batches(BatchesPrefix, Bytes),
    Event(ConsumeEvent),
}

/// A consume stream.
pub struct Consumer {
    pub frames: Frames,
    pub opened: ConsumeOpened,
}

impl Consumer {
    /// What comes next; `None` at the end. An Error frame is a failure of the test.
    pub async fn next(&mut self) -> Option<Delivered> {
        let (header, body) = self.frames.next().await?;
        Some(match header.kind {
            Kind::Batches => {
                let prefix = BatchesPrefix::decode(&body).expect("a prefix");
                Delivered::Batches(prefix, body.slice(BATCHES_PREFIX_BYTES..))
            }
            Kind::ConsumeEvent => Delivered::Event(ConsumeEvent::decode(&body).expect("an event")),
            Kind::Error => panic!("{}", Refusal::decode(&body).expect("a refusal")),
            other => panic!("{other:?}"),
        })
    }

    pub async fn event(&mut self) -> ConsumeEvent {
        match self.next().await {
            Some(Delivered::Event(event)) => event,
            other => panic!("{other:?}"),
        }
    }

    /// The values of the next batches.
    pub async fn values(&mut self, stream: &StreamInfo) -> Vec<String> {
        match self.next().await {
            Some(Delivered::Batches(prefix, batches)) => {
                let incarnation = stream.partitions[prefix.partition.0 as usize].incarnation;
                decode(batches, incarnation).into_iter().map(|(_, record)| text(&record)).collect()
            }
            other => panic!("{other:?}"),
        }
    }
}

pub fn text(record: &Record) -> String {
    String::from_utf8(record.value.as_deref().unwrap_or_default().to_vec()).expect("text")
}

/// The application code with which the server closed the connection.
pub async fn close_code(connection: &Connection) -> Code {
    match soon(connection.closed()).await {
        ConnectionError::ApplicationClosed(close) => {
            Code::from_number(u16::try_from(close.error_code.into_inner()).expect("a code"))
        }
        other => panic!("{other}"),
    }
}

/// A GET to the server's HTTP listener: status and body.
pub async fn get(server: &Server, path: &str) -> (u16, String) {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let address = server.http_address().expect("HTTP is on");
    let mut socket = soon(tokio::net::TcpStream::connect(address)).await.expect("connected");
    let request = format!("GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
    socket.write_all(request.as_bytes()).await.expect("sent");
    let mut answer = String::new();
    soon(socket.read_to_string(&mut answer)).await.expect("answered");
    let (head, body) = answer.split_once("\r\n\r\n").expect("a head and a body");
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).expect("a status");
    (status, body.to_owned())
}
