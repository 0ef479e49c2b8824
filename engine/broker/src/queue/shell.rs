//! The in-process API of queues, and the broker's side of it.

use std::collections::HashMap;
use std::sync::{Arc, OnceLock, Weak};
use std::thread::JoinHandle;

use crossbeam_channel::{Receiver, Sender, unbounded};
use millstream_filter::Filter;
use millstream_log::{LogError, Partition};
use millstream_protocol::frame::queue::{QueueConfig, QueueStart};
use millstream_protocol::limits::VISIBILITY_MS_MAX;
use millstream_protocol::{Offset, QueueId, StreamId, Timestamp};
use parking_lot::{Mutex, RwLock};

#[cfg(doc)]
use super::Outlet;
use super::dead_letters::DeadLetters;
use super::floors::Floors;
use super::part::Snapshot;
use super::redrive::Running;
use super::running::Queue;
use super::settings::Now;
use super::worker::{Clocks, Command, Worker};
use super::{Pulling, QueueState, Receiving, Verb, VerbResult};
use crate::broker::Broker;
use crate::catalog::{QueueEntry, QueueInput};
use crate::error::BrokerError;
use crate::stream::Stream;

/// The threads that run queues.
const WORKERS_MAX: usize = 4;

/// The workers of a broker.
pub(crate) struct QueueShell {
    workers: Vec<Sender<Command>>,
    threads: Mutex<Vec<JoinHandle<()>>>,
    queues: RwLock<HashMap<String, QueueHandle>>,
    /// How far each open queue is, by its number.
    floors: RwLock<HashMap<QueueId, Arc<Floors>>>,
    /// The broker itself, for what goes on by itself.
    pub(super) broker: OnceLock<Weak<Broker>>,
    /// The redrives that run, by their queues' numbers.
    pub(super) redrives: Mutex<HashMap<u64, Running>>,
}

/// A queue that is open.
#[derive(Clone)]
pub struct QueueHandle {
    /// Its settings, as they were when it was looked up.
    pub entry: Arc<QueueEntry>,
    pub(super) commands: Sender<Command>,
}

/// A receiver of a queue: gone when dropped, and what it has comes back after the queue's grace.
pub struct QueueReceiver {
    queue: QueueId,
    /// Its number with the queue.
    pub id: u32,
    commands: Sender<Command>,
}

impl QueueReceiver {
    /// How many messages it may have unsettled; 0: no more come.
    pub fn set_window(&self, window: u32) {
        let _ = self.commands.send(Command::Window { queue: self.queue, receiver: self.id, window });
    }

    /// Asks for messages: what is at hand comes at once, as soon as there is one; then [`Outlet::pulled`].
    pub fn pull(&self, pulling: Pulling) {
        let _ = self.commands.send(Command::Pull { queue: self.queue, receiver: self.id, pulling });
    }

    /// Waits no longer for a pull: [`Outlet::pulled`] says so, unless it was answered.
    pub fn end_pull(&self, number: u64) {
        let _ = self.commands.send(Command::EndPull { queue: self.queue, receiver: self.id, number });
    }

    /// Its outlet has room again.
    pub fn ready(&self) {
        let _ = self.commands.send(Command::Ready { queue: self.queue, receiver: self.id });
    }
}

impl Drop for QueueReceiver {
    fn drop(&mut self) {
        let _ = self.commands.send(Command::Detach { queue: self.queue, receiver: self.id });
    }
}

impl QueueHandle {
    /// Its number.
    pub fn id(&self) -> QueueId {
        self.entry.id()
    }

    /// Begins to receive. A receiver that comes back under its key within the queue's grace keeps what it has. Blocks for a
    /// moment.
    ///
    /// # Errors
    /// [`BrokerError::UnknownQueue`] if it was deleted; [`BrokerError::VisibilityOutOfRange`].
    pub fn receive(&self, receiving: Receiving) -> Result<QueueReceiver, BrokerError> {
        let visibility_ms = receiving.visibility_ms.unwrap_or(self.entry.config.visibility_ms);
        if visibility_ms > VISIBILITY_MS_MAX {
            return Err(BrokerError::VisibilityOutOfRange(visibility_ms));
        }
        let (reply, answer) = crossbeam_channel::bounded(1);
        let queue = self.id();
        let sent = self.commands.send(Command::Attach { queue, receiving, visibility_ms, reply });
        match sent.ok().and_then(|()| answer.recv().ok()) {
            Some(id) => Ok(QueueReceiver { queue, id, commands: self.commands.clone() }),
            None => Err(BrokerError::UnknownQueue(self.entry.name.clone())),
        }
    }

    /// Says things of deliveries, each for itself; `reply` is called on a queue's thread once those that hold are durable.
    pub fn say(&self, verbs: Vec<Verb>, reply: impl FnOnce(Vec<VerbResult>) + Send + 'static) {
        let count = verbs.len();
        let command = Command::Verbs { queue: self.id(), verbs, reply: Box::new(reply) };
        if let Err(unsent) = self.commands.send(command)
            && let Command::Verbs { reply, .. } = unsent.0
        {
            reply(vec![VerbResult::QueueDeleted; count]);
        }
    }

    /// The same, and waits for the answers. Blocks.
    pub fn say_wait(&self, verbs: Vec<Verb>) -> Vec<VerbResult> {
        let (count, (send, answer)) = (verbs.len(), crossbeam_channel::bounded(1));
        self.say(verbs, move |results| drop(send.send(results)));
        answer.recv().unwrap_or_else(|_| vec![VerbResult::QueueDeleted; count])
    }

    /// How it stands. Blocks for a moment.
    ///
    /// # Errors
    /// [`BrokerError::UnknownQueue`] if it was deleted.
    pub fn state(&self) -> Result<QueueState, BrokerError> {
        let (reply, answer) = crossbeam_channel::bounded(1);
        let sent = self.commands.send(Command::Describe { queue: self.id(), reply });
        let state = sent.ok().and_then(|()| answer.recv().ok());
        state.ok_or_else(|| BrokerError::UnknownQueue(self.entry.name.clone()))
    }
}

impl QueueShell {
    /// Starts the threads.
    pub fn start(threads: usize, wall: impl Fn() -> i64 + Clone + Send + 'static) -> Self {
        let (mut workers, mut running) = (Vec::new(), Vec::new());
        let (snapshots, to_store) = unbounded::<Snapshot>();
        let spawn = |name: String, work: Box<dyn FnOnce() + Send>| {
            std::thread::Builder::new().name(name).spawn(work).expect("the system gives threads")
        };
        for index in 0..threads.clamp(1, WORKERS_MAX) {
            let (send, commands) = unbounded();
            let worker = Worker {
                commands,
                snapshots: snapshots.clone(),
                clocks: Clocks::new(Box::new(wall.clone())),
                queues: HashMap::new(),
                wakes: Default::default(),
                next_wake: HashMap::new(),
            };
            workers.push(send);
            running.push(spawn(format!("queues-{index}"), Box::new(move || worker.run())));
        }
        drop(snapshots);
        running.push(spawn("queue-snapshots".to_owned(), Box::new(move || store(&to_store))));
        Self {
            workers,
            threads: Mutex::new(running),
            queues: RwLock::default(),
            floors: RwLock::default(),
            broker: OnceLock::new(),
            redrives: Mutex::default(),
        }
    }

    /// Has to be told before anything runs that needs it.
    pub fn know(&self, broker: &Arc<Broker>) {
        let _ = self.broker.set(Arc::downgrade(broker));
    }

    fn worker(&self, queue: QueueId) -> &Sender<Command> {
        &self.workers[queue.0 as usize % self.workers.len()]
    }

    fn find(&self, name: &str) -> Result<QueueHandle, BrokerError> {
        self.queues.read().get(name).cloned().ok_or_else(|| BrokerError::UnknownQueue(name.to_owned()))
    }

    fn keep(&self, entry: &Arc<QueueEntry>) {
        let handle = QueueHandle { entry: entry.clone(), commands: self.worker(entry.id()).clone() };
        self.queues.write().insert(entry.name.clone(), handle);
    }

    /// How far a queue is, if it is open.
    pub fn floors(&self, queue: QueueId) -> Option<Arc<Floors>> {
        self.floors.read().get(&queue).cloned()
    }

    /// Ends the threads once all that is in hand is durable, with snapshots.
    pub fn close(&self) {
        self.end_redrives();
        self.queues.write().clear();
        self.workers.iter().for_each(|worker| drop(worker.send(Command::Stop)));
        for thread in self.threads.lock().drain(..) {
            if thread.join().is_err() {
                tracing::error!("a thread of the queues panicked");
            }
        }
    }
}

/// Stores snapshots, one after the other.
fn store(snapshots: &Receiver<Snapshot>) {
    for Snapshot { store, offset, state } in snapshots {
        store.store(offset, &state);
    }
}

impl Broker {
    /// Opens the queues that the catalog knows, and deletes what is left of those that it does not.
    pub(crate) fn open_queues(&self) -> Result<(), BrokerError> {
        for id in self.catalog().read(|catalog| catalog.leaving_queues().collect::<Vec<_>>()) {
            self.remove_queue_files(id)?;
        }
        let entries: Vec<QueueEntry> = self.catalog().read(|catalog| catalog.queues().cloned().collect());
        for id in self.log().stored_queues()? {
            if !entries.iter().any(|entry| entry.id() == id) {
                tracing::warn!(queue = %id, "what is stored of a queue that no one knows is left where it is");
            }
        }
        entries.into_iter().for_each(|entry| self.open_queue(Arc::new(entry)));
        self.go_on_redriving();
        Ok(())
    }

    fn open_queue(&self, entry: Arc<QueueEntry>) {
        let stream = match self.stream_by_id(StreamId(entry.stream)) {
            Ok(stream) => stream,
            Err(error) => {
                tracing::error!(queue = entry.name, %error, "a queue without its stream is not served");
                return;
            }
        };
        let dead_letters = entry.config.dead_letter.as_deref().and_then(|name| match self.stream(name) {
            Ok(dead) => Some(Arc::new(DeadLetters { stream: dead, source: stream.name.clone() })),
            Err(error) => {
                tracing::error!(queue = entry.name, %error, "a queue's dead letters have nowhere to go: they wait");
                None
            }
        });
        let commands = self.queues().worker(entry.id());
        // No lease is open yet: the monotonic clock says nothing here.
        let now = Now { mono_ms: 0, wall_ms: u64::try_from(self.log().now().0).unwrap_or(0) };
        let floors = Arc::new(Floors::new(stream.partitions().len()));
        let told = (commands, floors.clone());
        let queue = Queue::open(self.log(), entry.clone(), stream.partitions(), dead_letters, told, now);
        self.queues().floors.write().insert(entry.id(), floors);
        let _ = commands.send(Command::Open { queue: Box::new(queue) });
        self.queues().keep(&entry);
    }

    /// Makes a queue on a stream; it is durable when this returns, and misses nothing from where it begins on. Blocks.
    ///
    /// # Errors
    /// [`BrokerError::IllegalName`], [`BrokerError::UnknownStream`] (its own, or that of the dead letters),
    /// [`BrokerError::QueueExists`], [`BrokerError::IllegalSetting`], [`BrokerError::NoDeadLetter`],
    /// [`BrokerError::DeadLetterCycle`], [`BrokerError::FilterInvalid`], [`LogError::OffsetOutOfRange`]; the log's.
    pub fn create_queue(
        &self,
        name: &str,
        stream: &str,
        config: QueueConfig,
        start: QueueStart,
    ) -> Result<QueueHandle, BrokerError> {
        let _one = self.change();
        check_filter(&config)?;
        let found = self.stream(stream)?;
        // Until the catalog knows it, nothing may go by interest: where it begins would be gone.
        let kept = found.keep_all();
        let starts = found.partitions().iter().map(|partition| match partition {
            Ok(partition) => begin(partition, start),
            Err(error) => Err(error.clone()),
        });
        let starts: Vec<u64> = starts.collect::<Result<_, _>>()?;
        let (name, stream, now) = (name.to_owned(), stream.to_owned(), self.log().now());
        self.change_queue(&QueueInput::Create { name: name.clone(), stream, config, starts, now })?;
        drop(kept);
        let entry = self.catalog().read(|catalog| catalog.queue(&name).cloned())?;
        self.open_queue(Arc::new(entry));
        self.queue(&name)
    }

    /// Gives a queue other settings. A changed filter or delay holds for records stored from now on. Blocks.
    ///
    /// # Errors
    /// As [`create_queue`](Self::create_queue); [`BrokerError::UnknownQueue`].
    pub fn update_queue(&self, name: &str, config: QueueConfig) -> Result<QueueHandle, BrokerError> {
        let _one = self.change();
        check_filter(&config)?;
        let from = self.queue_ends(name)?;
        self.change_queue(&QueueInput::Update { name: name.to_owned(), config, from })?;
        self.tell_queue(name)
    }

    /// Settles all that a queue holds: what was stored before this call, in flight and delayed too. Blocks.
    ///
    /// # Errors
    /// [`BrokerError::UnknownQueue`]; the log's.
    pub fn purge_queue(&self, name: &str) -> Result<QueueHandle, BrokerError> {
        let _one = self.change();
        let floors = self.queue_ends(name)?;
        self.change_queue(&QueueInput::Move { name: name.to_owned(), floors, is_purge: true })?;
        self.tell_queue(name)
    }

    /// Lets a queue begin anew elsewhere: all leases end, what lies above is delivered (again). Blocks.
    ///
    /// # Errors
    /// [`BrokerError::UnknownQueue`], [`LogError::OffsetOutOfRange`]; the log's.
    pub fn seek_queue(&self, name: &str, to: QueueStart) -> Result<QueueHandle, BrokerError> {
        let _one = self.change();
        let stream = self.queue_stream(name)?;
        let _kept = stream.keep_all();
        let floors: Result<Vec<u64>, LogError> = stream
            .partitions()
            .iter()
            .map(|partition| partition.as_ref().map_err(Clone::clone).and_then(|partition| begin(partition, to)))
            .collect();
        self.change_queue(&QueueInput::Move { name: name.to_owned(), floors: floors?, is_purge: false })?;
        self.tell_queue(name)
    }

    /// Stops a queue's deliveries, or lets them go on. Acks, extensions and deadlines go on. Blocks.
    ///
    /// # Errors
    /// [`BrokerError::UnknownQueue`]; the log's.
    pub fn pause_queue(&self, name: &str, is_paused: bool) -> Result<QueueHandle, BrokerError> {
        let _one = self.change();
        self.change_queue(&QueueInput::Pause { name: name.to_owned(), is_paused })?;
        self.tell_queue(name)
    }

    /// Deletes a queue: leases end, receivers hear of it, the stream stays as it is. Blocks.
    ///
    /// # Errors
    /// [`BrokerError::UnknownQueue`]; the log's.
    pub fn delete_queue(&self, name: &str) -> Result<(), BrokerError> {
        let _one = self.change();
        let handle = self.queue(name)?;
        self.queues().end_redrive(handle.id().0);
        self.let_letters_go(handle.id().0);
        self.change_queue(&QueueInput::Delete { name: name.to_owned() })?;
        self.queues().queues.write().remove(name);
        self.queues().floors.write().remove(&handle.id());
        let (done, closed) = crossbeam_channel::bounded(1);
        if handle.commands.send(Command::Close { queue: handle.id(), done }).is_ok() {
            let _ = closed.recv();
        }
        self.remove_queue_files(handle.id())
    }

    /// The queue of that name.
    ///
    /// # Errors
    /// [`BrokerError::UnknownQueue`].
    pub fn queue(&self, name: &str) -> Result<QueueHandle, BrokerError> {
        self.queues().find(name)
    }

    /// All queues, by name.
    pub fn queue_entries(&self) -> Vec<QueueEntry> {
        self.catalog().read(|catalog| catalog.queues().cloned().collect())
    }

    /// The name of a queue's stream; empty if it is not there.
    pub fn queue_stream_name(&self, entry: &QueueEntry) -> String {
        self.stream_by_id(StreamId(entry.stream)).map(|stream| stream.name.clone()).unwrap_or_default()
    }

    pub(super) fn change_queue(&self, input: &QueueInput) -> Result<(), BrokerError> {
        self.catalog().update(|catalog| catalog.step(crate::catalog::Input::Queue(input.clone())))
    }

    fn tell_queue(&self, name: &str) -> Result<QueueHandle, BrokerError> {
        let entry = Arc::new(self.catalog().read(|catalog| catalog.queue(name).cloned())?);
        let _ = self.queues().worker(entry.id()).send(Command::Update { entry: entry.clone() });
        self.queues().keep(&entry);
        self.queue(name)
    }

    fn queue_stream(&self, name: &str) -> Result<Arc<Stream>, BrokerError> {
        let stream = self.catalog().read(|catalog| catalog.queue(name).map(|queue| StreamId(queue.stream)))?;
        self.stream_by_id(stream)
    }

    /// The ends of a queue's partitions now.
    fn queue_ends(&self, name: &str) -> Result<Vec<u64>, BrokerError> {
        let stream = self.queue_stream(name)?;
        let end = |partition: &Result<Arc<Partition>, LogError>| match partition {
            Ok(partition) => Ok(partition.high_watermark().0),
            Err(error) => Err(error.clone()),
        };
        Ok(stream.partitions().iter().map(end).collect::<Result<_, _>>()?)
    }

    fn remove_queue_files(&self, id: QueueId) -> Result<(), BrokerError> {
        self.log().delete_queue(id)?;
        self.change_queue(&QueueInput::FilesRemoved { id })
    }
}

/// Whether the filter is one.
pub(super) fn check_filter(config: &QueueConfig) -> Result<(), BrokerError> {
    if !config.filter.is_empty() {
        Filter::compile(&config.filter)?;
    }
    Ok(())
}

/// Where a queue begins in a partition.
fn begin(partition: &Partition, start: QueueStart) -> Result<u64, LogError> {
    let (log_start, high_watermark) = (partition.log_start(), partition.high_watermark());
    match start {
        QueueStart::Earliest => Ok(log_start.0),
        QueueStart::Latest => Ok(high_watermark.0),
        QueueStart::Time(time) => partition.offset_for_time(Timestamp(time)).map(|offset| offset.0),
        QueueStart::Offset(offset) if (log_start.0..=high_watermark.0).contains(&offset) => Ok(offset),
        QueueStart::Offset(offset) => {
            Err(LogError::OffsetOutOfRange { wanted: Offset(offset), log_start, high_watermark })
        }
    }
}
