//! What is in hand on one produce stream, and the acks that wait to be written.
//!
//! Shared by the reader (which begins and refuses batches), the lanes' threads (which complete them) and the
//! writer. One short lock; nothing waits inside it.

use std::collections::HashMap;
use std::sync::Arc;

use millstream_log::{AppendSink, Appended, LogError};
use millstream_protocol::frame::produce::{DUPLICATE_BYTES, ProduceAck, Produced, Stored, encode_acks};
use millstream_protocol::frame::{Kind, Refusal};
use millstream_protocol::limits::{CONTROL_BATCH_RECORDS_MAX, ERROR_TEXT_BYTES_MAX, FRAME_BYTES_MAX};
use parking_lot::Mutex;
use quinn::SendStream;
use tokio::sync::{Notify, Semaphore};
use tokio::time::Instant;

use crate::budget::Reservation;
use crate::frame_io::write_frame;
use crate::metrics::Metrics;
use crate::shared::log_refusal;

/// Acks go into one frame up to this, and one more.
const ACKS_BYTES_TARGET: usize = 1 << 20;
const REFUSAL_BYTES_MAX: usize = ERROR_TEXT_BYTES_MAX + 32;
const DUPLICATES_BYTES_MAX: usize = 16 + CONTROL_BATCH_RECORDS_MAX as usize * DUPLICATE_BYTES;
const _: () = assert!(ACKS_BYTES_TARGET + REFUSAL_BYTES_MAX <= FRAME_BYTES_MAX, "acks must fit into a frame");
const _: () = assert!(ACKS_BYTES_TARGET + DUPLICATES_BYTES_MAX <= FRAME_BYTES_MAX, "acks must fit into a frame");

/// A partition as this stream knows it: its index in the state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Lane(usize);

/// A batch between its frame and its result.
#[derive(Debug)]
pub(super) struct InHand {
    pub correlation: u64,
    pub started: Instant,
    /// Held, not read: its end gives the bytes back.
    pub _room: Reservation,
    pub records: u32,
    pub bytes: usize,
}

/// The acks of one produce stream.
pub(super) struct Acks {
    state: Mutex<State>,
    /// Wakes the writer: something is ready, or the end has come.
    wake: Notify,
    /// Batches that may still come before an ack is written.
    depth: Semaphore,
    metrics: Arc<Metrics>,
}

#[derive(Default)]
struct State {
    next_token: u64,
    in_hand: HashMap<u64, Routed>,
    lanes: Vec<LaneState>,
    ready: Vec<ProduceAck>,
    closed: bool,
}

struct Routed {
    lane: Lane,
    in_hand: InHand,
    /// One before it failed after it was handed over: it must not be stored ahead of that one, even if the
    /// partition has been resumed since.
    behind: bool,
}

#[derive(Default)]
struct LaneState {
    in_hand: u32,
    gated: bool,
    /// Refusals that wait for what is in hand before them.
    deferred: Vec<ProduceAck>,
}

impl Acks {
    pub fn new(depth: u32, metrics: Arc<Metrics>) -> Arc<Self> {
        Arc::new(Self { state: Mutex::default(), wake: Notify::new(), depth: Semaphore::new(depth as usize), metrics })
    }

    /// Waits until the granted depth allows one more batch; its ack's writing gives the turn back.
    pub async fn take_turn(&self) {
        self.depth.acquire().await.expect("the semaphore is never closed").forget();
    }

    pub fn add_lane(&self) -> Lane {
        let mut state = self.state.lock();
        state.lanes.push(LaneState::default());
        Lane(state.lanes.len() - 1)
    }

    /// Whether a batch of the partition has failed since the last resume.
    pub fn is_gated(&self, lane: Lane) -> bool {
        self.state.lock().lanes[lane.0].gated
    }

    pub fn resume(&self, lane: Lane) {
        self.state.lock().lanes[lane.0].gated = false;
    }

    /// Notes a batch that is about to be handed over; its result comes under the token.
    pub fn begin(&self, lane: Lane, in_hand: InHand) -> u64 {
        let mut state = self.state.lock();
        let token = state.next_token;
        state.next_token += 1;
        state.lanes[lane.0].in_hand += 1;
        state.in_hand.insert(token, Routed { lane, in_hand, behind: false });
        token
    }

    /// The batch was not taken after all.
    pub fn fail(&self, token: u64, refusal: Refusal) {
        let taken = {
            let mut state = self.state.lock();
            let taken = state.in_hand.remove(&token);
            if let Some(Routed { lane, in_hand, .. }) = &taken {
                state.lanes[lane.0].in_hand -= 1;
                let ack = ProduceAck { correlation: in_hand.correlation, result: Err(refusal.clone()) };
                state.refuse(*lane, ack);
            }
            taken
        };
        // Its reservation goes back outside the lock.
        if taken.is_some() {
            self.count_refusal(&refusal);
        }
    }

    /// Refuses a batch of a known partition, after what is in hand before it.
    pub fn refuse(&self, lane: Lane, in_hand: InHand, refusal: Refusal) {
        self.count_refusal(&refusal);
        self.state.lock().refuse(lane, ProduceAck { correlation: in_hand.correlation, result: Err(refusal) });
        self.wake.notify_one();
    }

    /// Refuses a batch of a partition that there is not.
    pub fn refuse_unrouted(&self, in_hand: InHand, refusal: Refusal) {
        self.count_refusal(&refusal);
        self.state.lock().ready.push(ProduceAck { correlation: in_hand.correlation, result: Err(refusal) });
        self.wake.notify_one();
    }

    /// No more batches come: the writer ends once all that is in hand is answered.
    pub fn close(&self) {
        self.state.lock().closed = true;
        self.wake.notify_one();
    }

    /// What is ready, and whether it is the last.
    fn take_ready(&self) -> (Vec<ProduceAck>, bool) {
        let mut state = self.state.lock();
        let ready = std::mem::take(&mut state.ready);
        (ready, state.closed && state.in_hand.is_empty())
    }

    fn count_refusal(&self, refusal: &Refusal) {
        self.metrics.batches_refused.add(1);
        self.metrics.error(refusal.code);
        self.wake.notify_one();
    }

    fn count_result(&self, in_hand: &InHand, counted: Counted, now: Instant) {
        self.metrics.append.observe(now.saturating_duration_since(in_hand.started));
        match counted {
            Counted::Stored => {
                self.metrics.batches_stored.add(1);
                self.metrics.records_stored.add(u64::from(in_hand.records));
                self.metrics.bytes_stored.add(in_hand.bytes as u64);
            }
            Counted::Duplicates(records) => self.metrics.duplicates.add(records),
            Counted::Refused(refusal) => self.count_refusal(&refusal),
        }
    }
}

/// What the metrics make of a result.
enum Counted {
    Stored,
    Duplicates(u64),
    Refused(Refusal),
}

/// What the client is told of a batch of so many records, and whether the batches behind it may pass: they may not where
/// the client has to send it, or a part of it, again.
fn answer(result: Result<Appended, LogError>, records: u32) -> (Result<Produced, Refusal>, bool) {
    match result {
        Ok(Appended { base_offset, append_time }) => (Ok(Produced::Stored(Stored { base_offset, append_time })), true),
        Err(LogError::Duplicates(duplicates)) => {
            (Ok(Produced::Duplicates(duplicates.to_vec())), duplicates.len() == records as usize)
        }
        Err(error) => (Err(log_refusal(&error)), false),
    }
}

impl State {
    fn refuse(&mut self, lane: Lane, ack: ProduceAck) {
        let lane = &mut self.lanes[lane.0];
        lane.gated = true;
        lane.deferred.push(ack);
        lane.release(&mut self.ready);
    }

    fn complete(&mut self, token: u64, lane: Lane, ack: ProduceAck, passes: bool) {
        if !passes {
            self.lanes[lane.0].gated = true;
            let later = self.in_hand.iter_mut().filter(|(other, routed)| **other > token && routed.lane == lane);
            later.for_each(|(_, routed)| routed.behind = true);
        }
        let lane = &mut self.lanes[lane.0];
        lane.in_hand -= 1;
        self.ready.push(ack);
        lane.release(&mut self.ready);
    }
}

impl LaneState {
    /// Lets the refusals go that have nothing in hand before them any more.
    fn release(&mut self, ready: &mut Vec<ProduceAck>) {
        if self.in_hand == 0 {
            ready.append(&mut self.deferred);
        }
    }
}

impl AppendSink for Acks {
    /// What was handed over before its predecessor failed is not stored ahead of it.
    fn admits(&self, token: u64) -> bool {
        self.state.lock().in_hand.get(&token).is_none_or(|routed| !routed.behind)
    }

    /// On a lane's thread: notes the results, wakes the writer, and is gone.
    fn complete(&self, results: Vec<(u64, Result<Appended, LogError>)>) {
        let mut done = Vec::with_capacity(results.len());
        {
            let mut state = self.state.lock();
            for (token, result) in results {
                let Some(Routed { lane, in_hand, .. }) = state.in_hand.remove(&token) else { continue };
                let (result, passes) = answer(result, in_hand.records);
                let counted = match &result {
                    Ok(Produced::Stored(_)) => Counted::Stored,
                    Ok(Produced::Duplicates(duplicates)) => Counted::Duplicates(duplicates.len() as u64),
                    Err(refusal) => Counted::Refused(refusal.clone()),
                };
                let ack = ProduceAck { correlation: in_hand.correlation, result };
                done.push((in_hand, counted));
                state.complete(token, lane, ack, passes);
            }
        }
        self.wake.notify_one();
        let now = Instant::now();
        for (in_hand, counted) in done {
            self.count_result(&in_hand, counted, now);
        }
    }
}

/// The first acks that go into one frame.
fn frame_of(acks: &[ProduceAck]) -> usize {
    let mut bytes = 0;
    let fits = |ack: &&ProduceAck| {
        let fits = bytes < ACKS_BYTES_TARGET;
        bytes += match &ack.result {
            Ok(Produced::Stored(_)) => 32,
            Ok(Produced::Duplicates(duplicates)) => 16 + duplicates.len() * DUPLICATE_BYTES,
            Err(_) => REFUSAL_BYTES_MAX,
        };
        fits
    };
    acks.iter().take_while(fits).count()
}

/// Writes acks until the last one; gives the stream back, or nothing if the client takes no more.
pub(super) async fn write(mut send: SendStream, acks: Arc<Acks>) -> Option<SendStream> {
    loop {
        let (ready, is_last) = acks.take_ready();
        if ready.is_empty() && is_last {
            return Some(send);
        }
        if ready.is_empty() {
            acks.wake.notified().await;
            continue;
        }
        let mut rest = ready.as_slice();
        while !rest.is_empty() {
            let (part, later) = rest.split_at(frame_of(rest));
            if write_frame(&mut send, Kind::ProduceAcks, 0, &encode_acks(part)).await.is_err() {
                return None;
            }
            acks.depth.add_permits(part.len());
            rest = later;
        }
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;
    use millstream_protocol::frame::produce::Duplicate;
    use millstream_protocol::{ByteSize, Code, Offset, Timestamp};

    use super::*;
    use crate::budget::Budget;

    fn in_hand(correlation: u64) -> InHand {
        let room = Budget::new(ByteSize::mib(40)).connection(ByteSize::mib(16)).reserve(1).now_or_never();
        InHand { correlation, started: Instant::now(), _room: room.expect("there is room"), records: 1, bytes: 1 }
    }

    fn stored(offset: u64) -> Result<Appended, LogError> {
        Ok(Appended { base_offset: Offset(offset), append_time: Timestamp(1) })
    }

    fn correlations(acks: &Acks) -> Vec<u64> {
        acks.take_ready().0.iter().map(|ack| ack.correlation).collect()
    }

    #[test]
    fn a_refusal_waits_for_the_partitions_batches_in_hand_and_for_no_others() {
        let acks = Acks::new(8, Arc::default());
        let (one, two) = (acks.add_lane(), acks.add_lane());
        let first = acks.begin(one, in_hand(1));
        let second = acks.begin(two, in_hand(2));
        acks.refuse(one, in_hand(3), Refusal::new(Code::CorruptBatch, "x"));
        acks.complete(vec![(second, stored(0))]);
        assert_eq!(correlations(&acks), [2]);
        acks.complete(vec![(first, stored(0))]);
        assert_eq!(correlations(&acks), [1, 3]);
    }

    #[test]
    fn a_failure_closes_the_partitions_gate_until_it_is_resumed() {
        let acks = Acks::new(8, Arc::default());
        let (one, two) = (acks.add_lane(), acks.add_lane());
        let first = acks.begin(one, in_hand(1));
        assert!(!acks.is_gated(one));
        acks.complete(vec![(first, Err(LogError::DiskFull))]);
        assert!(acks.is_gated(one) && !acks.is_gated(two));
        acks.resume(one);
        assert!(!acks.is_gated(one));
        let second = acks.begin(one, in_hand(2));
        acks.fail(second, Refusal::new(Code::Throttled, "x"));
        assert!(acks.is_gated(one));
        assert_eq!(correlations(&acks), [1, 2]);
    }

    #[test]
    fn a_failure_bars_what_was_handed_over_behind_it_and_nothing_else() {
        let acks = Acks::new(8, Arc::default());
        let (one, two) = (acks.add_lane(), acks.add_lane());
        let tokens = [(one, 1), (one, 2), (two, 3), (one, 4)].map(|(lane, n)| acks.begin(lane, in_hand(n)));
        acks.refuse(one, in_hand(5), Refusal::new(Code::CorruptBatch, "x"));
        assert!(tokens.iter().all(|token| acks.admits(*token)), "all of them came before the refused one");
        acks.complete(vec![(tokens[1], Err(LogError::DiskFull))]);
        acks.resume(one);
        let resumed = acks.begin(one, in_hand(6));
        assert_eq!(tokens.map(|token| acks.admits(token)), [true, true, true, false]);
        assert!(acks.admits(resumed));
    }

    #[test]
    fn known_records_close_the_gate_unless_they_are_all_of_the_batch() {
        let duplicates = |count: u32| -> Result<Appended, LogError> {
            let of = |index| Duplicate { index, offset: Offset(7), append_time: Timestamp(1) };
            Err(LogError::Duplicates((0..count).map(of).collect()))
        };
        let metrics: Arc<Metrics> = Arc::default();
        let acks = Acks::new(8, Arc::clone(&metrics));
        let (one, two) = (acks.add_lane(), acks.add_lane());
        let tokens = [(one, 1), (two, 2), (one, 3), (two, 4)]
            .map(|(lane, n)| acks.begin(lane, InHand { records: 2, ..in_hand(n) }));
        acks.complete(vec![(tokens[0], duplicates(2)), (tokens[1], duplicates(1))]);
        assert!(!acks.is_gated(one) && acks.is_gated(two));
        assert!(acks.admits(tokens[2]) && !acks.admits(tokens[3]));
        let ready = acks.take_ready().0;
        assert!(ready.iter().all(|ack| matches!(ack.result, Ok(Produced::Duplicates(_)))));
        assert_eq!((metrics.duplicates.get(), metrics.batches_refused.get(), metrics.batches_stored.get()), (3, 0, 0));
    }

    #[test]
    fn acks_are_cut_into_frames_that_can_be_sent() {
        let duplicates = |count: u32| {
            let of = |index| Duplicate { index, offset: Offset(7), append_time: Timestamp(1) };
            Ok(Produced::Duplicates((0..count).map(of).collect()))
        };
        let refusal = || Err(Refusal::new(Code::DiskFull, "x".repeat(ERROR_TEXT_BYTES_MAX)));
        let stored = || Ok(Produced::Stored(Stored { base_offset: Offset(0), append_time: Timestamp(0) }));
        let acks: Vec<ProduceAck> = (0..4_096)
            .map(|correlation| {
                let result = match correlation % 3 {
                    0 => duplicates(CONTROL_BATCH_RECORDS_MAX),
                    1 => refusal(),
                    _ => stored(),
                };
                ProduceAck { correlation, result }
            })
            .collect();
        let (mut rest, mut frames) = (acks.as_slice(), 0);
        while !rest.is_empty() {
            let (part, later) = rest.split_at(frame_of(rest));
            let length = encode_acks(part).len();
            assert!(!part.is_empty() && length <= Kind::ProduceAcks.body_bytes_max(), "{length}");
            (rest, frames) = (later, frames + 1);
        }
        assert!(frames < 4_096 / 3, "they share frames: {frames}");
    }

    #[test]
    fn the_end_comes_when_all_in_hand_is_answered() {
        let acks = Acks::new(8, Arc::default());
        let lane = acks.add_lane();
        let token = acks.begin(lane, in_hand(1));
        acks.close();
        assert!(!acks.take_ready().1, "one is in hand");
        acks.complete(vec![(token, stored(0)), (token, stored(0)), (99, stored(0))]);
        let (ready, is_last) = acks.take_ready();
        assert_eq!((ready.len(), is_last), (1, true), "a token counts once, an unknown one not at all");
    }
}
