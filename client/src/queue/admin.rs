//! Making, changing and watching queues.

use millstream_protocol::frame::control::{Request, Response};
use millstream_protocol::frame::queue::{
    PeekedMessage, QueueConfig, QueueInfo, QueueStart, QueueSummary, RedriveInfo, RedriveOptions,
};
use millstream_protocol::{Offset, PartitionId};

use crate::admin::{Repeat, expected};
use crate::client::Client;
use crate::error::{Error, Result};

impl Client {
    /// Makes a queue on a stream: it misses nothing from where it begins on.
    ///
    /// # Errors
    /// [`UnknownStream`](crate::Code::UnknownStream), [`QueueExists`](crate::Code::QueueExists),
    /// [`IllegalName`](crate::Code::IllegalName), [`IllegalSetting`](crate::Code::IllegalSetting),
    /// [`FilterInvalid`](crate::Code::FilterInvalid) with the place, [`DeadLetterCycle`](crate::Code::DeadLetterCycle);
    /// [`ConnectionLost`](crate::Code::ConnectionLost): it may have been made.
    pub async fn create_queue(
        &self,
        name: &str,
        stream: &str,
        config: QueueConfig,
        start: QueueStart,
    ) -> Result<QueueInfo> {
        let (name, stream) = (name.to_owned(), stream.to_owned());
        let request = Request::CreateQueue { name, stream, config, start };
        expected!(self.request(request, Repeat::Never).await?, Response::Queue(info) => info)
    }

    /// Gives a queue other settings; nothing acts back: `rule_from` in the answer says from which offsets on another filter
    /// or delay holds.
    ///
    /// # Errors
    /// As [`create_queue`](Self::create_queue); [`UnknownQueue`](crate::Code::UnknownQueue).
    pub async fn update_queue(&self, name: &str, config: QueueConfig) -> Result<QueueInfo> {
        let request = Request::UpdateQueue { name: name.to_owned(), config };
        expected!(self.request(request, Repeat::Harmless).await?, Response::Queue(info) => info)
    }

    /// Deletes a queue; its stream stays as it is.
    ///
    /// # Errors
    /// [`UnknownQueue`](crate::Code::UnknownQueue); [`ConnectionLost`](crate::Code::ConnectionLost): it may have been deleted.
    pub async fn delete_queue(&self, name: &str) -> Result<()> {
        let request = Request::DeleteQueue { name: name.to_owned() };
        expected!(self.request(request, Repeat::Never).await?, Response::Done => ())
    }

    /// All queues, by name.
    ///
    /// # Errors
    /// Those of the connection.
    pub async fn list_queues(&self) -> Result<Vec<QueueSummary>> {
        expected!(self.request(Request::ListQueues, Repeat::Harmless).await?, Response::Queues(queues) => queues)
    }

    /// One queue, and how it stands.
    ///
    /// # Errors
    /// [`UnknownQueue`](crate::Code::UnknownQueue).
    pub async fn describe_queue(&self, name: &str) -> Result<QueueInfo> {
        let request = Request::DescribeQueue { name: name.to_owned() };
        expected!(self.request(request, Repeat::Harmless).await?, Response::Queue(info) => info)
    }

    /// Settles all that a queue holds now, in flight and delayed too; gives how many messages.
    ///
    /// # Errors
    /// [`UnknownQueue`](crate::Code::UnknownQueue); [`ConnectionLost`](crate::Code::ConnectionLost): it may have been purged.
    pub async fn purge_queue(&self, name: &str) -> Result<u64> {
        let request = Request::PurgeQueue { name: name.to_owned() };
        expected!(self.request(request, Repeat::Never).await?, Response::Count(count) => count)
    }

    /// A queue begins anew elsewhere: leases end, what lies above is delivered (again).
    ///
    /// # Errors
    /// [`UnknownQueue`](crate::Code::UnknownQueue), [`OffsetOutOfRange`](crate::Code::OffsetOutOfRange);
    /// [`ConnectionLost`](crate::Code::ConnectionLost): it may have begun anew.
    pub async fn seek_queue(&self, name: &str, to: QueueStart) -> Result<QueueInfo> {
        let request = Request::SeekQueue { name: name.to_owned(), to };
        expected!(self.request(request, Repeat::Never).await?, Response::Queue(info) => info)
    }

    /// Stops a queue's deliveries (acks, extensions and deadlines go on), or lets them go on.
    ///
    /// # Errors
    /// [`UnknownQueue`](crate::Code::UnknownQueue).
    pub async fn pause_queue(&self, name: &str, is_paused: bool) -> Result<()> {
        let request = Request::PauseQueue { name: name.to_owned(), is_paused };
        expected!(self.request(request, Repeat::Harmless).await?, Response::Done => ())
    }

    /// Shows up to `max` (1 to 100) unsettled messages of a queue and changes nothing: no lease, no count. Fewer come if they
    /// are large.
    ///
    /// # Errors
    /// [`UnknownQueue`](crate::Code::UnknownQueue), [`IllegalSetting`](crate::Code::IllegalSetting).
    pub async fn peek_queue(
        &self,
        name: &str,
        partition: Option<PartitionId>,
        from: Option<Offset>,
        max: u32,
        only_parked: bool,
    ) -> Result<Vec<PeekedMessage>> {
        let partition = partition.map(|partition| partition.0);
        let from = from.map(|from| from.0);
        let request = Request::PeekQueue { name: name.to_owned(), partition, from, max, only_parked };
        expected!(self.request(request, Repeat::Harmless).await?, Response::Peeked(messages) => messages)
    }

    /// Lets a parked message be tried again from the first (`retry`), or sends it to the dead letters; its group goes on. Gives
    /// how many messages it was: 0 if none stands parked there.
    ///
    /// # Errors
    /// [`UnknownQueue`](crate::Code::UnknownQueue), [`NoDeadLetter`](crate::Code::NoDeadLetter).
    pub async fn unpark_message(&self, name: &str, partition: PartitionId, offset: Offset, retry: bool) -> Result<u64> {
        let (name, partition) = (name.to_owned(), partition.0);
        let request = Request::UnparkQueue { name, partition, offset: Some(offset.0), key: None, retry };
        expected!(self.request(request, Repeat::Never).await?, Response::Count(count) => count)
    }

    /// The same for all of a group that stand parked.
    ///
    /// # Errors
    /// As [`unpark_message`](Self::unpark_message).
    pub async fn unpark_group(&self, name: &str, partition: PartitionId, key: Vec<u8>, retry: bool) -> Result<u64> {
        let (name, partition) = (name.to_owned(), partition.0);
        let request = Request::UnparkQueue { name, partition, offset: None, key: Some(key), retry };
        expected!(self.request(request, Repeat::Never).await?, Response::Count(count) => count)
    }

    /// Brings a queue's dead messages back, those that lie in the dead-letter stream now. The task goes on by itself, over
    /// restarts of the server; [`describe_redrive`](Self::describe_redrive) tells how far it is.
    ///
    /// # Errors
    /// [`UnknownQueue`](crate::Code::UnknownQueue), [`NoDeadLetter`](crate::Code::NoDeadLetter),
    /// [`FilterInvalid`](crate::Code::FilterInvalid), [`UnknownStream`](crate::Code::UnknownStream),
    /// [`IllegalSetting`](crate::Code::IllegalSetting): one of this queue runs already, among others.
    pub async fn redrive_queue(&self, name: &str, options: RedriveOptions) -> Result<RedriveInfo> {
        let request = Request::RedriveQueue { name: name.to_owned(), options };
        let answer = self.request(request, Repeat::Never).await?;
        expected!(answer, Response::Redrive(Some(info)) => info)
    }

    /// How a queue's newest redrive stands; `None` if there was none.
    ///
    /// # Errors
    /// [`UnknownQueue`](crate::Code::UnknownQueue).
    pub async fn describe_redrive(&self, name: &str) -> Result<Option<RedriveInfo>> {
        let request = Request::DescribeRedrive { name: name.to_owned() };
        expected!(self.request(request, Repeat::Harmless).await?, Response::Redrive(info) => info)
    }

    /// Ends a queue's redrive where it stands; what came back stays.
    ///
    /// # Errors
    /// [`UnknownQueue`](crate::Code::UnknownQueue).
    pub async fn cancel_redrive(&self, name: &str) -> Result<Option<RedriveInfo>> {
        let request = Request::CancelRedrive { name: name.to_owned() };
        expected!(self.request(request, Repeat::Harmless).await?, Response::Redrive(info) => info)
    }
}
