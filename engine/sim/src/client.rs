//! A client with an idempotent producer, as simply as it can be: it numbers its batches, keeps each until it is acknowledged,
//! and after whatever went wrong sends all that it keeps again, in order.
//!
//! It knows only what it is told. What a [`model`](crate::model) then finds in the log is each of its batches once, in order:
//! values rise with offsets, so one that is stored twice, or behind a later one, is a violation there.

use std::collections::{BTreeMap, HashMap, VecDeque};

use millstream_log::{Appended, LogError};
use millstream_protocol::ProducerId;

use crate::model::Number;

/// A batch that is not acknowledged.
#[derive(Debug, Clone)]
pub(crate) struct Kept {
    pub base_sequence: u64,
    pub batch: Vec<(Number, usize)>,
    /// How often it was sent under this number.
    pub sends: u32,
}

/// What an answer means.
#[derive(Debug)]
pub(crate) enum Heard {
    /// The batch is acknowledged, for the first time, at that offset; whether it was sent more than once.
    Acknowledged { base: u64, batch: Vec<(Number, usize)>, again: bool },
    /// Nothing new.
    Nothing,
}

/// The client of one partition.
#[derive(Debug)]
pub(crate) struct Client {
    pub id: ProducerId,
    pub epoch: u32,
    /// The sequence of the next batch.
    next: u64,
    pub kept: VecDeque<Kept>,
    /// What is under way: each token's batch, by its first value.
    under_way: BTreeMap<u64, Number>,
    /// Something failed: nothing more is sent before all is answered, and then all again.
    is_behind: bool,
    /// A new epoch is needed first.
    wants_epoch: bool,
    /// Whether the partition may lose what it has acknowledged.
    may_lose: bool,
    /// Where the batches that were under way more than once were acknowledged.
    acknowledged: HashMap<Number, u64>,
}

impl Client {
    pub(crate) fn new(id: ProducerId, may_lose: bool) -> Self {
        Self {
            id,
            epoch: 0,
            next: 0,
            kept: VecDeque::new(),
            under_way: BTreeMap::new(),
            is_behind: false,
            wants_epoch: false,
            may_lose,
            acknowledged: HashMap::new(),
        }
    }

    /// Takes one more batch.
    pub(crate) fn keep(&mut self, batch: Vec<(Number, usize)>) {
        let base_sequence = self.next;
        self.next += batch.len() as u64;
        self.kept.push_back(Kept { base_sequence, batch, sends: 0 });
    }

    /// Whether a new batch may be sent behind those under way.
    pub(crate) fn is_flowing(&self) -> bool {
        !self.is_behind
    }

    /// Whether all is to be sent again now.
    pub(crate) fn is_ready(&self) -> bool {
        self.is_behind && self.under_way.is_empty()
    }

    /// Whether it must ask for a new epoch before that.
    pub(crate) fn wants_epoch(&self) -> bool {
        self.wants_epoch
    }

    /// Goes on under a new epoch; `next` is what the partition stores next. What lies below is stored and keeps its number.
    pub(crate) fn renumber(&mut self, epoch: u32, next: u64) {
        self.epoch = epoch;
        self.wants_epoch = false;
        let mut sequence = next;
        for kept in &mut self.kept {
            if kept.base_sequence + kept.batch.len() as u64 > next || self.may_lose {
                // Under this number it was never sent. What may have been lost is not looked for: the partition's word counts.
                (kept.base_sequence, kept.sends) = (sequence, 0);
                sequence += kept.batch.len() as u64;
            }
        }
        self.next = sequence;
    }

    /// All is being sent again.
    pub(crate) fn begin_again(&mut self) {
        self.is_behind = false;
    }

    /// The kept batch at an index goes under a token.
    pub(crate) fn sent(&mut self, index: usize, token: u64) {
        let kept = &mut self.kept[index];
        kept.sends += 1;
        self.under_way.insert(token, kept.batch[0].0);
    }

    /// A batch was not taken.
    pub(crate) fn hold_back(&mut self) {
        self.is_behind = true;
    }

    /// The connection is lost: no more answers come.
    pub(crate) fn cut(&mut self) {
        self.under_way.clear();
        self.acknowledged.clear();
        self.is_behind = true;
    }

    pub(crate) fn expects(&self, token: u64) -> bool {
        self.under_way.contains_key(&token)
    }

    /// An answer has come.
    pub(crate) fn hear(&mut self, token: u64, result: Result<Appended, LogError>) -> Result<Heard, String> {
        let number = self.under_way.remove(&token).expect("the caller has asked");
        let appended = match result {
            Ok(appended) => appended,
            Err(error) => return self.hear_error(number, &error).map(|()| Heard::Nothing),
        };
        let base = appended.base_offset.0;
        if let Some(before) = self.acknowledged.get(&number) {
            return match *before == base {
                true => Ok(Heard::Nothing),
                false => Err(format!("value {number} was acknowledged at offset {before}, and now at {base}")),
            };
        }
        match self.kept.front() {
            Some(front) if front.batch[0].0 == number => {
                let Kept { batch, sends, .. } = self.kept.pop_front().expect("just seen");
                self.acknowledged.insert(number, base);
                Ok(Heard::Acknowledged { base, batch, again: sends > 1 })
            }
            front => Err(format!("value {number} was acknowledged before {:?}", front.map(|kept| kept.batch[0].0))),
        }
    }

    fn hear_error(&mut self, number: Number, error: &LogError) -> Result<(), String> {
        self.is_behind = true;
        match error {
            LogError::OutOfOrderSequence { .. } | LogError::UnknownProducer { .. } if self.may_lose => {
                self.wants_epoch = true;
                Ok(())
            }
            LogError::OutOfOrderSequence { .. }
            | LogError::UnknownProducer { .. }
            | LogError::ProducerFenced { .. }
            | LogError::Duplicates(_) => Err(format!("value {number} is refused: {error}")),
            _ => Ok(()),
        }
    }
}
