//! The control stream: requests, answered in any order by correlation.
//!
//! Up to [`REQUESTS_IN_FLIGHT_MAX`] are worked on at once, each in its own task, so that a flush that waits for a
//! lake keeps nothing else waiting; beyond that the stream is not read. Whatever may wait for a disk runs on a
//! blocking thread. A heartbeat that waits for its group to change is no work: it gives its turn back ([`groups`]).

mod groups;
mod producers;
pub(crate) mod queues;

use std::sync::Arc;
use std::time::Duration;

use millstream_broker::Lake;
use millstream_protocol::frame::control::{LakeColumns, LakeConfig, Message, Request, Response};
use millstream_protocol::frame::{FRAME_HEADER_BYTES, FrameHeader, Kind, Refusal};
use millstream_protocol::{Code, Offset, PartitionId, ProducerId, StreamId};
use quinn::SendStream;
use tokio::sync::{Mutex, OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinSet;

use super::Session;
use crate::authorize::{Action, Resource};
use crate::frame_io::{End, FrameReader, write_error, write_frame};
use crate::quic::connection::LAST_WORDS;
use crate::shared::{blocking, broker_refusal, log_refusal, shutting_down};

/// Requests of one control stream that are worked on at once.
const REQUESTS_IN_FLIGHT_MAX: usize = 256;
/// The longest that a flush, an audit or a retry of a lake's errors may ask to wait; more is cut to it.
const FLUSH_TIMEOUT_MAX: Duration = Duration::from_secs(3_600);

/// Serves the control stream to its end. An error closes the connection.
pub(crate) async fn run(session: Arc<Session>, send: SendStream, mut frames: FrameReader) -> Result<(), Refusal> {
    let send = Arc::new(Mutex::new(send));
    let mut requests = JoinSet::new();
    let in_flight = Arc::new(Semaphore::new(REQUESTS_IN_FLIGHT_MAX));
    let waiting = Arc::new(Semaphore::new(groups::HEARTBEATS_WAITING_MAX));
    let ended = 'serve: loop {
        // Kept across whatever else happens: half a request must not be lost.
        let next = next_request(&session, &mut frames, &in_flight);
        tokio::pin!(next);
        let next = loop {
            tokio::select! {
                () = session.shared.stopping.cancelled() => break 'serve Err(End::Refused(shutting_down())),
                next = &mut next => break next,
                Some(done) = requests.join_next() => if let Err(error) = done && error.is_panic() {
                    std::panic::resume_unwind(error.into_panic());
                },
            }
        };
        match next {
            Ok(Some((header, request, turn))) => {
                let (session, send) = (Arc::clone(&session), Arc::clone(&send));
                let mut turn = Turn { held: Some(turn), in_flight: Arc::clone(&in_flight) };
                let waiting = Arc::clone(&waiting);
                requests.spawn(async move {
                    let answer = match request {
                        Request::HeartbeatGroup(beat) => groups::heartbeat(&session, beat, &mut turn, waiting).await,
                        request => perform(&session, request).await,
                    };
                    session.shared.metrics.requests.add(1);
                    answer_request(&session, &send, header.correlation, answer).await;
                    drop(turn);
                });
            }
            Ok(None) => break Ok(()),
            Err(end) => break Err(end),
        }
    };
    if let Err(End::Close(refusal)) = ended {
        return Err(refusal);
    }
    while requests.join_next().await.is_some() {}
    if let Err(End::Refused(refusal)) = ended {
        let mut send = send.lock().await;
        session.shared.metrics.error(refusal.code);
        if write_error(&mut send, 0, &refusal).await.is_ok() {
            // An error means that the peer has stopped the stream already.
            let _ = send.finish();
            // The connection is closed next, which drops what is not sent yet: the peer gets its answers first.
            let _ = tokio::time::timeout(LAST_WORDS, send.stopped()).await;
        }
    }
    Ok(())
}

/// One of the requests that are worked on at once.
struct Turn {
    held: Option<OwnedSemaphorePermit>,
    in_flight: Arc<Semaphore>,
}

impl Turn {
    /// Lets another request go on meanwhile.
    fn give_back(&mut self) {
        self.held = None;
    }

    /// Waits until it is this request's turn again.
    async fn take_again(&mut self) {
        self.held = Some(next_turn(&self.in_flight).await);
    }
}

async fn next_turn(in_flight: &Arc<Semaphore>) -> OwnedSemaphorePermit {
    Arc::clone(in_flight).acquire_owned().await.expect("the semaphore is never closed")
}

type Next = (FrameHeader, Request, OwnedSemaphorePermit);

/// Waits for a turn, then for a request. Not cancel safe: whoever drops it must not read on.
async fn next_request(
    session: &Session,
    frames: &mut FrameReader,
    in_flight: &Arc<Semaphore>,
) -> Result<Option<Next>, End> {
    let turn = next_turn(in_flight).await;
    let Some(header) = frames.header().await? else { return Ok(None) };
    header.expect(Kind::Request, "a request")?;
    let length = FRAME_HEADER_BYTES + header.body_len as usize;
    let _room = session.budget.reserve(length).await;
    let body = frames.body(&header).await?;
    session.shared.metrics.frame_bytes_in.add(length as u64);
    Ok(Some((header, Request::decode(&body)?, turn)))
}

async fn answer_request(
    session: &Session,
    send: &Mutex<SendStream>,
    correlation: u64,
    answer: Result<Response, Refusal>,
) {
    let answer = answer.map(|response| response.encode()).and_then(|body| {
        let limit = Kind::Response.body_bytes_max();
        let text = format!("the answer of {} bytes is above the limit of {limit}: ask for less at a time", body.len());
        if body.len() <= limit { Ok(body) } else { Err(Refusal::new(Code::Unsupported, text)) }
    });
    let mut send = send.lock().await;
    let written = match answer {
        Ok(body) => write_frame(&mut send, Kind::Response, correlation, &body).await,
        Err(refusal) => {
            session.shared.metrics.error(refusal.code);
            write_error(&mut send, correlation, &refusal).await
        }
    };
    if written.is_err() {
        tracing::debug!("a client left before its answer");
    }
}

async fn perform(session: &Session, request: Request) -> Result<Response, Refusal> {
    let shared = &session.shared;
    let broker = Arc::clone(&shared.broker);
    match request {
        Request::CreateStream { name, partitions, config, mode } => {
            session.authorize(Action::Create, Resource::Stream(&name))?;
            let made =
                blocking(move || broker.create_stream(&name, partitions, config, mode).map(|s| s.info())).await?;
            made.map(Response::Stream).map_err(broker_refusal)
        }
        Request::DeleteStream { name } => {
            session.authorize(Action::Delete, Resource::Stream(&name))?;
            // The catalog refuses it while a lake lands the stream.
            let deleted = blocking(move || broker.delete_stream(&name)).await?;
            deleted.map(|()| Response::Done).map_err(broker_refusal)
        }
        Request::ListStreams => {
            session.authorize(Action::Describe, Resource::Server)?;
            let list = move || broker.streams().iter().map(|stream| stream.summary()).collect();
            blocking(list).await.map(Response::Streams)
        }
        Request::DescribeStream { name } => {
            session.authorize(Action::Describe, Resource::Stream(&name))?;
            let found = blocking(move || broker.stream(&name).map(|stream| stream.info())).await?;
            found.map(Response::Stream).map_err(broker_refusal)
        }
        Request::DeleteBefore { stream, partition, offset } => {
            session.authorize(Action::Alter, Resource::Stream(&stream))?;
            let delete = move || {
                let stream = broker.stream(&stream).map_err(broker_refusal)?;
                let partition = stream.partition(PartitionId(partition)).map_err(broker_refusal)?;
                partition.delete_before(Offset(offset)).map_err(|error| log_refusal(&error))
            };
            blocking(delete).await?.map(|log_start| Response::Offset(log_start.0))
        }
        Request::CreateLake { config } => {
            session.authorize(Action::LakeManage, Resource::Lake(&config.name))?;
            session.authorize(Action::Consume, Resource::Stream(&config.stream))?;
            let shared = Arc::clone(shared);
            to_its_end(async move { shared.lakes.create(config).await }).await.map(Response::Lake)
        }
        Request::RemoveLake { name } => {
            session.authorize(Action::LakeManage, Resource::Lake(&name))?;
            let shared = Arc::clone(shared);
            to_its_end(async move { shared.lakes.remove(&name).await }).await.map(|()| Response::Done)
        }
        Request::DescribeRecovery => {
            session.authorize(Action::Describe, Resource::Server)?;
            Ok(Response::Recovery(broker.recovery().info()))
        }
        Request::ListLakes => {
            session.authorize(Action::Describe, Resource::Server)?;
            // A thousand schemas would not fit into an answer: a lake's status has its own.
            let brief = |lake: Lake| match lake.config.columns {
                LakeColumns::Declared(_) => LakeConfig { columns: LakeColumns::Declared(String::new()), ..lake.config },
                _ => lake.config,
            };
            let list = move || broker.lakes().into_iter().map(brief).collect();
            blocking(list).await.map(Response::Lakes)
        }
        Request::LakeStatus { name } => {
            session.authorize(Action::Describe, Resource::Lake(&name))?;
            shared.lakes.status(&name).map(Response::LakeStatus)
        }
        Request::PreviewLake { config, records } => {
            // It shows the stream's records.
            session.authorize(Action::LakeManage, Resource::Lake(&config.name))?;
            session.authorize(Action::Consume, Resource::Stream(&config.stream))?;
            shared.lakes.preview(config, records).await.map(Response::LakePreview)
        }
        Request::AlterLake { name, schema } => {
            session.authorize(Action::LakeManage, Resource::Lake(&name))?;
            let shared = Arc::clone(shared);
            to_its_end(async move { shared.lakes.alter(&name, schema).await }).await.map(Response::Lake)
        }
        Request::RetryLakeErrors { name, timeout_ms } => {
            session.authorize(Action::LakeManage, Resource::Lake(&name))?;
            let timeout = Duration::from_millis(timeout_ms).min(FLUSH_TIMEOUT_MAX);
            tokio::select! {
                retried = shared.lakes.retry_errors(&name, timeout) => retried.map(Response::LakeRetry),
                () = shared.stopping.cancelled() => Err(shutting_down()),
            }
        }
        Request::AuditLake { name, timeout_ms } => {
            // It reads a whole lake.
            session.authorize(Action::LakeManage, Resource::Lake(&name))?;
            let timeout = Duration::from_millis(timeout_ms).min(FLUSH_TIMEOUT_MAX);
            tokio::select! {
                audited = shared.lakes.audit(&name, timeout) => audited.map(Response::LakeAudit),
                () = shared.stopping.cancelled() => Err(shutting_down()),
            }
        }
        Request::FlushLake { name, timeout_ms } => {
            session.authorize(Action::LakeManage, Resource::Lake(&name))?;
            let timeout = Duration::from_millis(timeout_ms).min(FLUSH_TIMEOUT_MAX);
            tokio::select! {
                flushed = shared.lakes.flush(&name, timeout) => flushed.map(Response::LakeStatus),
                () = shared.stopping.cancelled() => Err(shutting_down()),
            }
        }
        Request::InitProducer { name } => producers::init(session, name).await,
        Request::BumpProducer { id, epoch, stream } => {
            producers::bump(session, (ProducerId(id), epoch), StreamId(stream)).await
        }
        Request::CreateQueue { .. }
        | Request::UpdateQueue { .. }
        | Request::DeleteQueue { .. }
        | Request::ListQueues
        | Request::DescribeQueue { .. }
        | Request::PurgeQueue { .. }
        | Request::SeekQueue { .. }
        | Request::PauseQueue { .. }
        | Request::PeekQueue { .. }
        | Request::UnparkQueue { .. }
        | Request::RedriveQueue { .. }
        | Request::DescribeRedrive { .. }
        | Request::CancelRedrive { .. } => queues::perform(session, request).await,
        request => groups::perform(session, request).await,
    }
}

/// Runs a change of several steps to its end, even if the client leaves meanwhile.
async fn to_its_end<T: Send + 'static>(
    change: impl Future<Output = Result<T, Refusal>> + Send + 'static,
) -> Result<T, Refusal> {
    match tokio::spawn(change).await {
        Ok(done) => done,
        Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
        Err(_) => Err(shutting_down()),
    }
}
