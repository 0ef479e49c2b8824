//! What goes wrong, and when: faults that are told one by one, and chaos; and what was done to whom.

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use parking_lot::Mutex;

use crate::asked::{Asked, Operation};
use crate::chaos::Chaos;

/// How many requests are remembered in [`Faults::seen`]; older ones are only counted.
const SEEN_MAX: usize = 100_000;

/// An answer that says no.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Refusal {
    /// 500 InternalError.
    InternalError,
    /// 503 SlowDown.
    SlowDown,
    /// 429 TooManyRequests, as some stores say it.
    TooManyRequests,
    /// 409 ConditionalRequestConflict.
    Conflict,
    /// 403 AccessDenied.
    AccessDenied,
}

/// What is done to a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Act {
    /// Nothing is done, and the answer says so.
    Refuse(Refusal),
    /// It is done, and the answer says that it was not.
    ApplyThenRefuse(Refusal),
    /// Nothing is done; the connection is closed without an answer.
    HangUp,
    /// It is done; the connection is closed without an answer.
    ApplyThenHangUp,
    /// It is done at once; the answer comes that much later.
    ApplyThenAnswerAfter(Duration),
    /// The connection is closed without an answer; that much later it is done after all.
    HangUpThenApplyAfter(Duration),
    /// Half of the request's body is read, then the connection is closed. Nothing is done.
    CutRequest,
    /// It is done; half of the answer's body is sent, which says that it is longer, then the connection is closed.
    CutAnswer,
    /// For puts: it is done, and the next so many lists of its bucket do not show it, if it is new.
    Unlisted {
        /// How many pages of lists.
        lists: u32,
    },
}

/// One fault: happens once, to the first request it is meant for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    act: Act,
    operations: Vec<Operation>,
    key: String,
    after: u32,
}

impl Fault {
    /// For the next request of any kind; the others narrow that.
    pub fn new(act: Act) -> Self {
        Self { act, operations: Vec::new(), key: String::new(), after: 0 }
    }

    /// Only for this operation; repeated: for one of those.
    #[must_use]
    pub fn on(mut self, operation: Operation) -> Self {
        self.operations.push(operation);
        self
    }

    /// Only where the key has this in it; a list's key is its prefix, DeleteObjects has none.
    #[must_use]
    pub fn key(mut self, part: &str) -> Self {
        part.clone_into(&mut self.key);
        self
    }

    /// Only after so many others that it would be meant for.
    #[must_use]
    pub fn after(mut self, count: u32) -> Self {
        self.after = count;
        self
    }

    fn is_for(&self, asked: &Asked) -> bool {
        (self.operations.is_empty() || self.operations.contains(&asked.operation)) && asked.key.contains(&self.key)
    }
}

/// A request, and what became of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen {
    /// What it asked for.
    pub operation: Operation,
    /// Its bucket.
    pub bucket: String,
    /// Its key; a list's prefix.
    pub key: String,
    /// What was done to it.
    pub act: Option<Act>,
    /// The HTTP status with which it was carried out, whatever was answered; `None` if it was not, or not yet.
    pub status: Option<u16>,
}

/// How often an operation was asked for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Tally {
    /// Requests.
    pub requests: u64,
    /// Those of them to which a fault happened.
    pub faulty: u64,
}

/// What goes wrong. Faults come before chaos.
#[derive(Debug, Default)]
pub struct Faults {
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    queue: Vec<Fault>,
    chaos: Option<Chaos>,
    /// How often each thing was asked for: without a bound, as the store is.
    attempts: HashMap<(Operation, String, String), u64>,
    seen: VecDeque<Seen>,
    /// The number of the first in `seen`.
    seen_first: u64,
    tallies: [Tally; Operation::ALL.len()],
}

impl Faults {
    /// Adds a fault behind those that wait. One request meets one fault, the first that is meant for it.
    pub fn push(&self, fault: Fault) {
        self.inner.lock().queue.push(fault);
    }

    /// Faults that have not happened yet.
    pub fn waiting(&self) -> Vec<Fault> {
        self.inner.lock().queue.clone()
    }

    /// Forgets those that have not happened yet.
    pub fn clear(&self) {
        self.inner.lock().queue.clear();
    }

    /// Starts, changes or ends chaos. It counts attempts from the server's start.
    pub fn set_chaos(&self, chaos: Option<Chaos>) {
        self.inner.lock().chaos = chaos;
    }

    /// The last 100,000 requests, oldest first.
    pub fn seen(&self) -> Vec<Seen> {
        self.inner.lock().seen.iter().cloned().collect()
    }

    /// How often an operation was asked for.
    pub fn tally(&self, operation: Operation) -> Tally {
        self.inner.lock().tallies[operation as usize]
    }

    /// Decides what happens to a request, and remembers it. Also its number, for [`carried_out`](Self::carried_out).
    pub(crate) fn draw(&self, asked: &Asked) -> (u64, Option<Act>) {
        let mut inner = self.inner.lock();
        let attempts = inner.attempts.entry((asked.operation, asked.bucket.clone(), asked.key.clone())).or_default();
        let attempt = *attempts;
        *attempts += 1;
        let mut due = None;
        for (index, fault) in inner.queue.iter_mut().enumerate().filter(|(_, fault)| fault.is_for(asked)) {
            match fault.after.checked_sub(1) {
                Some(after) => fault.after = after,
                None => due = due.or(Some(index)),
            }
        }
        let act = match due {
            Some(index) => Some(inner.queue.remove(index).act),
            None => inner.chaos.as_ref().and_then(|chaos| chaos.draw(asked, attempt)),
        };
        let tally = &mut inner.tallies[asked.operation as usize];
        tally.requests += 1;
        tally.faulty += u64::from(act.is_some());
        let Asked { operation, bucket, key, .. } = asked.clone();
        inner.seen.push_back(Seen { operation, bucket, key, act, status: None });
        let number = inner.seen_first + inner.seen.len() as u64 - 1;
        if inner.seen.len() > SEEN_MAX {
            inner.seen.pop_front();
            inner.seen_first += 1;
        }
        (number, act)
    }

    /// Remembers with which status a request was carried out.
    pub(crate) fn carried_out(&self, number: u64, status: u16) {
        let mut inner = self.inner.lock();
        let index = number.checked_sub(inner.seen_first);
        if let Some(seen) = index.and_then(|index| inner.seen.get_mut(index as usize)) {
            seen.status = Some(status);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_fault_happens_once_to_the_first_request_it_is_meant_for() {
        let faults = Faults::default();
        let ask = |operation, key: &str| faults.draw(&Asked::plain(operation, "b", key)).1;
        faults.push(Fault::new(Act::HangUp).on(Operation::Put).key("owner"));
        faults.push(Fault::new(Act::CutRequest).on(Operation::Put).after(2));
        faults.push(Fault::new(Act::CutAnswer).on(Operation::Get).on(Operation::List));
        assert_eq!(ask(Operation::Put, "data"), None);
        assert_eq!(ask(Operation::Put, "_x/owner.json"), Some(Act::HangUp));
        assert_eq!(ask(Operation::Put, "_x/owner.json"), Some(Act::CutRequest), "those before it count");
        assert_eq!(ask(Operation::Head, "data"), None);
        assert_eq!(ask(Operation::List, ""), Some(Act::CutAnswer));
        assert_eq!(ask(Operation::Get, "data"), None);
        assert!(faults.waiting().is_empty());
        assert_eq!(faults.tally(Operation::Put), Tally { requests: 3, faulty: 2 });
        assert_eq!(faults.seen().len(), 6);
    }
}
