//! Who asks again and again how the queues stand, and waits for them to be empty.

use std::time::Duration;

use millstream_check::history::{InQueue, OfQueue, Place, Recorder, What};
use millstream_client::{Client, Code, QueueInfo};
use tokio::sync::watch;
use tokio::time::Instant;

use super::plan::Plan;
use crate::failure::Failure;
use crate::load::PATIENCE;

const ASK_EVERY: Duration = Duration::from_millis(250);

/// Asks until the queues hold nothing any more once it has been told that nothing is sent.
pub struct Watcher {
    pub client: Client,
    pub queues: Vec<Plan>,
    pub recorder: Recorder,
    /// Nothing is sent any more, and nobody dies.
    pub quiet: watch::Receiver<bool>,
    /// How long they may take to become empty then.
    pub patience: Duration,
}

impl Watcher {
    /// The last state of each queue is on record when it ends.
    pub async fn run(mut self) -> Result<(), Failure> {
        let mut quiet_since = None;
        loop {
            if *self.quiet.borrow() {
                quiet_since.get_or_insert_with(Instant::now);
            }
            let mut held = Vec::new();
            for number in 0..self.queues.len() {
                match self.ask(number).await? {
                    Some(0) => {}
                    found => held.push((self.queues[number].name, found)),
                }
            }
            if let Some(since) = quiet_since {
                if held.is_empty() {
                    break;
                }
                if since.elapsed() > self.patience {
                    let (held, patience) = (format!("{held:?}"), self.patience);
                    return Err(Failure::run(format!("queues hold messages after {patience:?} of quiet: {held}")));
                }
            }
            tokio::time::sleep(ASK_EVERY).await;
        }
        self.recorder.finish()?;
        Ok(())
    }

    /// How many messages a queue holds, if there is an answer.
    async fn ask(&mut self, number: usize) -> Result<Option<u64>, Failure> {
        let name = self.queues[number].name;
        let invoked_ns = self.recorder.clock().now_ns();
        let info = match tokio::time::timeout(PATIENCE, self.client.describe_queue(name)).await {
            Ok(Ok(info)) => info,
            // It is not there before it is made; the server is away now and then.
            Ok(Err(error)) if error.is_retryable() || error.code() == Code::UnknownQueue => return Ok(None),
            Ok(Err(error)) => return Err(Failure::run(format!("the queue {name:?} cannot be described: {error}"))),
            Err(_) => return Err(Failure::run(format!("the queue {name:?} cannot be described: no answer came"))),
        };
        Ok(Some(self.tell(number as u32, invoked_ns, &info)?))
    }

    fn tell(&mut self, queue: u32, invoked_ns: u64, info: &QueueInfo) -> Result<u64, Failure> {
        let mut tell = |what| self.recorder.record(What::Queue(OfQueue { queue, receiver: 0, what }));
        for partition in &info.partitions {
            if !partition.error.is_empty() {
                let (name, at, error) = (&info.name, partition.partition, &partition.error);
                return Err(Failure::run(format!("the queue {name:?} stands still on partition {at}: {error}")));
            }
            let at = Place { stream: 0, partition: partition.partition };
            tell(InQueue::Floor { at, floor: partition.floor, invoked_ns });
        }
        let counts = info.total;
        tell(InQueue::State {
            invoked_ns,
            available: counts.available,
            in_flight: counts.in_flight,
            delayed: counts.delayed,
            dying: counts.dying,
            unread: counts.waiting,
            dead: counts.dead,
        });
        Ok(counts.available + counts.in_flight + counts.delayed + counts.dying + counts.waiting)
    }
}
