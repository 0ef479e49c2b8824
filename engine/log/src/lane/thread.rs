//! Drives a lane: takes what waits, steps, again. Under low load a lone append is written and synced at once.

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::thread::JoinHandle;

use crossbeam_channel::{Receiver, Sender, TrySendError, bounded};

use super::step::Lane;
use super::stepped::SteppedLane;
use super::{Append, Command};
use crate::error::LogError;

/// Appends that may wait on a lane; more are refused with `Throttled`.
pub(crate) const LANE_QUEUE_MAX: usize = 1 << 16;
/// Commands of one pass: bounds how long the first of them waits for the others' bytes.
const PASS_COMMANDS_MAX: usize = 8_192;
/// Bytes of one pass, about: the disk works while the next pass gathers.
const PASS_BYTES_MAX: usize = 16 << 20;

/// A running lane, and the way to it.
pub(crate) struct LaneHandle {
    sender: LaneSender,
    thread: Option<JoinHandle<()>>,
}

/// The way to a lane.
#[derive(Clone)]
pub(crate) enum LaneSender {
    /// To its thread.
    Thread(Sender<Command>),
    /// To a lane that its callers drive.
    Stepped(Arc<SteppedLane>),
}

impl LaneSender {
    /// Hands an append over without waiting.
    pub(crate) fn append(&self, append: Append) -> Result<(), LogError> {
        match self {
            LaneSender::Thread(sender) => sender.try_send(Command::Append(append)).map_err(|error| match error {
                TrySendError::Full(_) => LogError::Throttled { waiting: LANE_QUEUE_MAX },
                TrySendError::Disconnected(_) => LogError::Closed,
            }),
            LaneSender::Stepped(lane) => lane.push(Command::Append(append)),
        }
    }

    /// Hands a command over, waiting for room.
    pub(crate) fn send(&self, command: Command) -> Result<(), LogError> {
        match self {
            LaneSender::Thread(sender) => sender.send(command).map_err(|_| LogError::Closed),
            LaneSender::Stepped(lane) => lane.push(command),
        }
    }

    /// To be called between handing over and waiting for the answer: a lane without a thread works now.
    pub(crate) fn before_wait(&self) {
        if let LaneSender::Stepped(lane) = self {
            lane.step();
        }
    }

    /// Waits until everything handed over before has been carried out.
    pub(crate) fn barrier(&self) -> Result<(), LogError> {
        self.end_barrier(&self.begin_barrier()?)
    }

    /// Asks for a barrier, to be waited for later: so that many lanes work on theirs at once.
    pub(crate) fn begin_barrier(&self) -> Result<Receiver<()>, LogError> {
        let (done, wait) = bounded(1);
        self.send(Command::Barrier(done))?;
        Ok(wait)
    }

    /// Waits for a barrier.
    pub(crate) fn end_barrier(&self, wait: &Receiver<()>) -> Result<(), LogError> {
        self.before_wait();
        wait.recv().map_err(|_| LogError::Closed)
    }
}

impl LaneHandle {
    /// Starts a lane on a thread of its own.
    pub(crate) fn start(index: usize, lane: Lane) -> std::io::Result<Self> {
        let (sender, receiver) = bounded(LANE_QUEUE_MAX);
        let thread = std::thread::Builder::new().name(format!("lane-{index}")).spawn(move || drive(lane, &receiver))?;
        Ok(Self { sender: LaneSender::Thread(sender), thread: Some(thread) })
    }

    /// A lane that works only when it is stepped.
    pub(crate) fn stepped(lane: Lane) -> Self {
        Self { sender: LaneSender::Stepped(Arc::new(SteppedLane::new(lane))), thread: None }
    }

    pub(crate) fn sender(&self) -> LaneSender {
        self.sender.clone()
    }

    /// Ends the lane after all that was handed over before has been carried out.
    pub(crate) fn stop(&mut self) {
        match &self.sender {
            LaneSender::Thread(sender) => drop(sender.send(Command::Stop)),
            LaneSender::Stepped(lane) => lane.stop(),
        }
        if let Some(thread) = self.thread.take() {
            // A lane that panicked has said so.
            let _ = thread.join();
        }
    }
}

impl Drop for LaneHandle {
    fn drop(&mut self) {
        self.stop();
    }
}

fn drive(mut lane: Lane, receiver: &Receiver<Command>) {
    let mut commands = VecDeque::new();
    let mut stopping = false;
    while !stopping {
        let Ok(first) = receiver.recv() else { return };
        let mut bytes = 0;
        let mut next = Some(first);
        while let Some(command) = next {
            stopping |= matches!(command, Command::Stop);
            bytes += match &command {
                Command::Append(append) => append.batch.view.bytes().len(),
                _ => 0,
            };
            commands.push_back(command);
            let full = commands.len() >= PASS_COMMANDS_MAX || bytes >= PASS_BYTES_MAX || stopping;
            next = if full { None } else { receiver.try_recv().ok() };
        }
        let step = catch_unwind(AssertUnwindSafe(|| lane.step(&mut commands)));
        if step.is_err() {
            let reason: Arc<str> = "a bug in the server stopped the lane".into();
            tracing::error!("a lane panicked: its partitions are read-only until a restart");
            lane.abandon(&reason);
            commands.drain(..).for_each(|command| refuse(command, &reason));
            while let Ok(command) = receiver.recv() {
                if matches!(command, Command::Stop) {
                    return;
                }
                refuse(command, &reason);
            }
            return;
        }
    }
}

/// Answers for a lane that is no more.
fn refuse(command: Command, reason: &Arc<str>) {
    match command {
        Command::Append(append) => {
            append.partition.poison(reason.clone());
            let error = append.partition.read_only_error(reason.clone());
            append.sink.complete(vec![(append.token, Err(error))]);
        }
        Command::Barrier(done) => {
            let _ = done.send(());
        }
        Command::Roll(_) | Command::Stop => {}
    }
}
