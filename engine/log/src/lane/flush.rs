//! What has been written and not yet synced into its segment, and what no index covers yet: kept small, in the
//! background, so that a crash leaves little to replay and little to read.
//!
//! A *flush* makes one segment catch up: `fdatasync`, then its partition's sync mark, then (if it pays) the segment's
//! index as of that moment, which is where the next recovery begins to read. Flushes happen, oldest first,
//! - when more bytes wait than half of the setting allows, down to a quarter (the lane itself flushes above the whole),
//! - while a journal file that is to be used again holds frames of them,
//! - when nothing has been appended for a tenth of a second.
//!
//! The *marks* (partition → offset known durable) go into the [checkpoint](crate::checkpoint) when there is a pause, at
//! least each second, and at a clean stop.
//!
//! Invariants
//! - A segment is forgotten here only after a sync that began after its last byte was noted.
//! - A mark is set only to what a sync has made durable, in a segment or in the journal.
//! - A failed sync poisons its partition and is never repeated; the journal frames it stood for stay owed for ever.

use std::collections::{HashMap, VecDeque};
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded};
use millstream_protocol::{Incarnation, Offset};
use parking_lot::{Mutex, MutexGuard};

use super::ring::Owed;
use crate::checkpoint::{Checkpoint, Checkpoints};
use crate::disk_space::DiskSpace;
use crate::partition::{Partition, Summary};
use crate::producers::Producers;
use crate::recovery::in_parallel;
use crate::segment::{Extent, Segment};
use crate::storage::descriptors::is_out_of_descriptors;

/// A pause in appends after which everything is flushed and marked.
const IDLE: Duration = Duration::from_millis(100);
/// Ticks of `IDLE` after which marks are written under load as well.
const MARK_TICKS: u32 = 10;
/// Below this an index saves no reading worth its own write.
const INDEX_BYTES_MIN: u64 = 1 << 20;
/// Nor below so many times what it says of producers.
const SUMMARY_SHARE: u64 = 8;

/// Bytes that have gone to a segment.
pub(crate) struct Written {
    pub partition: Arc<Partition>,
    pub segment: Arc<Segment>,
    pub bytes: u64,
    /// How durable they are, and where.
    pub safety: Safety,
    /// The offset after the last record.
    pub end: Offset,
}

/// Where written bytes are safe.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Safety {
    /// In their segment, synced.
    Segment,
    /// In the lane's journal, in the frame of this sequence.
    Journal(u64),
    /// In the page cache.
    Cache,
}

/// The background work of a log.
pub(crate) struct Flusher {
    state: Mutex<State>,
    /// One flush pass at a time; whoever takes segments away waits for it.
    working: Mutex<()>,
    /// Most unsynced bytes, and most bytes that no index covers.
    bytes_max: u64,
    /// A pass over more segments than this is shared between so many threads.
    threads: usize,
    checkpoints: Mutex<Checkpoints>,
    failing: AtomicBool,
}

#[derive(Default)]
struct State {
    waiting: HashMap<usize, Waiting>,
    /// By the first byte that is not synced, oldest first; a segment flushed since is skipped.
    order: VecDeque<(usize, u64)>,
    next_ticket: u64,
    unsynced_bytes: u64,
    unindexed_bytes: u64,
    /// What a pass has in hand, by lane.
    in_hand: Vec<(usize, u64)>,
    stuck: HashMap<usize, Vec<(u64, u64)>>,
    /// The last sequence of each lane's frames, and the one below which a journal file wants to be used again.
    journal: HashMap<usize, (u64, u64)>,
    marks: HashMap<Incarnation, Offset>,
    marks_changed: bool,
    noted: bool,
}

struct Waiting {
    partition: Arc<Partition>,
    segment: Arc<Segment>,
    ticket: u64,
    unsynced: u64,
    unindexed: u64,
    lane: usize,
    /// First and last frame that its unsynced bytes lie in.
    frames: Option<(u64, u64)>,
    /// An index is due, however small.
    must_index: bool,
}

impl Flusher {
    /// A flusher that goes on from what a recovery found.
    pub(crate) fn new(
        bytes_max: u64,
        threads: usize,
        checkpoints: Checkpoints,
        marks: HashMap<Incarnation, Offset>,
    ) -> Self {
        Self {
            state: Mutex::new(State { marks, ..State::default() }),
            working: Mutex::default(),
            bytes_max,
            threads,
            checkpoints: Mutex::new(checkpoints),
            failing: AtomicBool::new(false),
        }
    }

    /// The journal id of this start.
    pub(crate) fn journal_id(&self) -> u64 {
        self.checkpoints.lock().journal_id()
    }

    /// The offset below which a partition is known durable.
    pub(crate) fn mark(&self, incarnation: Incarnation) -> Option<Offset> {
        self.state.lock().marks.get(&incarnation).copied()
    }

    /// Sets a mark for what a recovery has just synced.
    pub(crate) fn set_mark(&self, incarnation: Incarnation, end: Offset) {
        self.state.lock().set_mark(incarnation, end);
    }

    /// Notes what a lane has written, after the write. `turn` is the sequence up to which the lane's journal would like
    /// to write over its frames.
    pub(crate) fn note(&self, lane: usize, written: Vec<Written>, turn: u64) {
        let mut state = self.state.lock();
        state.noted = true;
        let last = state.journal.get(&lane).map_or(0, |(last, _)| *last);
        let newest = written.iter().filter_map(|w| match w.safety {
            Safety::Journal(sequence) => Some(sequence),
            Safety::Segment | Safety::Cache => None,
        });
        let last = newest.max().unwrap_or(0).max(last);
        state.journal.insert(lane, (last, turn));
        for item in written {
            state.add(lane, item);
        }
    }

    /// What the lane's journal must keep.
    pub(crate) fn owed(&self, lane: usize) -> Owed {
        let state = self.state.lock();
        Owed { from: state.oldest_frame(lane), stuck: state.stuck.get(&lane).cloned().unwrap_or_default() }
    }

    /// Whether the lane itself must flush before it writes on.
    pub(crate) fn is_over(&self) -> bool {
        self.state.lock().unsynced_bytes > self.bytes_max
    }

    /// Forgets a segment that is sealed (its owner has synced and indexed it) or about to be deleted.
    pub(crate) fn forget(&self, segment: &Arc<Segment>) {
        self.state.lock().remove(key(segment));
    }

    /// Forgets all segments of a partition that is deleted, and waits for what is in hand.
    pub(crate) fn forget_partition(&self, incarnation: Incarnation) {
        {
            let mut state = self.state.lock();
            let gone: Vec<usize> = state
                .waiting
                .iter()
                .filter(|(_, w)| w.partition.incarnation() == incarnation)
                .map(|(key, _)| *key)
                .collect();
            gone.into_iter().for_each(|key| drop(state.remove(key)));
            state.marks.remove(&incarnation);
        }
        drop(self.working.lock());
    }

    /// One tick: what is due is flushed.
    pub(crate) fn tick(&self, idle: bool) {
        let _one = self.working.lock();
        self.flush(&self.due(idle));
    }

    /// Flushes everything of a lane that waits for a frame up to `sequence`.
    pub(crate) fn flush_frames(&self, lane: usize, sequence: u64) {
        let _one = self.working.lock();
        let due = {
            let mut state = self.state.lock();
            state.take(|w| w.lane == lane && w.frames.is_some_and(|(first, _)| first <= sequence))
        };
        self.flush(&due);
    }

    /// Flushes and indexes everything.
    pub(crate) fn flush_all(&self) {
        let _one = self.working.lock();
        let mut due = self.state.lock().take(|_| true);
        due.iter_mut().for_each(|w| w.must_index = true);
        self.flush(&due);
    }

    /// Writes the marks if any has changed.
    pub(crate) fn write_marks(&self) {
        self.write_checkpoint(1);
    }

    /// The last checkpoint of a clean stop: twice, so that no single damaged byte takes the marks with it.
    pub(crate) fn close(&self) {
        self.flush_all();
        self.state.lock().marks_changed = true;
        self.write_checkpoint(2);
    }

    fn write_checkpoint(&self, copies: usize) {
        let mut checkpoints = self.checkpoints.lock();
        let (marks, covered) = {
            let mut state = self.state.lock();
            if !std::mem::take(&mut state.marks_changed) {
                return;
            }
            (state.marks.clone(), state.covered())
        };
        let checkpoint = Checkpoint { journal_id: checkpoints.journal_id(), covered, marks };
        for _ in 0..copies {
            if let Err(error) = checkpoints.write(&checkpoint) {
                self.state.lock().marks_changed = true;
                // Without it the next start reads and replays more, and takes less for certain: nothing is lost.
                if !self.failing.swap(true, Ordering::Relaxed) {
                    tracing::warn!(%error, "a checkpoint was not written");
                }
                return;
            }
            self.failing.store(false, Ordering::Relaxed);
        }
    }

    fn due(&self, idle: bool) -> Vec<Waiting> {
        let mut state = self.state.lock();
        if idle {
            return state.take(|w| w.unsynced > 0);
        }
        let turns: HashMap<usize, u64> = state.journal.iter().map(|(lane, (_, turn))| (*lane, *turn)).collect();
        let mut due = state.take(|w| w.frames.is_some_and(|(first, _)| first <= turns[&w.lane]));
        // Many at a time: syncs that run side by side share the file system's own commits.
        let many = state.unsynced_bytes > self.bytes_max / 2;
        while many && state.unsynced_bytes > self.bytes_max / 4 {
            match state.take_oldest() {
                Some(oldest) => due.push(oldest),
                None => break,
            }
        }
        if state.unindexed_bytes > self.bytes_max {
            let average = state.unindexed_bytes / state.waiting.len().max(1) as u64;
            let mut largest = state.take(|w| w.unindexed >= average);
            largest.iter_mut().for_each(|w| w.must_index = true);
            due.extend(largest);
        }
        due
    }

    /// Makes segments catch up. The caller holds `working`.
    fn flush(&self, due: &[Waiting]) {
        in_parallel(self.threads, due, |one| self.flush_one(one));
        self.state.lock().in_hand.clear();
    }

    fn flush_one(&self, one: &Waiting) {
        if one.partition.is_read_only() {
            return self.keep_frames(one);
        }
        let is_due = |extent: &Extent, producers: &Producers| {
            let unindexed = one.unindexed.min(extent.end_position.saturating_sub(one.segment.indexed()));
            // An index is written whole: the more it says of producers the more it must be worth.
            let worth = INDEX_BYTES_MIN.max(SUMMARY_SHARE * producers.encoded_len() as u64).min(self.bytes_max / 4);
            one.must_index && unindexed > 0 || unindexed >= worth
        };
        let (covered, summary) = one.partition.covered(&one.segment, is_due);
        if one.unsynced > 0 {
            match one.segment.write_deferred() {
                Ok(()) => {}
                Err(error) if is_not_now(&error) => return self.state.lock().give_back(one),
                Err(error) => {
                    one.partition.poison(format!("cannot write {}: {error}", one.segment.path().display()).into());
                    return self.keep_frames(one);
                }
            }
            if let Err(error) = one.segment.file().sync_data() {
                one.partition.poison(format!("cannot sync {}: {error}", one.segment.path().display()).into());
                return self.keep_frames(one);
            }
            one.partition.note_synced(covered.end);
            self.set_mark(one.partition.incarnation(), covered.end);
        }
        let unindexed = one.unindexed.min(covered.end_position.saturating_sub(one.segment.indexed()));
        match summary {
            Summary::Of(producers) => one.partition.write_index(&one.segment, &covered, &producers),
            Summary::NotDue if unindexed > 0 => self.state.lock().put_back(one, unindexed),
            Summary::NotDue | Summary::Sealed => {}
        }
    }

    /// The frames of a partition that failed are all that is left of its last batches, until a recovery.
    fn keep_frames(&self, one: &Waiting) {
        if let Some(frames) = one.frames {
            self.state.lock().stuck.entry(one.lane).or_default().push(frames);
        }
    }
}

impl State {
    fn add(&mut self, lane: usize, item: Written) {
        let Written { partition, segment, bytes, safety, end } = item;
        let key = key(&segment);
        if safety != Safety::Cache {
            self.set_mark(partition.incarnation(), end);
        }
        let known = self.waiting.get(&key).map(|w| w.unsynced);
        if safety == Safety::Segment
            && let Some(unsynced) = known
        {
            // One sync has covered what waited, too.
            self.unsynced_bytes -= unsynced;
            let waiting = self.waiting.get_mut(&key).expect("just found");
            (waiting.unsynced, waiting.frames) = (0, None);
        }
        // Its turn comes by its first byte that is not synced.
        let begins = known.is_none_or(|unsynced| unsynced == 0);
        self.next_ticket += u64::from(begins);
        let ticket = self.next_ticket;
        if begins && safety != Safety::Segment {
            if self.order.len() > 64 + 2 * self.waiting.len() {
                self.order.retain(|(key, ticket)| self.waiting.get(key).is_some_and(|w| w.ticket == *ticket));
            }
            self.order.push_back((key, ticket));
        }
        let waiting = self.waiting.entry(key).or_insert_with(|| Waiting {
            partition,
            segment,
            ticket,
            unsynced: 0,
            unindexed: 0,
            lane,
            frames: None,
            must_index: false,
        });
        if begins {
            waiting.ticket = ticket;
        }
        waiting.unindexed += bytes;
        self.unindexed_bytes += bytes;
        if safety != Safety::Segment {
            waiting.unsynced += bytes;
            self.unsynced_bytes += bytes;
        }
        if let Safety::Journal(sequence) = safety {
            let first = waiting.frames.map_or(sequence, |(first, _)| first);
            waiting.frames = Some((first, sequence));
        }
    }

    fn set_mark(&mut self, incarnation: Incarnation, end: Offset) {
        let mark = self.marks.entry(incarnation).or_insert(Offset::ZERO);
        if *mark < end {
            *mark = end;
            self.marks_changed = true;
        }
    }

    fn remove(&mut self, key: usize) -> Option<Waiting> {
        let gone = self.waiting.remove(&key)?;
        self.unsynced_bytes -= gone.unsynced;
        self.unindexed_bytes -= gone.unindexed;
        Some(gone)
    }

    /// Takes segments in hand; their frames stay owed meanwhile.
    fn take(&mut self, which: impl Fn(&Waiting) -> bool) -> Vec<Waiting> {
        let mut keys: Vec<(u64, usize)> =
            self.waiting.iter().filter(|(_, w)| which(w)).map(|(key, w)| (w.ticket, *key)).collect();
        keys.sort_unstable();
        keys.into_iter().filter_map(|(_, key)| self.take_in_hand(key)).collect()
    }

    fn take_oldest(&mut self) -> Option<Waiting> {
        while let Some((key, ticket)) = self.order.pop_front() {
            if self.waiting.get(&key).is_some_and(|w| w.ticket == ticket && w.unsynced > 0) {
                return self.take_in_hand(key);
            }
        }
        None
    }

    fn take_in_hand(&mut self, key: usize) -> Option<Waiting> {
        let taken = self.remove(key)?;
        if let Some((first, _)) = taken.frames {
            self.in_hand.push((taken.lane, first));
        }
        Some(taken)
    }

    /// A segment that could not be flushed now.
    fn give_back(&mut self, one: &Waiting) {
        self.put_back(one, one.unindexed);
        let waiting = self.waiting.get_mut(&key(&one.segment)).expect("just put back");
        waiting.unsynced += one.unsynced;
        self.unsynced_bytes += one.unsynced;
        waiting.frames = match (one.frames, waiting.frames) {
            (Some((first, last)), Some((_, later))) => Some((first, last.max(later))),
            (older, newer) => older.or(newer),
        };
        waiting.ticket = waiting.ticket.min(one.ticket);
        self.order.push_front((key(&one.segment), waiting.ticket));
    }

    /// A segment that was synced but is not worth an index yet.
    fn put_back(&mut self, one: &Waiting, unindexed: u64) {
        let waiting = self.waiting.entry(key(&one.segment)).or_insert_with(|| Waiting {
            partition: one.partition.clone(),
            segment: one.segment.clone(),
            ticket: one.ticket,
            unsynced: 0,
            unindexed: 0,
            lane: one.lane,
            frames: None,
            must_index: false,
        });
        waiting.unindexed += unindexed;
        self.unindexed_bytes += unindexed;
    }

    /// The oldest frame of a lane that a segment's sync still waits for.
    fn oldest_frame(&self, lane: usize) -> Option<u64> {
        let waiting = self.waiting.values().filter(|w| w.lane == lane).filter_map(|w| Some(w.frames?.0));
        let in_hand = self.in_hand.iter().filter(|(of, _)| *of == lane).map(|(_, first)| *first);
        waiting.chain(in_hand).min()
    }

    /// For each lane the sequence up to which no frame need be replayed.
    fn covered(&self) -> Vec<(u32, u64)> {
        let lanes = self.journal.iter().map(|(lane, (last, _))| {
            let stuck = self.stuck.get(lane).into_iter().flatten().map(|(first, _)| *first);
            let owed = self.oldest_frame(*lane).into_iter().chain(stuck).min();
            (*lane as u32, owed.map_or(*last, |first| first - 1))
        });
        lanes.collect()
    }
}

/// Whether it may go better later: no room on the disk, no descriptor free.
fn is_not_now(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::StorageFull || is_out_of_descriptors(error)
}

fn key(segment: &Arc<Segment>) -> usize {
    Arc::as_ptr(segment) as usize
}

/// The thread that ticks a flusher.
pub(crate) struct FlushThread {
    stop: Option<Sender<()>>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl FlushThread {
    pub(crate) fn start(flusher: Arc<Flusher>, space: Arc<DiskSpace>) -> std::io::Result<Self> {
        let (stop, stopped) = bounded(0);
        let thread =
            std::thread::Builder::new().name("flush".to_owned()).spawn(move || run(&flusher, &space, &stopped))?;
        Ok(Self { stop: Some(stop), thread: Some(thread) })
    }
}

impl Drop for FlushThread {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Under load it looks every few milliseconds; the lanes need not wake it, since they flush for themselves at the limit.
fn run(flusher: &Flusher, space: &DiskSpace, stopped: &Receiver<()>) {
    const LOOK: Duration = Duration::from_millis(5);
    let (mut quiet, mut unmarked) = (Duration::ZERO, Duration::ZERO);
    loop {
        let pause = if quiet < IDLE { LOOK } else { IDLE };
        match stopped.recv_timeout(pause) {
            Err(RecvTimeoutError::Timeout) => {}
            Ok(()) | Err(RecvTimeoutError::Disconnected) => return,
        }
        space.look();
        let noted = std::mem::take(&mut flusher.lock_state().noted);
        quiet = if noted { Duration::ZERO } else { quiet + pause };
        unmarked += pause;
        let idle = quiet >= IDLE;
        flusher.tick(idle);
        if idle || unmarked >= IDLE * MARK_TICKS {
            flusher.write_marks();
            unmarked = Duration::ZERO;
        }
    }
}

impl Flusher {
    fn lock_state(&self) -> MutexGuard<'_, State> {
        self.state.lock()
    }
}
