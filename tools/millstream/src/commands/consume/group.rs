//! `millstream consume --group`: a member whose records are committed after they were written.
//!
//! The member commits when it is told, never by itself: first stdout is flushed, then what was printed is committed. So
//! a record is printed at least once by the group, whoever is killed.

use std::io;
use std::time::{Duration, Instant};

use futures::FutureExt;
use millstream_client::{Commit, Error, GroupConsumer, GroupEvent, GroupRecord, NamedPartition};
use millstream_protocol::Code;
use tokio::signal::unix::{Signal, SignalKind, signal};

use super::render::Placed;
use super::{Lines, start};
use crate::cli::{CommitChoice, Consume};
use crate::commands::Session;
use crate::exit::{Exit, Failure};
use crate::output::{Output, counted};

/// With nothing to print for so long what was printed is committed.
const IDLE: Duration = Duration::from_millis(10);

/// Prints records as a member of a group, until enough have come or a signal does.
pub(super) async fn run(
    session: &Session,
    group: &str,
    streams: &[&str],
    command: &Consume,
    output: Output,
) -> Result<(), Failure> {
    let mut signals = Signals::new()?;
    let mut builder =
        session.client.group(group).streams(streams.iter().copied()).start(start(command.from)).commit(Commit::Manual);
    if let Some(instance) = &command.group.instance {
        builder = builder.instance(instance);
    }
    if let Some(timeout) = command.group.session_timeout {
        builder = builder.session_timeout(timeout);
    }
    let consumer = match builder.build().await {
        Ok(consumer) => consumer,
        Err(error) if error.code() == Code::UnknownStream => return Err(unknown(session, streams, &error).await),
        Err(error) => return Err(session.group_failure(group, &error).await),
    };
    let mut printing = Printing {
        session,
        consumer,
        lines: Lines { format: command.format, buffer: Vec::new(), out: io::stdout() },
        commit: command.group.commit,
        printed: 0,
        uncommitted_since: None,
        lost: None,
        output,
    };
    let ended = printing.run(command, &mut signals).await;
    // What was printed is committed, however it ended.
    let committed = printing.commit().await;
    let Printing { consumer, printed, lost, .. } = printing;
    let left = tokio::select! {
        left = consumer.close() => left.map_err(|error| session.failure(&error)),
        // A second signal is not waited for.
        number = signals.next() => Err(Failure::new(Exit::Signal(number), "stopped before the group knew")),
    };
    ended?.map_or(Ok(()), |number| {
        let text = format!("stopped by signal {number}: {} printed", counted(printed, "record"));
        Err(Failure::new(Exit::Signal(number), text))
    })?;
    committed?;
    left?;
    match lost {
        Some(error) if error.code() == Code::RecordsLost => {
            Err(session.failure(&error).or_try("millstream verify, with the server stopped"))
        }
        _ => Ok(()),
    }
}

/// Says which of the streams is not there.
async fn unknown(session: &Session, streams: &[&str], error: &Error) -> Failure {
    for stream in streams {
        if let Err(error) = session.client.describe_stream(stream).await {
            return session.stream_failure(stream, &error).await;
        }
    }
    session.failure(error)
}

struct Printing<'a> {
    session: &'a Session,
    consumer: GroupConsumer,
    lines: Lines<io::Stdout>,
    commit: CommitChoice,
    printed: u64,
    /// When the first record was printed that is not committed.
    uncommitted_since: Option<Instant>,
    /// Records that are missing.
    lost: Option<Error>,
    output: Output,
}

impl Printing<'_> {
    /// Runs until enough is printed, or until a signal, whose number it gives.
    async fn run(&mut self, command: &Consume, signals: &mut Signals) -> Result<Option<u8>, Failure> {
        let wanted = command.count.unwrap_or(u64::MAX);
        while self.printed < wanted {
            let next = match self.consumer.next().now_or_never() {
                Some(next) => next,
                // Nothing at hand: what is there is shown before waiting, and soon committed.
                None => {
                    self.lines.flush()?;
                    let is_due = self.uncommitted_since.is_some();
                    tokio::select! {
                        next = self.consumer.next() => next,
                        number = signals.next() => return Ok(Some(number)),
                        () = tokio::time::sleep(IDLE), if is_due => {
                            self.commit().await?;
                            continue;
                        }
                    }
                }
            };
            match next {
                None => return Ok(None),
                Some(Ok(event)) => self.take(event).await?,
                Some(Err(error)) => self.missing(error)?,
            }
            if self.uncommitted_since.is_some_and(|since| since.elapsed() >= command.group.commit_interval) {
                self.commit().await?;
                if let Some(number) = signals.next().now_or_never() {
                    return Ok(Some(number));
                }
            }
        }
        Ok(None)
    }

    async fn take(&mut self, event: GroupEvent) -> Result<(), Failure> {
        match event {
            GroupEvent::Record(GroupRecord { stream, partition, offset, append_time, record, .. }) => {
                let placed = Placed { stream: Some(&stream), partition, offset, append_time, record: &record };
                self.lines.push(&placed)?;
                self.printed += 1;
                self.uncommitted_since.get_or_insert_with(Instant::now);
            }
            GroupEvent::Assigned(partitions) => self.output.note(&format!("assigned: {}", names(&partitions))),
            GroupEvent::Revoking(partitions) => {
                self.commit().await?;
                self.output.note(&format!("given to other members: {}", names(&partitions)));
            }
            GroupEvent::Lost(partitions) => {
                let text = format!("lost: {}; what was not committed will be printed again", names(&partitions));
                self.output.warn(&text);
            }
            _ => {}
        }
        Ok(())
    }

    /// An error item: where reading goes on it is a warning.
    fn missing(&mut self, error: Error) -> Result<(), Failure> {
        self.lines.flush()?;
        let is_told = error.partition().is_some()
            && matches!(error.code(), Code::OffsetOutOfRange | Code::LogTruncated | Code::Internal);
        if error.gap().is_none() && !is_told {
            return Err(self.session.failure(&error));
        }
        self.output.warn(&error.to_string());
        if error.gap().is_some() {
            self.lost.get_or_insert(error);
        }
        Ok(())
    }

    /// Writes what is at hand, then commits it.
    async fn commit(&mut self) -> Result<(), Failure> {
        self.lines.flush()?;
        if self.uncommitted_since.take().is_none() || self.commit == CommitChoice::None {
            return Ok(());
        }
        match self.consumer.commit().await {
            Ok(()) => Ok(()),
            // It has gone to another member, which begins before it.
            Err(error) if matches!(error.code(), Code::StaleEpoch | Code::UnknownMember) => {
                self.output.warn(&format!("{error}; what was not committed will be printed again"));
                Ok(())
            }
            Err(error) => Err(self.session.failure(&error)),
        }
    }
}

fn names(partitions: &[NamedPartition]) -> String {
    partitions.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

/// SIGINT and SIGTERM.
struct Signals {
    interrupt: Signal,
    terminate: Signal,
}

impl Signals {
    fn new() -> Result<Self, Failure> {
        let listen = |kind| signal(kind).map_err(|error| Failure::local(format!("cannot listen for signals: {error}")));
        Ok(Self { interrupt: listen(SignalKind::interrupt())?, terminate: listen(SignalKind::terminate())? })
    }

    /// The number of the next one.
    async fn next(&mut self) -> u8 {
        tokio::select! {
            _ = self.interrupt.recv() => 2,
            _ = self.terminate.recv() => 15,
        }
    }
}
