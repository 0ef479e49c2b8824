//! One run: a seed's worth of appends, reads, rolls, retention, deaths and recoveries, held against the model.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use millstream_log::storage::Storage;
use millstream_log::{
    AppendSink, Appended, Clock, CompactionPolicy, Drive, Durability, Environment, Identity, Kind, Log, LogConfig,
    LogError, NewBatch, Partition, PartitionConfig, RetentionPolicy,
};
use millstream_protocol::batch::{BatchBuilder, BatchView, Codec};
use millstream_protocol::{Epoch, Incarnation, Offset, PartitionId, ProducerId, Record, StreamId, Timestamp};
use parking_lot::Mutex;

use crate::client::{Client, Heard};
use crate::disk::{Nature, SimDisk};
use crate::lying::{Bug, with_bug};
use crate::model::{Model, Number, key, value};
use crate::rng::Rng;

const PARTITIONS_MAX: usize = 12;
const EVENTS_KEPT: usize = 60;
/// Batches that a client keeps before it waits.
const KEPT_MAX: usize = 40;
/// What tells the tokens of clients from those of plain appends, which are values.
const CLIENT_TOKENS: u64 = 1 << 63;

/// What a run did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Report {
    /// Calls on the disk; with `trace` it tells whether two runs were the same.
    pub calls: u64,
    /// A hash of all that happened.
    pub trace: u64,
    /// Batches acknowledged.
    pub acknowledged: u64,
    /// Restarts, of all kinds.
    pub restarts: u64,
    /// Faults of the disk.
    pub faults: u64,
    /// Journal frames replayed.
    pub replayed: u64,
    /// Records that compaction removed.
    pub compacted: u64,
    /// Batches of idempotent producers that were acknowledged after they had been sent more than once.
    pub resent: u64,
}

/// A promise that was not kept.
#[derive(Debug, Clone)]
pub struct Failure {
    /// The run's seed.
    pub seed: u64,
    /// What went wrong.
    pub what: String,
    /// What the seed drew.
    pub options: String,
    /// The last things that happened.
    pub events: Vec<String>,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "seed {}: {}", self.seed, self.what)?;
        writeln!(f, "options: {}", self.options)?;
        self.events.iter().try_for_each(|event| writeln!(f, "  {event}"))?;
        write!(f, "again: cargo run --release -p millstream-torture -- sim --seeds 1 --first {}", self.seed)
    }
}

/// What a seed draws at its start.
#[derive(Debug, Clone)]
struct Options {
    nature: Nature,
    lanes: usize,
    unsynced_bytes: u64,
    segment_bytes: u64,
    operations: u64,
    faulty: bool,
    fills_up: bool,
    min_free_bytes: Option<u64>,
}

impl Options {
    fn draw(rng: &mut Rng) -> Self {
        let kind = rng.below(10);
        Self {
            nature: Nature { journalled: rng.one_in(4), reverting: rng.one_in(4), ..Nature::default() },
            lanes: 1 + rng.below(3) as usize,
            unsynced_bytes: [16 << 10, 64 << 10, 1 << 20][rng.below(3) as usize],
            segment_bytes: [1_500, 6_000, 40_000][rng.below(3) as usize],
            operations: 60 + rng.below(120),
            faulty: kind < 4,
            fills_up: kind == 4 || kind == 5,
            min_free_bytes: [None, Some(0), Some(3_000)][rng.below(3) as usize],
        }
    }
}

/// Runs a seed.
///
/// # Errors
/// The first promise that was not kept.
pub fn run(seed: u64, bug: Option<Bug>) -> Result<Report, Box<Failure>> {
    let mut rng = Rng::new(seed);
    let options = Options::draw(&mut rng);
    let disk = SimDisk::new(rng.draw(), options.nature.clone());
    let mut world = World {
        storage: with_bug(Arc::new(disk.clone()), bug),
        disk,
        rng,
        options: options.clone(),
        clock: Arc::default(),
        log: None,
        slots: Vec::new(),
        sink: Arc::default(),
        next_number: 1,
        next_stream: 1,
        next_token: CLIENT_TOKENS,
        epoch: 0,
        events: Vec::new(),
        violated: None,
        report: Report::default(),
        trace: 0xcbf2_9ce4_8422_2325,
    };
    match world.live() {
        Ok(()) => {
            world.report.calls = world.disk.calls();
            world.report.faults = world.disk.faults();
            world.report.trace = world.trace;
            Ok(world.report)
        }
        Err(what) => {
            let skip = world.events.len().saturating_sub(EVENTS_KEPT);
            let events = world.events.split_off(skip);
            Err(Box::new(Failure { seed, what, options: format!("{options:?}"), events }))
        }
    }
}

#[derive(Default)]
struct ManualClock(AtomicI64);

impl Clock for ManualClock {
    fn append_time(&self) -> Timestamp {
        Timestamp(self.0.load(Ordering::Relaxed))
    }
}

/// Collects the answers to appends.
#[derive(Default)]
struct Sink(Mutex<Vec<(u64, Result<Appended, LogError>)>>);

impl AppendSink for Sink {
    fn complete(&self, results: Vec<(u64, Result<Appended, LogError>)>) {
        self.0.lock().extend(results);
    }
}

type Batch = Vec<(Number, usize)>;

struct Slot {
    identity: Identity,
    config: PartitionConfig,
    model: Model,
    keys: Option<u64>,
    partition: Option<Arc<Partition>>,
    /// The idempotent producer that alone writes to it; without, batches are sent once.
    client: Option<Client>,
    /// Appends without an answer, by token.
    sent: BTreeMap<u64, Batch>,
    /// What each state key may hold.
    state: HashMap<&'static str, Vec<Option<Vec<u8>>>>,
}

struct World {
    disk: SimDisk,
    storage: Arc<dyn Storage>,
    rng: Rng,
    options: Options,
    clock: Arc<ManualClock>,
    log: Option<Log>,
    slots: Vec<Slot>,
    sink: Arc<Sink>,
    next_number: Number,
    next_stream: u64,
    next_token: u64,
    epoch: u32,
    events: Vec<String>,
    /// What an answer contradicted.
    violated: Option<String>,
    report: Report,
    trace: u64,
}

/// How a process ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    Closed,
    Killed,
    PowerLost,
}

const STATE_KEYS: [&str; 2] = ["lake/1", "lake/2"];

impl World {
    fn live(&mut self) -> Result<(), String> {
        self.open_until_it_works()?;
        for _ in 0..self.options.operations {
            self.clock.0.fetch_add(self.rng.below(1_000) as i64, Ordering::Relaxed);
            match self.rng.below(100) {
                0..=54 => self.append_some()?,
                55..=59 => self.tick(),
                60..=66 => self.put_state()?,
                67..=71 => self.forget_some()?,
                72..=74 => self.create()?,
                75 => self.delete()?,
                76..=81 => self.check_all(None)?,
                82..=85 => self.change_nature(),
                86..=88 => self.compact_some(),
                89..=91 => self.restart(End::Closed)?,
                92..=95 => self.restart(End::Killed)?,
                _ => self.restart(End::PowerLost)?,
            }
            if self.disk.is_dead() {
                let end = if self.rng.one_in(2) { End::Killed } else { End::PowerLost };
                self.restart(end)?;
            }
            self.spot_check()?;
        }
        // What a recovery serves must survive the next power loss.
        self.restart(End::PowerLost)?;
        self.restart(End::PowerLost)?;
        self.restart(End::Closed)?;
        self.finish()
    }

    /// On a disk that works all that the clients still keep is stored.
    fn finish(&mut self) -> Result<(), String> {
        // There is room again, and that is seen.
        let capacity = self.used() + (1 << 20);
        self.disk.set_nature(|nature| nature.capacity = Some(capacity));
        self.tick();
        // Once to be told that something is missing, once under a new epoch.
        for _ in 0..2 {
            for index in 0..self.slots.len() {
                self.send_again(index)?;
            }
            self.answer_all();
            self.take_answers()?;
        }
        let kept = |slot: &Slot| slot.client.as_ref().is_some_and(|client| !client.kept.is_empty());
        if let Some(slot) = self.slots.iter().find(|slot| kept(slot)) {
            return Err(format!(
                "stream {}: a client's batches are not taken: {:?}",
                slot.identity.stream, slot.client
            ));
        }
        self.check_all(None)
    }

    fn note(&mut self, event: String) {
        for byte in event.bytes().chain(self.disk.calls().to_le_bytes()) {
            self.trace = (self.trace ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3);
        }
        self.events.push(event);
    }

    // The process's life ---------------------------------------------------------------------------------------------

    fn config(&self) -> LogConfig {
        LogConfig {
            lanes: self.options.lanes,
            index_interval_bytes: 1_000,
            state_segment_bytes: 2_000,
            snapshot_interval_bytes: 500,
            unsynced_bytes: self.options.unsynced_bytes,
            min_free_bytes: self.options.min_free_bytes,
        }
    }

    fn open(&mut self) -> Result<(), LogError> {
        self.epoch += 1;
        let environment =
            Environment { storage: self.storage.clone(), clock: self.clock.clone(), drive: Drive::Caller };
        let log = Log::open_in(environment, Path::new("/data"), self.config(), 7)?;
        let known: Vec<StreamId> = self.slots.iter().map(|slot| slot.identity.stream).collect();
        log.quarantine_unknown(|id| known.contains(&id))?;
        let epoch = Epoch(self.epoch);
        for slot in &mut self.slots {
            slot.partition = Some(log.open_partition(slot.identity, slot.config, epoch)?);
        }
        self.report.replayed += log.replayed().frames as u64;
        self.log = Some(log);
        Ok(())
    }

    /// Opens the log; dies in it now and then, and under faults as often as it fails.
    fn open_until_it_works(&mut self) -> Result<(), String> {
        for attempt in 0.. {
            let doomed = attempt < 3 && self.rng.one_in(4);
            let faulty = attempt < 3 && self.options.faulty && self.rng.one_in(3);
            self.set_faults(faulty);
            let is_full = attempt < 2 && self.options.fills_up && self.rng.one_in(2);
            if is_full {
                let capacity = self.used() + self.rng.below(3_000);
                self.disk.set_nature(|nature| nature.capacity = Some(capacity));
                self.note(format!("capacity: {capacity}"));
            }
            let faults = self.disk.faults();
            if doomed {
                let call = self.disk.calls() + 1 + self.rng.below(120);
                self.disk.die_at(Some(call));
            }
            let opened = self.open();
            let died = self.disk.is_dead();
            self.note(format!("open: {}", opened.as_ref().err().map_or("ok".into(), ToString::to_string)));
            self.disk.die_at(None);
            match opened {
                Ok(()) if !died => break,
                _ if died => {}
                Err(_) if self.disk.faults() > faults || is_full => {}
                Ok(()) => {}
                Err(error) => return Err(format!("the log does not open: {error}")),
            }
            let power = self.rng.one_in(2);
            self.drop_log();
            self.note(format!("gone while opening (power lost: {power})"));
            if power {
                self.disk.power_loss()
            } else {
                self.disk.kill()
            }
            if power || self.disk.faults() > faults {
                // A `written` partition's end may have gone in this one, too.
                self.slots.iter_mut().for_each(|slot| slot.model.may_lose_end());
            }
        }
        self.set_faults(false);
        Ok(())
    }

    fn drop_log(&mut self) {
        // A process that dies says nothing more to the disk.
        self.disk.die_at(Some(0));
        let _ = self.storage.list(Path::new("/"));
        self.slots.iter_mut().for_each(|slot| slot.partition = None);
        self.log = None;
        self.collect_answers();
    }

    fn restart(&mut self, end: End) -> Result<(), String> {
        if end == End::Closed && !self.disk.is_dead() {
            self.check_all(None)?;
        } else if !self.disk.is_dead() && self.rng.one_in(2) {
            // It dies in the middle of something.
            let call = self.disk.calls() + 1 + self.rng.below(30);
            self.disk.die_at(Some(call));
            for _ in 0..3 {
                self.append_some()?;
                self.tick();
            }
            if self.rng.one_in(2) { self.compact_some() } else { self.forget_some()? }
        }
        self.restart_at_once(end)
    }

    fn restart_at_once(&mut self, end: End) -> Result<(), String> {
        self.report.restarts += 1;
        let faults = self.disk.faults();
        let sick: Vec<bool> =
            self.slots.iter().map(|slot| slot.partition.as_ref().is_some_and(|p| p.is_read_only())).collect();
        let mut clean = end == End::Closed && !self.disk.is_dead();
        if clean {
            self.slots.iter().filter_map(|slot| slot.partition.as_ref()).for_each(|partition| partition.close());
            if let Some(log) = &self.log {
                log.close();
            }
            clean = self.disk.faults() == faults && !self.disk.is_dead();
        }
        self.drop_log();
        self.note(format!("{end:?} (clean: {clean})"));
        // After a clean stop the power may go without harm.
        let power = end == End::PowerLost || end == End::Closed && self.rng.one_in(2);
        if power {
            self.disk.power_loss()
        } else {
            self.disk.kill()
        }
        for (slot, sick) in self.slots.iter_mut().zip(sick) {
            for (_, batch) in std::mem::take(&mut slot.sent) {
                slot.model.unknown(&batch);
            }
            if let Some(client) = &mut slot.client {
                client.cut();
            }
            if power && !clean || sick || self.disk.faults() > faults {
                slot.model.may_lose_end();
            }
        }
        self.open_until_it_works()?;
        self.check_all(Some(end))
    }

    fn set_faults(&mut self, faulty: bool) {
        let rates = [0, 30, 100, 400];
        let mut draw = || if faulty { rates[self.rng.below(4) as usize] } else { 0 };
        let (sync, write, read, directory) = (draw(), draw(), draw(), draw());
        self.disk.set_nature(|nature| {
            nature.sync_fails_one_in = sync;
            nature.write_fails_one_in = write;
            nature.read_fails_one_in = read;
            nature.directory_fails_one_in = directory;
            if !faulty {
                nature.capacity = None;
            }
        });
    }

    fn used(&self) -> u64 {
        self.disk.files(Path::new("/")).iter().map(|(_, length)| length).sum()
    }

    fn change_nature(&mut self) {
        if self.options.faulty {
            let on = self.rng.one_in(2);
            self.set_faults(on);
            self.note(format!("faults: {on}"));
        }
        if self.options.fills_up {
            let used = self.used();
            let capacity = self.rng.one_in(2).then(|| used + self.rng.below(6_000));
            self.disk.set_nature(|nature| nature.capacity = capacity);
            self.note(format!("capacity: {capacity:?}"));
        }
    }

    // What is done ---------------------------------------------------------------------------------------------------

    fn create(&mut self) -> Result<(), String> {
        if self.slots.len() >= PARTITIONS_MAX {
            return Ok(());
        }
        let Some(log) = &self.log else { return Ok(()) };
        let identity = Identity {
            stream: StreamId(self.next_stream),
            partition: PartitionId(self.rng.below(3) as u32),
            incarnation: Incarnation(self.rng.draw()),
            kind: Kind::Records,
        };
        self.next_stream += 1;
        let durability = if self.rng.one_in(4) { Durability::Written } else { Durability::Synced };
        let keys = self.rng.one_in(3).then(|| 2 + self.rng.below(20));
        let bytes = (keys.is_none() && self.rng.one_in(3)).then_some(10_000);
        let config = PartitionConfig {
            durability,
            segment_bytes: self.options.segment_bytes,
            retention: RetentionPolicy { age_ms: None, bytes },
            compaction: keys.map(|_| CompactionPolicy { key_map_bytes: 2_000, ..CompactionPolicy::default() }),
            ..PartitionConfig::default()
        };
        let client =
            self.rng.one_in(2).then(|| Client::new(ProducerId(self.next_stream), durability == Durability::Written));
        let faults = self.disk.faults();
        let created = log.create_partition(identity, config, Epoch(self.epoch));
        let said = created.as_ref().err().map_or("ok".into(), ToString::to_string);
        match created {
            Ok(partition) => self.slots.push(Slot {
                identity,
                config,
                model: Model::new(durability, keys),
                keys,
                partition: Some(partition),
                client,
                sent: BTreeMap::new(),
                state: HashMap::new(),
            }),
            Err(error) => {
                let full =
                    matches!(&error, LogError::Io { source, .. } if source.kind() == std::io::ErrorKind::StorageFull);
                if !full && self.disk.faults() == faults && !self.disk.is_dead() {
                    return Err(format!("a partition was not created: {error}"));
                }
                let _ = log.delete_stream(identity.stream);
            }
        }
        self.note(format!("create stream {} ({durability:?}): {said}", identity.stream));
        Ok(())
    }

    fn delete(&mut self) -> Result<(), String> {
        if self.slots.len() < 2 {
            return Ok(());
        }
        let index = self.rng.below(self.slots.len() as u64) as usize;
        self.answer_all();
        let slot = self.slots.remove(index);
        let Some((log, partition)) = self.log.as_ref().zip(slot.partition) else { return Ok(()) };
        partition.mark_deleted();
        let deleted = log.delete_stream(slot.identity.stream);
        self.note(format!("delete stream {}: {:?}", slot.identity.stream, deleted.is_ok()));
        Ok(())
    }

    fn append_some(&mut self) -> Result<(), String> {
        if self.slots.is_empty() {
            return self.create();
        }
        let burst_max = if self.rng.one_in(3) { 40 } else { 4 };
        let burst = 1 + self.rng.below(burst_max);
        for _ in 0..burst {
            let index = self.rng.below(self.slots.len() as u64) as usize;
            let records = 1 + self.rng.below(4);
            let length_max = if self.rng.one_in(20) { 3_000 } else { 60 };
            let batch: Batch =
                (0..records).map(|n| (self.next_number + n, self.rng.below(length_max) as usize)).collect();
            self.next_number += records;
            if self.slots[index].client.is_some() {
                self.send_new(index, batch)?;
                continue;
            }
            let token = batch[0].0;
            let slot = &mut self.slots[index];
            let Some(partition) = &slot.partition else { continue };
            let sink: Arc<dyn AppendSink> = self.sink.clone();
            match partition.append(encode(&batch, slot.keys, None), token, &sink) {
                Ok(()) => drop(slot.sent.insert(token, batch)),
                Err(_) => slot.model.refused(&batch),
            }
        }
        self.note(format!("append {burst} batches, up to value {}", self.next_number - 1));
        if self.rng.below(4) > 0 {
            self.answer_all();
        }
        self.take_answers()
    }

    /// A client sends one more batch; now and then all that it keeps, without waiting for answers, as after a connection that
    /// was lost.
    fn send_new(&mut self, index: usize, batch: Batch) -> Result<(), String> {
        let slot = &mut self.slots[index];
        let Some(client) = &mut slot.client else { return Ok(()) };
        if client.kept.len() < KEPT_MAX {
            slot.model.unknown(&batch);
            client.keep(batch);
            if client.is_flowing() {
                let last = client.kept.len() - 1;
                self.send_kept(index, last);
            }
        }
        if self.rng.one_in(8) && self.slots[index].client.as_ref().is_some_and(Client::is_flowing) {
            self.send_kept(index, 0);
        }
        self.send_again(index)
    }

    /// A client that is behind sends all again once nothing is under way, under a new epoch if it needs one.
    fn send_again(&mut self, index: usize) -> Result<(), String> {
        let slot = &mut self.slots[index];
        let (Some(client), Some(partition), Some(log)) = (&mut slot.client, &slot.partition, &self.log) else {
            return Ok(());
        };
        if !client.is_ready() {
            return Ok(());
        }
        if client.wants_epoch() {
            let (id, epoch) = (client.id, client.epoch + 1);
            if log.fence_producer(id, epoch).is_err() {
                return Ok(());
            }
            client.renumber(epoch, partition.next_sequence(id).unwrap_or(0));
            let stream = slot.identity.stream;
            // The barrier has carried out what waited.
            self.note(format!("the producer of stream {stream} goes on under epoch {epoch}"));
            self.take_answers()?;
        }
        if let Some(client) = &mut self.slots[index].client {
            client.begin_again();
        }
        self.send_kept(index, 0);
        Ok(())
    }

    /// Sends what a client keeps, from an index on.
    fn send_kept(&mut self, index: usize, from: usize) {
        let slot = &mut self.slots[index];
        let (Some(client), Some(partition)) = (&mut slot.client, &slot.partition) else { return };
        let sink: Arc<dyn AppendSink> = self.sink.clone();
        for at in from..client.kept.len() {
            let kept = &client.kept[at];
            let view = encode(&kept.batch, slot.keys, Some((client.id, client.epoch, kept.base_sequence)));
            let batch = NewBatch { view, resend: kept.sends > 0, dedup: None };
            self.next_token += 1;
            if partition.append(batch, self.next_token, &sink).is_err() {
                client.hold_back();
                return;
            }
            client.sent(at, self.next_token);
        }
    }

    fn hear(&mut self, index: usize, token: u64, result: Result<Appended, LogError>) {
        let slot = &mut self.slots[index];
        let Some(client) = &mut slot.client else { return };
        // The first refusal says it all.
        let said = result.as_ref().err().filter(|_| client.is_flowing()).map(ToString::to_string);
        let stream = slot.identity.stream;
        let heard = client.hear(token, result).and_then(|heard| match heard {
            Heard::Nothing => Ok(()),
            Heard::Acknowledged { base, batch, again } => {
                self.report.acknowledged += 1;
                self.report.resent += u64::from(again);
                slot.model.acknowledged_again(base, &batch)
            }
        });
        if let Err(what) = heard {
            self.violated.get_or_insert(format!("stream {stream}: {what}"));
        }
        if let Some(said) = said {
            self.note(format!("a batch of the producer of stream {stream} is not acknowledged: {said}"));
        }
    }

    fn answer_all(&mut self) {
        if let Some(log) = &self.log {
            log.step();
        }
        self.collect_answers();
    }

    fn take_answers(&mut self) -> Result<(), String> {
        self.collect_answers();
        self.violated.take().map_or(Ok(()), Err)
    }

    fn collect_answers(&mut self) {
        let answers = std::mem::take(&mut *self.sink.0.lock());
        for (token, result) in answers {
            let expects = |slot: &Slot| slot.client.as_ref().is_some_and(|client| client.expects(token));
            if let Some(index) = self.slots.iter().position(expects) {
                self.hear(index, token, result);
                continue;
            }
            let Some(slot) = self.slots.iter_mut().find(|slot| slot.sent.contains_key(&token)) else { continue };
            let batch = slot.sent.remove(&token).expect("just found");
            let stream = slot.identity.stream;
            match result {
                Ok(appended) => {
                    self.report.acknowledged += 1;
                    if let Err(what) = slot.model.acknowledged(appended.base_offset.0, &batch) {
                        self.violated.get_or_insert(format!("stream {stream}: {what}"));
                    }
                }
                Err(LogError::DurabilityUnknown { reason }) => {
                    slot.model.unknown(&batch);
                    self.note(format!("value {token} of stream {stream} is unknown: {reason}"));
                }
                Err(error) => {
                    slot.model.refused(&batch);
                    self.note(format!("value {token} of stream {stream} is refused: {error}"));
                }
            }
        }
    }

    fn tick(&mut self) {
        let idle = self.rng.one_in(3);
        if let Some(log) = &self.log {
            log.tick(idle);
        }
        self.note(format!("tick (idle: {idle})"));
    }

    fn put_state(&mut self) -> Result<(), String> {
        if self.slots.is_empty() {
            return Ok(());
        }
        let index = self.rng.below(self.slots.len() as u64) as usize;
        let key = STATE_KEYS[self.rng.below(2) as usize];
        let value = (!self.rng.one_in(5)).then(|| self.rng.draw().to_le_bytes().repeat(1 + self.rng.below(8) as usize));
        let Some(partition) = self.slots[index].partition.clone() else { return Ok(()) };
        let put = partition.state_put(key, value.as_deref());
        self.collect_answers();
        let slot = &mut self.slots[index];
        let known = slot.state.entry(key).or_insert_with(|| vec![None]);
        match &put {
            Ok(()) => *known = vec![value],
            Err(LogError::DiskFull | LogError::ReadOnly { .. } | LogError::Throttled { .. }) => {}
            Err(_) => known.push(value),
        }
        let stream = slot.identity.stream;
        self.note(format!("state {key} of stream {stream}: {:?}", put.as_ref().err().map(ToString::to_string)));
        self.take_answers()
    }

    /// Carries out a compaction on a partition that wants it.
    fn compact_some(&mut self) {
        let compacted: Vec<usize> = (0..self.slots.len()).filter(|index| self.slots[*index].keys.is_some()).collect();
        let Some(index) = compacted.get(self.rng.below(compacted.len() as u64) as usize) else { return };
        let slot = &self.slots[*index];
        let Some(partition) = &slot.partition else { return };
        let done = partition.run_compaction();
        let removed = done.as_ref().map_or(0, |done| done.records_removed);
        self.report.compacted += removed;
        let stream = slot.identity.stream;
        self.note(format!("stream {stream} is compacted: {done:?}"));
    }

    /// Retention, or an explicit deletion.
    fn forget_some(&mut self) -> Result<(), String> {
        if self.slots.is_empty() {
            return Ok(());
        }
        let index = self.rng.below(self.slots.len() as u64) as usize;
        let slot = &mut self.slots[index];
        let Some(partition) = slot.partition.clone() else { return Ok(()) };
        let end = partition.high_watermark().0;
        let done = if self.rng.one_in(2) {
            if slot.config.retention.bytes.is_some() {
                slot.model.start_asked(end);
            }
            partition.run_retention(None).map(|()| None)
        } else {
            let wanted = self.rng.below(end + 1);
            slot.model.start_asked(wanted);
            partition.delete_before(Offset(wanted)).map(|_| Some(wanted))
        };
        let stream = slot.identity.stream;
        if let Ok(Some(wanted)) = &done
            && partition.log_start().0 < *wanted
        {
            return Err(format!(
                "stream {stream}: the log start is {} after deleting before {wanted}",
                partition.log_start()
            ));
        }
        self.note(format!("stream {stream} forgets ({done:?}), begins at {}", partition.log_start()));
        self.take_answers()
    }

    // What must hold -------------------------------------------------------------------------------------------------

    /// After every step: one partition is read at one place.
    fn spot_check(&mut self) -> Result<(), String> {
        self.take_answers()?;
        if self.slots.is_empty() {
            return Ok(());
        }
        let index = self.rng.below(self.slots.len() as u64) as usize;
        let slot = &self.slots[index];
        let near = self.rng.below(slot.model.end() + 1);
        let Some(partition) = slot.partition.as_ref().filter(|partition| !partition.is_read_only()) else {
            return Ok(());
        };
        slot.model.spot_check(partition, near).map_err(|what| format!("stream {}: {what}", slot.identity.stream))
    }

    /// Everything is read and compared, on a disk that works.
    fn check_all(&mut self, restarted: Option<End>) -> Result<(), String> {
        if self.disk.is_dead() {
            return Ok(());
        }
        self.answer_all();
        self.take_answers()?;
        if self.disk.is_dead() {
            return Ok(());
        }
        let mut saved = None;
        self.disk.set_nature(|nature| {
            saved = Some(nature.clone());
            nature.read_fails_one_in = 0;
        });
        for slot in &mut self.slots {
            let Some(partition) = &slot.partition else { continue };
            // Of a partition whose disk has failed the cache may show anything until a restart.
            if restarted.is_none() && partition.is_read_only() {
                continue;
            }
            let stream = slot.identity.stream;
            slot.model.check(partition, restarted.is_some()).map_err(|what| format!("stream {stream}: {what}"))?;
            for kept in slot.client.iter().flat_map(|client| &client.kept) {
                slot.model.reopen(&kept.batch);
            }
            for (key, known) in &mut slot.state {
                let found = partition.state_get(key).map_err(|error| error.to_string())?.map(|bytes| bytes.to_vec());
                if !known.contains(&found) {
                    return Err(format!("stream {stream}: state {key} is {found:?}, not one of {known:?}"));
                }
                if restarted.is_some() {
                    *known = vec![found];
                }
            }
        }
        let saved = saved.expect("just set");
        self.disk.set_nature(|nature| nature.read_fails_one_in = saved.read_fails_one_in);
        self.note(format!("checked (after {restarted:?})"));
        Ok(())
    }
}

fn encode(batch: &Batch, keys: Option<u64>, producer: Option<(ProducerId, u32, u64)>) -> BatchView {
    let mut builder = BatchBuilder::new(Codec::None);
    if let Some((id, epoch, base_sequence)) = producer {
        builder.producer(id, epoch, base_sequence);
    }
    for (number, length) in batch {
        let record = Record::new(value(*number, *length));
        let record = if keys.is_some() { record.key(key(*number, keys).to_le_bytes().to_vec()) } else { record };
        builder.push(&record).expect("a small record");
    }
    BatchView::parse(&builder.finish().expect("not empty")).expect("just built")
}
