//! A server in a few lines: real QUIC and real frames over logs in memory, doing what a test's script says.
//!
//! One stream, `rides`, of two partitions. Unscripted it stores, acknowledges and delivers as the real one does,
//! gates and resume flag included.
//! Groups are what `group::Coordinator` says: a test hands partitions out by hand.
#![allow(dead_code, reason = "each test file uses its part")]

pub mod group;
pub mod producers;

use std::collections::{HashSet, VecDeque};
use std::net::SocketAddr;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use millstream_client::{Client, Fingerprint};
use millstream_protocol::batch::{BatchView, HEADER_BYTES, Stamp, check_zero_stamp, stamp};
use millstream_protocol::frame::consume::BatchesPrefix;
use millstream_protocol::frame::control::{
    ConsumeEvent, ConsumeMode, ConsumeOpen, ConsumeOpened, ConsumePosition, Message, PartitionInfo, PartitionState,
    Request, Response, Start, StreamConfig, StreamInfo,
};
use millstream_protocol::frame::hello::{Hello, HelloOk, PROTOCOL_VERSION};
use millstream_protocol::frame::produce::{
    OpenProduce, PRODUCE_PREFIX_BYTES, ProduceAck, ProducePrefix, Produced, Stored, encode_acks,
};
use millstream_protocol::frame::{FLAG_RESEND, FLAG_RESUME, FRAME_HEADER_BYTES, FrameHeader, Kind, Refusal};
use millstream_protocol::{ALPN, Code, Epoch, Incarnation, Offset, PartitionId, Timestamp};
use parking_lot::Mutex;
use quinn::crypto::rustls::QuicServerConfig;
use quinn::{Connection, Endpoint, RecvStream, SendStream, VarInt};
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use tokio::sync::Notify;

pub const STREAM: &str = "rides";
pub const PARTITIONS: u32 = 2;

/// What to do with the next batch that arrives.
#[derive(Debug, Clone)]
pub enum Answer {
    Store,
    Refuse(Code),
    /// Stored, and refused all the same.
    StoreAndRefuse(Code),
    /// Stored, and the connection is cut before the ack.
    StoreAndCut,
    Cut,
    /// No answer, ever.
    Silence,
}

/// What to send on the next consume stream, before what is in the log.
#[derive(Debug, Clone)]
pub enum Piece {
    Batch(PartitionId, usize),
    /// The same with a bit of its body flipped.
    Damaged(PartitionId, usize),
    Event(ConsumeEvent),
    Cut,
    /// Nothing more: not even what is in the log.
    Stop,
}

/// A batch as it arrived.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Arrival {
    pub partition: PartitionId,
    pub resume: bool,
    pub resend: bool,
    /// The producer's epoch, and the sequence of the first record.
    pub numbers: (u32, u64),
    pub values: Vec<String>,
}

#[derive(Default)]
pub struct State {
    pub logs: Mutex<[Vec<Bytes>; PARTITIONS as usize]>,
    pub answers: Mutex<VecDeque<Answer>>,
    pub arrivals: Mutex<Vec<Arrival>>,
    pub pieces: Mutex<VecDeque<Vec<Piece>>>,
    pub opened: Mutex<Vec<ConsumeOpen>>,
    /// Cut the connection instead of answering so many requests.
    pub cut_requests: Mutex<u32>,
    pub requests: Mutex<Vec<Request>>,
    pub groups: group::Coordinator,
    pub producers: Mutex<producers::Producers>,
    /// Rises when the stream is deleted and made again.
    pub incarnation: Mutex<u64>,
    pub stored: Notify,
    /// The first offset that is said to be kept in each partition. What lies below is delivered all the same.
    pub log_start: Mutex<u64>,
    /// A partition whose log is said not to be open.
    pub offline: Mutex<Option<u32>>,
}

pub struct Fake {
    pub address: SocketAddr,
    pub fingerprint: String,
    pub state: Arc<State>,
    endpoint: Endpoint,
}

/// What makes a server unlike a good one.
pub struct Quirks {
    pub alpn: &'static [u8],
    pub version: u16,
    /// Refuses the hello.
    pub refuse: Option<Code>,
    /// Shows its certificate and signs with another key.
    pub wrong_key: bool,
}

impl Default for Quirks {
    fn default() -> Self {
        Self { alpn: ALPN, version: PROTOCOL_VERSION, refuse: None, wrong_key: false }
    }
}

#[derive(Debug)]
struct OneKey(Arc<rustls::sign::CertifiedKey>);

impl rustls::server::ResolvesServerCert for OneKey {
    fn resolve(&self, _: rustls::server::ClientHello<'_>) -> Option<Arc<rustls::sign::CertifiedKey>> {
        Some(Arc::clone(&self.0))
    }
}

/// A self-signed certificate and its key.
pub fn certificate() -> (CertificateDer<'static>, PrivateKeyDer<'static>) {
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned(), "127.0.0.1".to_owned()]).expect("a key");
    (made.cert.der().clone(), PrivateKeyDer::try_from(made.signing_key.serialize_der()).expect("PKCS #8"))
}

impl Fake {
    pub fn start() -> Self {
        Self::with(Quirks::default(), certificate())
    }

    pub fn with(quirks: Quirks, (certificate, key): (CertificateDer<'static>, PrivateKeyDer<'static>)) -> Self {
        let fingerprint = Fingerprint::of_certificate(&certificate).expect("a certificate").to_string();
        let key = if quirks.wrong_key { self::certificate().1 } else { key };
        let key = rustls::crypto::aws_lc_rs::sign::any_ecdsa_type(&key).expect("P-256");
        let key = rustls::sign::CertifiedKey::new(vec![certificate], key);
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let mut tls = rustls::ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])
            .expect("TLS 1.3")
            .with_no_client_auth()
            .with_cert_resolver(Arc::new(OneKey(Arc::new(key))));
        tls.alpn_protocols = vec![quirks.alpn.to_vec()];
        let crypto = QuicServerConfig::try_from(tls).expect("AES-128-GCM is there");
        let config = quinn::ServerConfig::with_crypto(Arc::new(crypto));
        let endpoint = Endpoint::server(config, ([127, 0, 0, 1], 0).into()).expect("a port");
        let state = Arc::new(State::default());
        let fake = Self {
            address: endpoint.local_addr().expect("it is bound"),
            fingerprint,
            state: Arc::clone(&state),
            endpoint: endpoint.clone(),
        };
        let quirks = Arc::new(quirks);
        tokio::spawn(async move {
            while let Some(incoming) = endpoint.accept().await {
                let (state, quirks) = (Arc::clone(&state), Arc::clone(&quirks));
                tokio::spawn(async move {
                    if let Ok(connection) = incoming.await {
                        // It ends with an error when the client goes, or the script cuts it.
                        let _ = serve(connection, state, quirks).await;
                    }
                });
            }
        });
        fake
    }

    pub async fn client(&self) -> Client {
        Client::connect(self.address.to_string(), &self.fingerprint).await.expect("it is there")
    }

    pub fn answers(&self, answers: impl IntoIterator<Item = Answer>) {
        self.state.answers.lock().extend(answers);
    }

    pub fn pieces(&self, pieces: impl IntoIterator<Item = Piece>) {
        self.state.pieces.lock().push_back(pieces.into_iter().collect());
    }

    pub fn arrivals(&self) -> Vec<Arrival> {
        self.state.arrivals.lock().clone()
    }

    /// The values in a partition's log.
    pub fn log(&self, partition: u32) -> Vec<String> {
        self.state.logs.lock()[partition as usize].iter().flat_map(values).collect()
    }

    /// Closes everything, as a server that stops.
    pub fn stop(&self) {
        self.endpoint.close(close_code(Code::ShuttingDown), b"the server is stopping");
    }
}

impl Drop for Fake {
    fn drop(&mut self) {
        self.endpoint.close(VarInt::from_u32(0), b"");
    }
}

fn close_code(code: Code) -> VarInt {
    VarInt::from_u32(u32::from(code.number()))
}

/// The values in a batch.
pub fn values(batch: &Bytes) -> Vec<String> {
    let records = BatchView::parse(batch).expect("a batch").records().expect("it decompresses");
    records.map(|r| String::from_utf8(r.expect("a record").value.expect("a value").to_vec()).expect("text")).collect()
}

type Anyhow<T = ()> = Result<T, Box<dyn std::error::Error + Send + Sync>>;

async fn read(recv: &mut RecvStream) -> Anyhow<(FrameHeader, Bytes)> {
    let mut header = [0; FRAME_HEADER_BYTES];
    recv.read_exact(&mut header).await?;
    let header = FrameHeader::decode(&header)?;
    let mut body = BytesMut::zeroed(header.body_len as usize);
    recv.read_exact(&mut body).await?;
    Ok((header, body.freeze()))
}

async fn write(send: &mut SendStream, kind: Kind, correlation: u64, body: &[u8]) -> Anyhow {
    send.write_all(&FrameHeader::new(kind, correlation, body.len()).encode()).await?;
    Ok(send.write_all(body).await?)
}

async fn serve(connection: Connection, state: Arc<State>, quirks: Arc<Quirks>) -> Anyhow {
    let (mut send, mut recv) = connection.accept_bi().await?;
    let (_, body) = read(&mut recv).await?;
    Hello::decode(&body)?;
    if let Some(code) = quirks.refuse {
        write(&mut send, Kind::Error, 0, &Refusal::new(code, "not with me").encode()).await?;
        send.finish()?;
        send.stopped().await?;
        return Ok(());
    }
    let hello = HelloOk { version: quirks.version, server_id: 7, server_version: "fake".into() };
    write(&mut send, Kind::HelloOk, 0, &hello.encode()).await?;
    tokio::spawn(control(connection.clone(), Arc::new(tokio::sync::Mutex::new(send)), recv, Arc::clone(&state)));
    while let Ok((send, mut recv)) = connection.accept_bi().await {
        let (connection, state) = (connection.clone(), Arc::clone(&state));
        tokio::spawn(async move {
            let (header, body) = read(&mut recv).await?;
            match header.kind {
                Kind::OpenProduce => produce(connection, send, recv, &body, &state).await,
                _ => consume(connection, send, &body, &state).await,
            }
        });
    }
    Ok(())
}

async fn control(
    connection: Connection,
    send: Arc<tokio::sync::Mutex<SendStream>>,
    mut recv: RecvStream,
    state: Arc<State>,
) -> Anyhow {
    loop {
        let (header, body) = read(&mut recv).await?;
        let request = Request::decode(&body)?;
        state.requests.lock().push(request.clone());
        let cut = {
            let mut left = state.cut_requests.lock();
            let cut = *left > 0;
            *left -= u32::from(cut);
            cut
        };
        if cut {
            connection.close(VarInt::from_u32(0), b"");
            return Ok(());
        }
        let (state, send) = (Arc::clone(&state), Arc::clone(&send));
        if matches!(request, Request::BumpProducer { .. }) && state.producers.lock().cuts_a_bump() {
            // The answer is lost.
            drop(perform(&state, request).await);
            connection.close(VarInt::from_u32(0), b"");
            return Ok(());
        }
        // A heartbeat waits and keeps nothing else waiting.
        tokio::spawn(async move {
            let (kind, body) = match perform(&state, request).await {
                Ok(response) => (Kind::Response, response.encode()),
                Err(refusal) => (Kind::Error, refusal.encode()),
            };
            write(&mut *send.lock().await, kind, header.correlation, &body).await
        });
    }
}

async fn perform(state: &State, request: Request) -> Result<Response, Refusal> {
    match request {
        Request::DescribeStream { name } if name == STREAM => Ok(Response::Stream(info(state))),
        Request::DescribeStream { name } => Err(Refusal::new(Code::UnknownStream, format!("no stream {name:?}"))),
        Request::CreateStream { .. } => Ok(Response::Stream(info(state))),
        Request::ListStreams => Ok(Response::Streams(Vec::new())),
        Request::InitProducer { name } => state.producers.lock().init(name),
        Request::BumpProducer { id, epoch, .. } => state.producers.lock().bump(id, epoch, PARTITIONS),
        Request::JoinGroup(join) => state.groups.join(join),
        Request::HeartbeatGroup(heartbeat) => state.groups.heartbeat(heartbeat).await,
        Request::LeaveGroup { member, .. } => state.groups.leave(member),
        Request::CommitOffsets { member, commits, .. } => state.groups.commit(member, &commits),
        Request::FetchOffsets { partitions, .. } => state.groups.fetch(&partitions),
        _ => Ok(Response::Done),
    }
}

fn incarnation(state: &State, partition: u32) -> Incarnation {
    Incarnation(100 + u64::from(partition) + 1_000 * *state.incarnation.lock())
}

fn info(state: &State) -> StreamInfo {
    let partition = |partition| PartitionInfo {
        partition,
        incarnation: incarnation(state, partition).0,
        epoch: 3,
        owner: String::new(),
        log_start: *state.log_start.lock(),
        high_watermark: high_watermark(state, partition),
        bytes: 0,
        state: match *state.offline.lock() == Some(partition) {
            true => PartitionState::Offline,
            false => PartitionState::Online,
        },
    };
    StreamInfo {
        id: 5,
        name: STREAM.into(),
        config: StreamConfig { record_bytes_max: 1_000_000, ..Default::default() },
        created_ms: 0,
        partitions: (0..PARTITIONS).map(partition).collect(),
    }
}

fn high_watermark(state: &State, partition: u32) -> u64 {
    let logs = state.logs.lock();
    logs[partition as usize].last().map_or(0, |batch| BatchView::parse(batch).expect("stored").header().end_offset().0)
}

/// Stamps and appends, as the server does.
fn store(state: &State, partition: u32, batch: &[u8]) -> Stored {
    let stored = Stored { base_offset: Offset(high_watermark(state, partition)), append_time: Timestamp(1_700) };
    let mut bytes = batch.to_vec();
    let Stored { base_offset, append_time } = stored;
    let stamped = Stamp { base_offset, append_time, epoch: Epoch(3), synced_end: Offset(0) };
    stamp(&mut bytes, &stamped, incarnation(state, partition));
    state.logs.lock()[partition as usize].push(bytes.into());
    state.stored.notify_waiters();
    stored
}

async fn produce(
    connection: Connection,
    mut send: SendStream,
    mut recv: RecvStream,
    open: &[u8],
    state: &State,
) -> Anyhow {
    let asked = OpenProduce::decode(open)?;
    write(&mut send, Kind::OpenProduceOk, 0, &OpenProduce { depth: asked.depth.min(8) }.encode()).await?;
    let mut gated = HashSet::new();
    loop {
        let (header, body) = read(&mut recv).await?;
        let prefix = ProducePrefix::decode(&body)?;
        let batch = body.slice(PRODUCE_PREFIX_BYTES..);
        check_zero_stamp(&batch)?;
        let (resume, resend) = (header.flags & FLAG_RESUME != 0, header.flags & FLAG_RESEND != 0);
        let view = BatchView::parse(&batch)?;
        let numbers = (view.header().producer_epoch, view.header().base_sequence);
        let arrival = Arrival { partition: prefix.partition, resume, resend, numbers, values: values(&batch) };
        state.arrivals.lock().push(arrival);
        if resume {
            gated.remove(&prefix.partition);
        }
        let answer = if gated.contains(&prefix.partition) {
            Answer::Refuse(Code::Throttled)
        } else {
            state.answers.lock().pop_front().unwrap_or(Answer::Store)
        };
        let judge = || {
            let partition = prefix.partition.0;
            let judged = state.producers.lock().judge(partition, &batch, resend, || store(state, partition, &batch));
            judged.map_err(|code| Refusal::new(code, format!("judged: {code}")))
        };
        let result = match answer {
            Answer::Store => judge(),
            Answer::Refuse(code) => Err(Refusal::new(code, format!("scripted: {code}"))),
            Answer::StoreAndRefuse(code) => judge().and(Err(Refusal::new(code, format!("scripted: {code}")))),
            Answer::StoreAndCut | Answer::Cut => {
                if matches!(answer, Answer::StoreAndCut) {
                    drop(judge());
                }
                connection.close(VarInt::from_u32(0), b"");
                return Ok(());
            }
            Answer::Silence => continue,
        };
        let count = view.header().record_count as usize;
        let is_through = match &result {
            Ok(Produced::Stored(_)) => true,
            Ok(Produced::Duplicates(duplicates)) => duplicates.len() == count,
            Err(_) => false,
        };
        if !is_through {
            gated.insert(prefix.partition);
        }
        let acks = [ProduceAck { correlation: header.correlation, result }];
        write(&mut send, Kind::ProduceAcks, 0, &encode_acks(&acks)).await?;
    }
}

async fn consume(connection: Connection, mut send: SendStream, open: &[u8], state: &State) -> Anyhow {
    let open = ConsumeOpen::decode(open)?;
    state.opened.lock().push(open.clone());
    let place = |start: &millstream_protocol::frame::control::ConsumeStart| {
        let high_watermark = high_watermark(state, start.partition);
        let offset = match start.start {
            Start::Earliest | Start::Time(_) => 0,
            Start::Latest => high_watermark,
            Start::Offset { offset, .. } => offset,
        };
        ConsumePosition { partition: start.partition, offset, high_watermark, log_start: 0 }
    };
    let positions: Vec<ConsumePosition> = open.partitions.iter().map(place).collect();
    let opened = ConsumeOpened { positions: positions.clone() };
    write(&mut send, Kind::OpenConsumeOk, 0, &opened.encode()).await?;

    let pieces = state.pieces.lock().pop_front().unwrap_or_default();
    for piece in pieces {
        match piece {
            Piece::Batch(partition, index) => deliver(&mut send, state, partition.0, index, false).await?,
            Piece::Damaged(partition, index) => deliver(&mut send, state, partition.0, index, true).await?,
            Piece::Event(event) => write(&mut send, Kind::ConsumeEvent, 0, &event.encode()).await?,
            Piece::Cut => {
                // What was written before the cut arrives: it is acknowledged first.
                send.finish()?;
                send.stopped().await?;
                connection.close(VarInt::from_u32(0), b"");
                return Ok(());
            }
            Piece::Stop => {
                send.stopped().await?;
                return Ok(());
            }
        }
    }
    let mut next: Vec<(u32, u64)> = positions.iter().map(|at| (at.partition, at.offset)).collect();
    loop {
        let more = state.stored.notified();
        tokio::pin!(more);
        more.as_mut().enable();
        for (partition, next) in &mut next {
            let log = state.logs.lock()[*partition as usize].clone();
            for (index, batch) in log.iter().enumerate() {
                let end = BatchView::parse(batch)?.header().end_offset().0;
                if end > *next {
                    deliver(&mut send, state, *partition, index, false).await?;
                    *next = end;
                }
            }
        }
        if open.mode == ConsumeMode::Bounded {
            break;
        }
        tokio::select! {
            () = more => {}
            stopped = send.stopped() => { stopped?; return Ok(()) }
        }
    }
    for (partition, offset) in next {
        write(&mut send, Kind::ConsumeEvent, 0, &ConsumeEvent::End { partition, offset }.encode()).await?;
    }
    send.finish()?;
    Ok(())
}

async fn deliver(send: &mut SendStream, state: &State, partition: u32, index: usize, damaged: bool) -> Anyhow {
    let mut batch = state.logs.lock()[partition as usize][index].to_vec();
    if damaged {
        batch[HEADER_BYTES] ^= 1;
    }
    let high_watermark = Offset(high_watermark(state, partition));
    let prefix = BatchesPrefix { partition: PartitionId(partition), high_watermark, log_start: Offset(0) };
    write(send, Kind::Batches, 0, &[&prefix.encode()[..], &batch].concat()).await
}

/// Fills a partition's log with batches of these values.
pub fn fill(fake: &Fake, partition: u32, batches: &[&[&str]]) {
    use millstream_protocol::Record;
    use millstream_protocol::batch::{BatchBuilder, Codec};
    for batch in batches {
        let mut builder = BatchBuilder::new(Codec::Lz4);
        for value in *batch {
            builder.push(&Record::new(value.to_string())).expect("a legal record");
        }
        store(&fake.state, partition, &builder.finish().expect("it has records"));
    }
}

/// Takes all records out of a partition's log but those at `keep`, as compaction does.
pub fn compact(fake: &Fake, partition: u32, keep: &[u64]) {
    use millstream_protocol::batch::{Thinned, thin};
    let incarnation = incarnation(&fake.state, partition);
    let log = &mut fake.state.logs.lock()[partition as usize];
    for stored in log.iter_mut() {
        let batch = BatchView::parse(stored).expect("it was stored");
        match thin(&batch, incarnation, |offset, _| keep.contains(&offset.0)).expect("legal records") {
            Thinned::Unchanged => {}
            Thinned::Batches(batches) => *stored = batches[0].clone(),
        }
    }
}
