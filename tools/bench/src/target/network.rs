//! Over the network, through the public client.

use std::sync::atomic::{AtomicUsize, Ordering};

use millstream_client::{
    Client, Code, Consumer, Delivery, GroupConsumer, GroupEvent, Message, Messages, PartitionId, Producer, Record,
    Settling, Start,
};

use super::flags::TargetFlags;
use super::{From, StreamFacts, Target, queue_settings};
use crate::clock::{RunClock, nanos};
use crate::drive::{Item, Job, Jobs, Reader, Sender, Sent};
use crate::failure::Failure;
use crate::load::Load;
use crate::stamp::STAMP_HEADER;

/// More parties than this share connections, unless they are told how many: a server takes 256 from one address.
const CONNECTIONS_DEFAULT_MAX: u32 = 200;

/// Connections to a server, handed out one after the other.
pub struct Network {
    clients: Vec<Client>,
    next: AtomicUsize,
}

impl Network {
    /// As many connections as the load asks for, or one for each who needs one.
    pub async fn connect(target: &TargetFlags, load: &Load) -> Result<Self, Failure> {
        let readers = load.subscribers * load.consumers + load.members + load.queues * load.workers;
        let count = match load.connections {
            0 => (load.producers + readers).clamp(1, CONNECTIONS_DEFAULT_MAX),
            count => count,
        };
        let mut clients = Vec::with_capacity(count as usize);
        for _ in 0..count {
            clients.push(target.connect().await?);
        }
        Ok(Self { clients, next: AtomicUsize::new(0) })
    }

    fn next(&self) -> &Client {
        &self.clients[self.next.fetch_add(1, Ordering::Relaxed) % self.clients.len()]
    }
}

impl Target for Network {
    type Sender = NetworkSender;
    type Reader = NetworkReader;
    type Member = NetworkMember;
    type Jobs = NetworkJobs;

    async fn look(&self, stream: &str) -> Result<Option<StreamFacts>, Failure> {
        let info = match self.clients[0].describe_stream(stream).await {
            Ok(info) => info,
            Err(error) if error.code() == Code::UnknownStream => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        Ok(Some(StreamFacts {
            partitions: info.partitions.len() as u32,
            records: info.partitions.iter().map(|partition| partition.high_watermark - partition.log_start).sum(),
            is_whole: info.partitions.iter().all(|partition| partition.log_start == 0),
        }))
    }

    async fn make_stream(&self, stream: &str, load: &Load) -> Result<(), Failure> {
        self.clients[0].create_stream(stream, load.partitions(), load.stream_config()).await?;
        Ok(())
    }

    async fn delete_stream(&self, stream: &str) -> Result<(), Failure> {
        Ok(self.clients[0].delete_stream(stream).await?)
    }

    async fn make_queue(
        &self,
        queue: &str,
        stream: &str,
        from: From,
        dead_letter: Option<&str>,
    ) -> Result<(), Failure> {
        let (config, start) = queue_settings(from, dead_letter);
        self.clients[0].create_queue(queue, stream, config, start).await?;
        Ok(())
    }

    async fn delete_queue(&self, queue: &str) -> Result<(), Failure> {
        Ok(self.clients[0].delete_queue(queue).await?)
    }

    async fn sender(&self, stream: &str, load: &Load) -> Result<NetworkSender, Failure> {
        let mut builder = self.next().producer(stream).compression(load.compression.into());
        if let Some(bytes) = load.batch_size {
            builder = builder.batch_bytes(usize::try_from(bytes).unwrap_or(usize::MAX));
        }
        if let Some(batches) = load.in_flight {
            builder = builder.max_in_flight(batches);
        }
        match load.linger {
            Some(linger) => builder = builder.linger(linger.get()),
            // A lone record has nobody to wait for.
            None if load.one_at_a_time => builder = builder.linger(std::time::Duration::ZERO),
            None => {}
        }
        Ok(NetworkSender(builder.build().await?))
    }

    async fn reader(&self, stream: &str, partitions: Vec<u32>, from: From) -> Result<NetworkReader, Failure> {
        let builder = self.next().consumer(stream).partitions(partitions.into_iter().map(PartitionId));
        let builder = match from {
            From::Now => builder.start(Start::Latest).follow(),
            From::Earliest => builder.start(Start::Earliest).follow(),
            From::Whole => builder.start(Start::Earliest).bounded(),
        };
        Ok(NetworkReader(builder.build().await?))
    }

    async fn member(&self, stream: &str, group: &str) -> Result<NetworkMember, Failure> {
        let consumer = self.next().group(group).stream(stream).build().await?;
        Ok(NetworkMember(consumer))
    }

    async fn jobs(&self, queue: &str, load: &Load) -> Result<NetworkJobs, Failure> {
        Ok(NetworkJobs(self.next().queue(queue).messages().window(load.window).open().await?))
    }

    fn client(&self) -> Result<&Client, Failure> {
        Ok(&self.clients[0])
    }

    async fn close(self) {
        for client in self.clients {
            client.close().await;
        }
    }
}

/// A producer.
pub struct NetworkSender(Producer);

impl Sender for NetworkSender {
    type Ticket = Delivery;

    async fn send(&mut self, record: Record) -> Result<Delivery, Failure> {
        Ok(self.0.enqueue(record).await?)
    }

    async fn idle(&mut self) -> Result<(), Failure> {
        // The linger is the client's.
        Ok(())
    }

    async fn finish(self) -> Result<Sent, Failure> {
        let flushed = self.0.flush().await;
        let stats = self.0.stats();
        flushed?;
        self.0.close().await?;
        Ok(Sent { batches: stats.batches_acked, batches_resent: stats.batches_resent, batch_bytes: stats.bytes_sent })
    }

    async fn acked(delivery: Delivery, clock: RunClock) -> Result<u64, Failure> {
        let enqueued_at = delivery.enqueued_at();
        let receipt = delivery.await?;
        Ok(clock.at(enqueued_at) + nanos(receipt.latency))
    }
}

/// A consumer.
pub struct NetworkReader(Consumer);

impl Reader for NetworkReader {
    async fn next(&mut self) -> Option<Result<Item, Failure>> {
        let batch = self.0.next_batch().await?;
        Some(batch.map(Item::Batch).map_err(Failure::from))
    }

    async fn close(self) -> Result<(), Failure> {
        Ok(())
    }
}

/// A group's member.
pub struct NetworkMember(GroupConsumer);

impl Reader for NetworkMember {
    async fn next(&mut self) -> Option<Result<Item, Failure>> {
        loop {
            return Some(match self.0.next_batch().await? {
                Ok(GroupEvent::Batch(batch)) => Ok(Item::Batch(batch.batch)),
                Ok(GroupEvent::Revoking(_) | GroupEvent::Lost(_)) => Ok(Item::Moved),
                Ok(_) => continue,
                Err(error) => Err(error.into()),
            });
        }
    }

    async fn close(self) -> Result<(), Failure> {
        Ok(self.0.close().await?)
    }
}

/// A queue's messages.
pub struct NetworkJobs(Messages);

impl Jobs for NetworkJobs {
    type Handle = Message;
    type Answer = Settling;

    async fn next(&mut self) -> Option<Result<(Job, Message), Failure>> {
        // Those that are there need no turn of the runtime.
        let next = match self.0.try_next() {
            Some(next) => next,
            None => self.0.next().await?,
        };
        Some(next.map(|message| (job(&message), message)).map_err(Failure::from))
    }

    fn ack(&mut self, message: Message) -> Settling {
        message.ack()
    }

    async fn settled(answer: Settling) -> Result<(), Failure> {
        answer.await?;
        Ok(())
    }

    async fn close(self) -> Result<(), Failure> {
        Ok(self.0.close().await?)
    }
}

fn job(message: &Message) -> Job {
    let record = message.record();
    Job {
        value: record.value.clone().unwrap_or_default(),
        stamp: record.headers.iter().find(|header| header.name == STAMP_HEADER).and_then(|header| header.value.clone()),
        key: record.key.clone(),
        timestamp: record.timestamp.0,
        partition: message.partition().0,
        offset: message.offset().0,
        receives: message.receive_count(),
    }
}
