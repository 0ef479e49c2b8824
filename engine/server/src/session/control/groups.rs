//! Consumer groups' requests.
//!
//! A heartbeat waits until there is something to tell, for a third of its session at most. Those that wait are not among
//! the requests that are worked on: a connection may carry a thousand members, and its other requests still pass.
//! Beyond [`HEARTBEATS_WAITING_MAX`] a heartbeat is answered at once. The end of the connection drops what waits.

use std::sync::Arc;

use millstream_broker::Heartbeat;
use millstream_protocol::Code;
use millstream_protocol::frame::Refusal;
use millstream_protocol::frame::control::{Request, Response};
use millstream_protocol::frame::group::{GroupHeartbeat, StreamPartition};
use tokio::sync::Semaphore;

use super::{Session, Turn};
use crate::authorize::{Action, Resource};
use crate::shared::{blocking, broker_refusal, shutting_down};

/// Heartbeats of one connection that wait at once.
pub(super) const HEARTBEATS_WAITING_MAX: usize = 1_024;

pub(super) async fn heartbeat(
    session: &Session,
    beat: GroupHeartbeat,
    turn: &mut Turn,
    waiting: Arc<Semaphore>,
) -> Result<Response, Refusal> {
    session.authorize(Action::Consume, Resource::Group(&beat.group))?;
    let shared = &session.shared;
    if let Heartbeat::Waits { listener, at_most, answer } = shared.broker.heartbeat_group(&beat) {
        let Ok(place) = waiting.try_acquire_owned() else { return Ok(Response::Membership(answer)) };
        turn.give_back();
        tokio::select! {
            () = listener => {}
            () = tokio::time::sleep(at_most) => return Ok(Response::Membership(answer)),
            () = shared.stopping.cancelled() => return Err(shutting_down()),
        }
        drop(place);
        turn.take_again().await;
    }
    let broker = Arc::clone(&shared.broker);
    let answer = blocking(move || broker.answer_heartbeat(&beat)).await?;
    answer.map(Response::Membership).map_err(broker_refusal)
}

pub(super) async fn perform(session: &Session, request: Request) -> Result<Response, Refusal> {
    let broker = Arc::clone(&session.shared.broker);
    let answer = match request {
        Request::JoinGroup(join) => {
            session.authorize(Action::Consume, Resource::Group(&join.group))?;
            for stream in &join.streams {
                session.authorize(Action::Consume, Resource::Stream(stream))?;
            }
            blocking(move || broker.join_group(&join).map(Response::Membership)).await?
        }
        Request::LeaveGroup { group, member, for_good } => {
            session.authorize(Action::Consume, Resource::Group(&group))?;
            blocking(move || broker.leave_group(&group, member, for_good).map(|()| Response::Done)).await?
        }
        Request::CommitOffsets { group, member, commits } => {
            let partitions: Vec<StreamPartition> = commits.iter().map(|commit| commit.at).collect();
            authorize_offsets(session, &group, &partitions)?;
            blocking(move || broker.commit_offsets(&group, member, &commits).map(Response::Committed)).await?
        }
        Request::FetchOffsets { group, partitions } => {
            authorize_offsets(session, &group, &partitions)?;
            blocking(move || broker.fetch_offsets(&group, &partitions).map(Response::Offsets)).await?
        }
        Request::ListGroups => {
            session.authorize(Action::Describe, Resource::Server)?;
            blocking(move || broker.list_groups().map(Response::Groups)).await?
        }
        Request::DescribeGroup { name } => {
            session.authorize(Action::Describe, Resource::Group(&name))?;
            blocking(move || broker.describe_group(&name).map(Response::Group)).await?
        }
        Request::ResetGroup(reset) => {
            session.authorize(Action::Alter, Resource::Group(&reset.group))?;
            session.authorize(Action::Consume, Resource::Stream(&reset.stream))?;
            blocking(move || broker.reset_group(&reset).map(Response::Offsets)).await?
        }
        Request::DeleteGroup { name } => {
            session.authorize(Action::Delete, Resource::Group(&name))?;
            blocking(move || broker.delete_group(&name).map(|()| Response::Done)).await?
        }
        Request::DeleteOffsets { group, stream, partitions } => {
            session.authorize(Action::Alter, Resource::Group(&group))?;
            session.authorize(Action::Consume, Resource::Stream(&stream))?;
            blocking(move || broker.delete_offsets(&group, &stream, &partitions).map(|()| Response::Done)).await?
        }
        _ => return Err(Refusal::new(Code::Unsupported, "this server does not know the request: use a newer server")),
    };
    answer.map_err(broker_refusal)
}

fn authorize_offsets(session: &Session, group: &str, partitions: &[StreamPartition]) -> Result<(), Refusal> {
    session.authorize(Action::Consume, Resource::Group(group))?;
    // A stream that is not there has no name to ask about, and nothing to give away.
    let streams = session.shared.broker.stream_names(partitions);
    streams.iter().try_for_each(|stream| session.authorize(Action::Consume, Resource::Stream(stream)))
}
