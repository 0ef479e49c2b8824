//! Producers: a number for a new one, a higher epoch for one that has lost its place.

use std::sync::Arc;

use millstream_protocol::frame::Refusal;
use millstream_protocol::frame::control::Response;
use millstream_protocol::{ProducerId, StreamId};

use crate::authorize::{Action, Resource};
use crate::session::Session;
use crate::shared::{blocking, broker_refusal};

/// The epoch of a new producer.
const FIRST_EPOCH: u32 = 0;

/// Gives a producer its number; fences the one that had the name before.
pub(super) async fn init(session: &Session, name: Option<String>) -> Result<Response, Refusal> {
    session.authorize(Action::Produce, Resource::Server)?;
    let broker = Arc::clone(&session.shared.broker);
    let id = blocking(move || broker.init_producer(name.as_deref())).await?.map_err(broker_refusal)?;
    session.shared.metrics.producers.add(1);
    Ok(Response::Producer { id: id.0, epoch: FIRST_EPOCH })
}

/// Raises a producer's epoch, and says where it goes on in a stream.
pub(super) async fn bump(
    session: &Session,
    (id, epoch): (ProducerId, u32),
    stream: StreamId,
) -> Result<Response, Refusal> {
    let broker = Arc::clone(&session.shared.broker);
    let name = broker.stream_by_id(stream).map_err(broker_refusal)?.name.clone();
    session.authorize(Action::Produce, Resource::Stream(&name))?;
    let bumped = blocking(move || broker.bump_producer(id, epoch, stream)).await?.map_err(broker_refusal)?;
    session.shared.metrics.producers_bumped.add(1);
    let (epoch, partitions) = bumped;
    Ok(Response::ProducerBumped { epoch, partitions })
}
