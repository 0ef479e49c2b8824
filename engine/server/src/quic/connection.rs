//! One connection: handshake, hello, then a task for each of its streams.
//!
//! ```text
//! handshake ─► first stream: Hello ─► HelloOk ─► control session on it
//!   5 s            5 s, 4 KiB                    each further stream: its first frame says which session
//! ```
//! How a session ends decides about the rest: a broken protocol or a panic closes the connection with a code and a
//! text; a refusal ends its own stream with an Error frame.
//! Not here: what sessions do (`session`), who gets in (`quic::endpoint`).

use std::sync::Arc;
use std::time::Duration;

use millstream_protocol::Code;
use millstream_protocol::frame::hello::{Hello, HelloOk, PROTOCOL_VERSION};
use millstream_protocol::frame::{FrameError, FrameHeader, Kind, Refusal};
use quinn::{Connection, Incoming, RecvStream, SendStream};
use tokio::task::{JoinError, JoinSet};

use super::endpoint::Place;
use super::transport::Windows;
use crate::authorize::Principal;
use crate::frame_io::{End, FrameReader, close_code, write_error, write_frame};
use crate::metrics::Metrics;
use crate::session::{self, Session};
use crate::shared::{Shared, shutting_down};

/// How long an Error frame that ends a connection may take to reach the peer.
pub(crate) const LAST_WORDS: Duration = Duration::from_millis(500);
/// The longest reason in a CONNECTION_CLOSE frame: it must fit into the smallest packet.
const REASON_BYTES_MAX: usize = 512;

/// Serves one connection to its end.
pub(crate) async fn run(incoming: Incoming, mut place: Place, shared: Arc<Shared>) {
    let address = incoming.remote_address();
    let connecting = match incoming.accept() {
        Ok(connecting) => connecting,
        Err(error) => return tracing::debug!(%address, %error, "connection attempt failed"),
    };
    let hello_timeout = shared.config.hello_timeout;
    let connection = match tokio::time::timeout(hello_timeout, connecting).await {
        Ok(Ok(connection)) => connection,
        Ok(Err(error)) => return tracing::debug!(%address, %error, "handshake failed"),
        Err(_) => return tracing::debug!(%address, "the handshake took too long"),
    };
    let outcome = tokio::select! {
        outcome = hello(&connection, &shared) => outcome,
        () = tokio::time::sleep(hello_timeout) => {
            let text = format!("no hello within {hello_timeout:?}: it comes first on the first stream");
            Err(End::Close(Refusal::new(Code::ProtocolViolation, text)))
        }
        () = shared.stopping.cancelled() => Err(End::Close(shutting_down())),
    };
    match outcome {
        Ok(welcome) => {
            place.settle();
            let _counted = Counted::new(&shared.metrics);
            let client = welcome.hello.client_name.escape_debug().to_string();
            tracing::debug!(%address, client, "connected");
            let mut sessions = JoinSet::new();
            let reason = serve(&connection, welcome, &shared, &mut sessions).await;
            // Nothing of a connection outlives it.
            sessions.shutdown().await;
            tracing::debug!(%address, client, reason, "connection ended");
        }
        Err(End::Close(refusal) | End::Refused(refusal)) => close(&connection, &shared, &refusal),
        Err(End::Gone) => {}
    }
}

/// Counts a connection as open until dropped, whatever ends it.
struct Counted(Arc<Metrics>);

impl Counted {
    fn new(metrics: &Arc<Metrics>) -> Self {
        metrics.connections_accepted.add(1);
        Self(Arc::clone(metrics))
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.connections_closed.add(1);
    }
}

/// A control stream whose hello is answered.
struct Welcome {
    hello: Hello,
    send: SendStream,
    frames: FrameReader,
}

/// Waits for the hello on the first stream and answers it; other streams are refused meanwhile.
async fn hello(connection: &Connection, shared: &Shared) -> Result<Welcome, End> {
    let (send, recv) = connection.accept_bi().await.map_err(|_| End::Gone)?;
    let refuse_others = async {
        while let Ok(stream) = connection.accept_bi().await {
            tokio::spawn(refuse_before_hello(stream));
        }
    };
    tokio::select! {
        biased;
        outcome = greet(send, recv, shared) => outcome,
        () = refuse_others => Err(End::Gone),
    }
}

async fn greet(mut send: SendStream, recv: RecvStream, shared: &Shared) -> Result<Welcome, End> {
    let mut frames = FrameReader::new(recv, shared.config.body_timeout);
    let Some(header) = frames.header().await? else {
        let text = "the first stream ended without a hello";
        return Err(End::Close(Refusal::new(Code::ProtocolViolation, text)));
    };
    header.expect(Kind::Hello, "a hello")?;
    // At most 4 KiB, which the header's decoder has checked: too little to reserve.
    let hello = Hello::decode(&frames.body(&header).await?)?;
    if !(hello.version_min..=hello.version_max).contains(&PROTOCOL_VERSION) {
        let text = format!(
            "this server speaks protocol version {PROTOCOL_VERSION}, the client {} to {}: use versions that overlap",
            hello.version_min, hello.version_max
        );
        let refusal = Refusal::new(Code::Unsupported, text);
        write_error(&mut send, header.correlation, &refusal).await?;
        last_words(send).await;
        return Err(End::Refused(refusal));
    }
    let answer = HelloOk {
        version: PROTOCOL_VERSION,
        server_id: shared.broker.server_id(),
        server_version: concat!("millstream ", env!("CARGO_PKG_VERSION")).to_owned(),
    };
    write_frame(&mut send, Kind::HelloOk, header.correlation, &answer.encode()).await?;
    Ok(Welcome { hello, send, frames })
}

async fn refuse_before_hello((mut send, mut recv): (SendStream, RecvStream)) {
    let text = "a stream before the hello was answered: wait for the answer";
    let refusal = Refusal::new(Code::ProtocolViolation, text);
    // Whoever is gone need not be told.
    let _ = recv.stop(close_code(refusal.code));
    let _ = write_error(&mut send, 0, &refusal).await;
    last_words(send).await;
}

/// Runs the sessions until the connection or the server ends; says why it ended.
async fn serve(
    connection: &Connection,
    welcome: Welcome,
    shared: &Arc<Shared>,
    sessions: &mut JoinSet<Result<(), Refusal>>,
) -> String {
    let Welcome { hello, send, frames } = welcome;
    let session = Arc::new(Session {
        principal: Principal { name: hello.client_name.into() },
        budget: shared.budget.connection(shared.config.connection_memory_in_hand),
        windows: Windows::default(),
        connection: connection.clone(),
        shared: Arc::clone(shared),
    });
    sessions.spawn(session::control::run(Arc::clone(&session), send, frames));
    loop {
        tokio::select! {
            () = shared.stopping.cancelled() => break,
            stream = connection.accept_bi() => match stream {
                Ok((send, recv)) => {
                    sessions.spawn(open(Arc::clone(&session), send, recv));
                }
                Err(error) => return error.to_string(),
            },
            Some(ended) = sessions.join_next() => if let Err(refusal) = judge(ended, shared) {
                close(connection, shared, &refusal);
                return refusal.text;
            },
        }
    }
    // Each session has been told by the same token, answers what is in hand, and says goodbye on its stream.
    let goodbyes = async { while sessions.join_next().await.is_some() {} };
    let in_time = tokio::time::timeout(shared.config.stop_timeout, goodbyes).await;
    if in_time.is_err() {
        tracing::debug!("a connection did not take its last answers in time");
    }
    close(connection, shared, &shutting_down());
    "the server is stopping".to_owned()
}

/// Runs one further stream.
async fn open(session: Arc<Session>, mut send: SendStream, recv: RecvStream) -> Result<(), Refusal> {
    let mut frames = FrameReader::new(recv, session.shared.config.body_timeout);
    let first = match first_frame(&mut frames).await {
        Ok(Some(first)) => first,
        Ok(None) => return Ok(()),
        Err(end) => return conclude(&session, send, frames, 0, Err(end)).await,
    };
    let ended = match first.kind {
        Kind::OpenProduce => match session::produce::run(&session, send, &mut frames, first).await {
            (Some(taken), ended) => {
                send = taken;
                ended
            }
            // Nobody takes acks any more.
            (None, Err(End::Close(refusal))) => return Err(refusal),
            (None, _) => return Ok(()),
        },
        Kind::OpenConsume => session::consume::run(&session, &mut send, &mut frames, first).await,
        Kind::OpenQueue => session::queue::run(&session, &mut send, &mut frames, first).await,
        found => Err(FrameError::Unexpected { found, expected: "an opening frame" }.into()),
    };
    conclude(&session, send, frames, first.correlation, ended).await
}

/// The first frame's header. A kind without a name here may be a newer client's: an answer, not a closed door.
async fn first_frame(frames: &mut FrameReader) -> Result<Option<FrameHeader>, End> {
    let Some(bytes) = frames.raw_header().await? else { return Ok(None) };
    match FrameHeader::decode(&bytes) {
        Err(FrameError::Unknown { what: "frame kind", value }) => {
            let text = format!("this server knows no stream that begins with frame kind {value}: use a newer server");
            Err(End::Refused(Refusal::new(Code::Unsupported, text)))
        }
        header => Ok(Some(header?)),
    }
}

/// Ends a stream: with an Error frame where it was refused; passes on what must close the connection.
async fn conclude(
    session: &Session,
    mut send: SendStream,
    mut frames: FrameReader,
    correlation: u64,
    ended: Result<(), End>,
) -> Result<(), Refusal> {
    match ended {
        Ok(()) => {}
        Err(End::Gone) => return Ok(()),
        Err(End::Close(refusal)) => return Err(refusal),
        Err(End::Refused(refusal)) => {
            session.shared.metrics.error(refusal.code);
            // Stopped, so that the peer's credit for what it still sends comes back; whoever is gone need not be told.
            frames.stop(refusal.code);
            if write_error(&mut send, correlation, &refusal).await.is_err() {
                return Ok(());
            }
        }
    }
    last_words(send).await;
    Ok(())
}

/// Finishes a stream and waits a little until the peer has all of it.
async fn last_words(mut send: SendStream) {
    if send.finish().is_ok() {
        let _ = tokio::time::timeout(LAST_WORDS, send.stopped()).await;
    }
}

/// Whether a session's end must end the connection.
fn judge(ended: Result<Result<(), Refusal>, JoinError>, shared: &Shared) -> Result<(), Refusal> {
    match ended {
        Ok(ended) => ended,
        Err(error) if error.is_panic() => {
            shared.metrics.panics.add(1);
            tracing::error!(%error, "a session panicked: this is a bug; its connection is closed");
            Err(Refusal::new(Code::Internal, "a bug in the server: its log has the details"))
        }
        Err(_) => Ok(()),
    }
}

fn close(connection: &Connection, shared: &Shared, refusal: &Refusal) {
    if refusal.code == Code::ProtocolViolation {
        shared.metrics.violations.add(1);
    }
    shared.metrics.error(refusal.code);
    let cut = refusal.text.floor_char_boundary(REASON_BYTES_MAX);
    connection.close(close_code(refusal.code), &refusal.text.as_bytes()[..cut]);
}
