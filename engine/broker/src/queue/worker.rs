//! The threads that run the queues: each queue belongs to one of them, so that nothing of it needs a lock.
//!
//! A worker takes what waits in its channel, lets the machines of the queues it concerns decide, hands their events to the
//! lanes, and sends deliveries; what must be durable first is answered when the lanes say so. It reads records from the
//! log itself: they are in the page cache as a rule, and no async task waits for it.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender};
use millstream_log::{Appended, LogError, Stopwatch};
use millstream_protocol::{PartitionId, QueueId};

use super::part::Snapshot;
use super::running::Queue;
use super::settings::Now;
use super::{Adopted, Adoption, ParkedAt, Peeked, Pulling, QueueState, Receiving, Unpark, Verb, VerbResult};
use crate::catalog::QueueEntry;

/// Commands taken in one go, before anything is sent.
const COMMANDS_AT_ONCE: usize = 4_096;
/// How often a queue goes on looking for a receiver that does not wait.
const LOOKS_MAX: u32 = 64;

pub(super) type VerbReply = Box<dyn FnOnce(Vec<VerbResult>) + Send>;
pub(super) type AdoptReply = Box<dyn FnOnce(Result<Vec<Adoption>, LogError>) + Send>;

/// What is to be shown.
pub(crate) struct PeekWhat {
    pub partition: Option<u32>,
    pub from: u64,
    pub max: usize,
    pub only_parked: bool,
}

pub(super) type Lot = Vec<(u64, Result<Appended, LogError>)>;

/// What a worker is told.
pub(crate) enum Command {
    Open {
        queue: Box<Queue>,
    },
    Update {
        entry: Arc<QueueEntry>,
    },
    /// The queue was deleted: its receivers hear so. Answered once nothing of it is in hand.
    Close {
        queue: QueueId,
        done: Sender<()>,
    },
    Attach {
        queue: QueueId,
        receiving: Receiving,
        visibility_ms: u64,
        reply: Sender<u32>,
    },
    Pull {
        queue: QueueId,
        receiver: u32,
        pulling: Pulling,
    },
    EndPull {
        queue: QueueId,
        receiver: u32,
        number: u64,
    },
    Ready {
        queue: QueueId,
        receiver: u32,
    },
    Window {
        queue: QueueId,
        receiver: u32,
        window: u32,
    },
    Detach {
        queue: QueueId,
        receiver: u32,
    },
    Verbs {
        queue: QueueId,
        verbs: Vec<Verb>,
        reply: VerbReply,
    },
    Peek {
        queue: QueueId,
        what: PeekWhat,
        reply: Sender<Result<Vec<Peeked>, LogError>>,
    },
    Unpark {
        queue: QueueId,
        partition: u32,
        which: ParkedAt,
        how: Unpark,
        reply: VerbReply,
    },
    Adopt {
        queue: QueueId,
        partition: u32,
        letters: Vec<(u64, Adopted)>,
        reply: AdoptReply,
    },
    Describe {
        queue: QueueId,
        reply: Sender<QueueState>,
    },
    Changed {
        queue: QueueId,
        partition: u32,
    },
    Stored {
        queue: QueueId,
        partition: u32,
        results: Lot,
    },
    Moved {
        queue: QueueId,
        partition: u32,
        results: Lot,
    },
    Stop,
}

/// What a worker tells the time by.
pub(super) struct Clocks {
    started: Stopwatch,
    wall: Box<dyn Fn() -> i64 + Send>,
}

impl Clocks {
    pub fn new(wall: Box<dyn Fn() -> i64 + Send>) -> Self {
        Self { started: Stopwatch::start(), wall }
    }

    pub fn now(&self) -> Now {
        let mono_ms = self.started.elapsed().as_millis() as u64;
        Now { mono_ms, wall_ms: u64::try_from((self.wall)()).unwrap_or(0) }
    }
}

pub(super) struct Worker {
    pub commands: Receiver<Command>,
    pub snapshots: Sender<Snapshot>,
    pub clocks: Clocks,
    pub queues: HashMap<QueueId, Queue>,
    /// When each queue next wants to be looked at, by the monotonic clock.
    pub wakes: BTreeSet<(u64, QueueId)>,
    pub next_wake: HashMap<QueueId, u64>,
}

impl Worker {
    pub fn run(mut self) {
        loop {
            let first = match self.wait_ms() {
                None => self.commands.recv().map_err(|_| RecvTimeoutError::Disconnected),
                Some(ms) => self.commands.recv_timeout(Duration::from_millis(ms)),
            };
            let mut touched = BTreeSet::new();
            match first {
                Err(RecvTimeoutError::Disconnected) => return,
                Err(RecvTimeoutError::Timeout) => {}
                Ok(first) => {
                    let more: Vec<Command> = self.commands.try_iter().take(COMMANDS_AT_ONCE).collect();
                    for command in std::iter::once(first).chain(more) {
                        if matches!(command, Command::Stop) {
                            self.stop();
                            return;
                        }
                        touched.extend(self.take(command));
                    }
                }
            }
            let now = self.clocks.now();
            while let Some(&(due, queue)) = self.wakes.first()
                && due <= now.mono_ms
            {
                self.wakes.remove(&(due, queue));
                self.next_wake.remove(&queue);
                touched.insert(queue);
            }
            for id in touched {
                self.pump(id);
            }
        }
    }

    fn wait_ms(&self) -> Option<u64> {
        self.wakes.first().map(|(due, _)| due.saturating_sub(self.clocks.now().mono_ms))
    }

    fn take(&mut self, command: Command) -> Option<QueueId> {
        let now = self.clocks.now();
        let id = match command {
            Command::Open { queue } => {
                let id = queue.id();
                self.queues.insert(id, *queue);
                id
            }
            Command::Update { entry } => {
                let id = entry.id();
                self.queues.get_mut(&id)?.update(entry, now);
                id
            }
            Command::Close { queue, done } => {
                if let Some(closed) = self.queues.remove(&queue) {
                    closed.end();
                }
                let _ = done.send(());
                return None;
            }
            Command::Attach { queue, receiving, visibility_ms, reply } => {
                match self.queues.get_mut(&queue) {
                    Some(found) => drop(reply.send(found.attach(receiving, visibility_ms, now))),
                    None => receiving.outlet.ended(),
                }
                queue
            }
            Command::Pull { queue, receiver, pulling } => {
                self.queues.get_mut(&queue)?.pull(receiver, pulling, now);
                queue
            }
            Command::EndPull { queue, receiver, number } => {
                // What is at hand comes even to who does not wait: what the filter passes over is no reason to come empty.
                let mut looks = 0;
                while self.pump(queue) && looks < LOOKS_MAX {
                    looks += 1;
                }
                if let Some((outlet, at_limit)) = self.queues.get_mut(&queue)?.receivers.end_pull(receiver, number) {
                    outlet.pulled(number, 0, at_limit);
                }
                return None;
            }
            Command::Ready { queue, receiver } => {
                self.queues.get_mut(&queue)?.receivers.ready(receiver);
                queue
            }
            Command::Window { queue, receiver, window } => {
                self.queues.get_mut(&queue)?.receivers.set_window(receiver, window);
                queue
            }
            Command::Detach { queue, receiver } => {
                self.queues.get_mut(&queue)?.detach(receiver, now);
                queue
            }
            Command::Verbs { queue, verbs, reply } => {
                match self.queues.get_mut(&queue) {
                    Some(found) => found.verbs(verbs, reply, now),
                    None => reply(vec![VerbResult::QueueDeleted; verbs.len()]),
                }
                queue
            }
            Command::Peek { queue, what, reply } => {
                let _ = reply.send(self.queues.get_mut(&queue)?.peek(&what, now));
                return None;
            }
            Command::Unpark { queue, partition, which, how, reply } => {
                self.queues.get_mut(&queue)?.unpark(partition, &which, how, reply, now);
                queue
            }
            Command::Adopt { queue, partition, letters, reply } => {
                self.queues.get_mut(&queue)?.adopt(partition, &letters, reply, now);
                queue
            }
            Command::Describe { queue, reply } => {
                // Who asked for a queue that is gone sees the channel close.
                let _ = reply.send(self.queues.get_mut(&queue)?.describe(now));
                return None;
            }
            Command::Changed { queue, partition } => {
                self.queues.get_mut(&queue)?.changed(PartitionId(partition));
                queue
            }
            Command::Stored { queue, partition, results } => {
                let snapshots = self.queues.get_mut(&queue)?.stored(PartitionId(partition), results, now);
                // The thread that stores them ends with the worker.
                snapshots.into_iter().for_each(|snapshot| drop(self.snapshots.send(snapshot)));
                queue
            }
            Command::Moved { queue, partition, results } => {
                self.queues.get_mut(&queue)?.moved(PartitionId(partition), results, now);
                queue
            }
            Command::Stop => return None,
        };
        Some(id)
    }

    /// Lets a queue do what there is to do; whether there is more.
    fn pump(&mut self, id: QueueId) -> bool {
        let now = self.clocks.now();
        let Some(queue) = self.queues.get_mut(&id) else { return false };
        let again = queue.pump(now);
        let due = if again { Some(now.mono_ms) } else { queue.wake_in_ms(now).map(|ms| now.mono_ms + ms.max(1)) };
        if let Some(before) = self.next_wake.remove(&id) {
            self.wakes.remove(&(before, id));
        }
        if let Some(due) = due {
            self.wakes.insert((due, id));
            self.next_wake.insert(id, due);
        }
        again
    }

    /// The broker closes: what is on its way to the disk comes back, states are stored.
    fn stop(mut self) {
        let now = self.clocks.now();
        self.queues.values_mut().for_each(|queue| queue.flush(now));
        while self.queues.values().any(Queue::is_busy) {
            match self.commands.recv_timeout(Duration::from_secs(10)) {
                Ok(command @ (Command::Stored { .. } | Command::Moved { .. })) => {
                    self.take(command);
                    let now = self.clocks.now();
                    self.queues.values_mut().for_each(|queue| queue.flush(now));
                }
                // A receiver that still speaks is not heard any more: it asks the next process.
                Ok(_) => {}
                Err(_) => break,
            }
        }
        for queue in self.queues.values_mut() {
            let now = self.clocks.now();
            queue.answer(now);
            queue.last_snapshots().into_iter().for_each(|snapshot| drop(self.snapshots.send(snapshot)));
        }
        for (_, queue) in self.queues.drain() {
            queue.end();
        }
    }
}
