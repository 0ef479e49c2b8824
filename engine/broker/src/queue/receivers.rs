//! Who receives from a queue, how much each may have, and whose turn is next. Pure.
//!
//! A receiver's window is the number of messages that it may have unsettled; settling makes room. Beyond that it may ask
//! (*pull*) for some, which come in one answer. Messages go round robin over the receivers with room, a small run each, so
//! that who reads far ahead does not starve who comes later; who asked gets all that it asked for in its turn.

use std::collections::{BTreeMap, VecDeque};

use super::leases::ReceiverId;

/// Messages that one receiver gets in its turn.
const RUN: u32 = 32;

#[derive(Debug)]
struct Receiver<K> {
    key: u128,
    /// Where its messages go; `None` while its connection is lost.
    outlet: Option<K>,
    window: u32,
    out: u32,
    visibility_ms: u64,
    /// What it has asked for, in order.
    pulls: VecDeque<Pull>,
}

/// Messages that a receiver has asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Pull {
    /// Told apart by the receiver.
    pub number: u64,
    /// How many more it may get.
    pub left: u32,
    /// How many were sent.
    pub sent: u32,
    pub visibility_ms: u64,
}

/// The receivers of one queue; `K` is where their messages go.
#[derive(Debug)]
pub(super) struct Receivers<K> {
    receivers: BTreeMap<ReceiverId, Receiver<K>>,
    /// Those that may have room, in turn.
    turns: VecDeque<ReceiverId>,
    last_id: ReceiverId,
    /// Messages out in all, and how many may be.
    out: u32,
    out_max: u32,
    window_max: u32,
}

/// Whose turn it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Turn {
    pub receiver: ReceiverId,
    /// How many it gets at most.
    pub room: u32,
    pub visibility_ms: u64,
    /// The pull that it is for.
    pub pull: Option<u64>,
}

impl<K: Clone> Receivers<K> {
    pub fn new(out_max: u32, window_max: u32) -> Self {
        Self { receivers: BTreeMap::new(), turns: VecDeque::new(), last_id: 0, out: 0, out_max, window_max }
    }

    pub fn set_limits(&mut self, out_max: u32, window_max: u32) {
        (self.out_max, self.window_max) = (out_max, window_max);
        self.turns = self.receivers.keys().copied().collect();
    }

    /// A receiver comes, or comes back under its key: then it keeps what it has. Answers its number, and whether it is back.
    pub fn attach(&mut self, key: u128, outlet: K, window: u32, visibility_ms: u64) -> (ReceiverId, bool) {
        let window = window.min(self.window_max);
        if let Some((id, found)) = self.receivers.iter_mut().find(|(_, found)| found.key == key) {
            (found.outlet, found.window, found.visibility_ms) = (Some(outlet), window, visibility_ms);
            let id = *id;
            self.turns.push_back(id);
            return (id, true);
        }
        self.last_id += 1;
        let receiver = Receiver { key, outlet: Some(outlet), window, out: 0, visibility_ms, pulls: VecDeque::new() };
        self.receivers.insert(self.last_id, receiver);
        self.turns.push_back(self.last_id);
        (self.last_id, false)
    }

    /// Its connection is lost. What it has stays its own for now.
    pub fn detach(&mut self, id: ReceiverId) {
        if let Some(receiver) = self.receivers.get_mut(&id) {
            receiver.outlet = None;
            receiver.pulls.clear();
            self.forget_if_done(id);
        }
    }

    pub fn set_window(&mut self, id: ReceiverId, window: u32) {
        let window = window.min(self.window_max);
        if let Some(receiver) = self.receivers.get_mut(&id) {
            receiver.window = window;
            self.turns.push_back(id);
        }
    }

    /// Its outlet has room again.
    pub fn ready(&mut self, id: ReceiverId) {
        if self.receivers.contains_key(&id) {
            self.turns.push_back(id);
        }
    }

    /// A receiver asks for messages.
    pub fn pull(&mut self, id: ReceiverId, number: u64, most: u32, visibility_ms: u64) {
        if let Some(receiver) = self.receivers.get_mut(&id) {
            receiver.pulls.push_back(Pull { number, left: most, sent: 0, visibility_ms });
            self.turns.push_back(id);
        }
    }

    /// So many messages of a pull were sent, of those taken.
    pub fn sent(&mut self, id: ReceiverId, number: u64, count: u32, taken: u32) {
        let pulls = self.receivers.get_mut(&id).map(|receiver| &mut receiver.pulls);
        if let Some(pull) = pulls.into_iter().flatten().find(|pull| pull.number == number) {
            pull.sent += count;
            pull.left += taken - count;
        }
    }

    /// Pulls that have got something: their answers are complete.
    pub fn take_answered(&mut self) -> Vec<(ReceiverId, K, Pull)> {
        let mut answered = Vec::new();
        for (id, receiver) in self.receivers.iter_mut().filter(|(_, receiver)| !receiver.pulls.is_empty()) {
            let Some(outlet) = receiver.outlet.clone() else { continue };
            receiver.pulls.retain(|pull| {
                if pull.sent > 0 {
                    answered.push((*id, outlet.clone(), *pull));
                }
                pull.sent == 0
            });
        }
        answered
    }

    /// A receiver waits no longer for what it has asked for. Gives its outlet, and whether a limit held messages back; `None`
    /// if the pull was answered.
    pub fn end_pull(&mut self, id: ReceiverId, number: u64) -> Option<(K, bool)> {
        let receiver = self.receivers.get_mut(&id)?;
        let at = receiver.pulls.iter().position(|pull| pull.number == number)?;
        receiver.pulls.remove(at);
        let at_limit = self.out >= self.out_max || receiver.out >= self.window_max;
        Some((receiver.outlet.clone()?, at_limit))
    }

    pub fn visibility_ms(&self, id: ReceiverId) -> u64 {
        self.receivers.get(&id).map_or(0, |receiver| receiver.visibility_ms)
    }

    pub fn outlet(&self, id: ReceiverId) -> Option<K> {
        self.receivers.get(&id)?.outlet.clone()
    }

    pub fn outlets(&self) -> impl Iterator<Item = &K> {
        self.receivers.values().filter_map(|receiver| receiver.outlet.as_ref())
    }

    pub fn connected(&self) -> usize {
        self.outlets().count()
    }

    /// The next receiver with room, also in its outlet; it goes to the end of the line.
    pub fn next_turn(&mut self, has_room: impl Fn(&K) -> bool) -> Option<Turn> {
        let left = self.out_max.saturating_sub(self.out);
        if left == 0 {
            return None;
        }
        while let Some(id) = self.turns.pop_front() {
            let Some(receiver) = self.receivers.get(&id) else { continue };
            if !receiver.outlet.as_ref().is_some_and(&has_room) {
                continue;
            }
            let (room, visibility_ms, pull) = match receiver.pulls.iter().find(|pull| pull.left > 0) {
                Some(pull) => {
                    let room = pull.left.min(self.window_max.saturating_sub(receiver.out));
                    (room, pull.visibility_ms, Some(pull.number))
                }
                None => (receiver.window.saturating_sub(receiver.out).min(RUN), receiver.visibility_ms, None),
            };
            if room > 0 {
                self.turns.push_back(id);
                return Some(Turn { receiver: id, room: room.min(left), visibility_ms, pull });
            }
        }
        None
    }

    /// A receiver got messages, by a pull or without.
    pub fn took(&mut self, id: ReceiverId, count: u32, pull: Option<u64>) {
        self.out += count;
        let Some(receiver) = self.receivers.get_mut(&id) else { return };
        receiver.out += count;
        if let Some(pull) = receiver.pulls.iter_mut().find(|of| Some(of.number) == pull) {
            pull.left = pull.left.saturating_sub(count);
        }
    }

    /// Leases ended, one for each entry.
    pub fn gave_back(&mut self, ended: &[ReceiverId]) {
        for id in ended {
            self.out = self.out.saturating_sub(1);
            let Some(receiver) = self.receivers.get_mut(id) else { continue };
            let had_room = receiver.out < receiver.window && receiver.pulls.is_empty();
            receiver.out = receiver.out.saturating_sub(1);
            if !had_room {
                self.turns.push_back(*id);
            }
            self.forget_if_done(*id);
        }
    }

    fn forget_if_done(&mut self, id: ReceiverId) {
        if self.receivers.get(&id).is_some_and(|receiver| receiver.outlet.is_none() && receiver.out == 0) {
            self.receivers.remove(&id);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn turn(receivers: &mut Receivers<char>) -> Option<(ReceiverId, u32)> {
        receivers.next_turn(|outlet| *outlet != 'x').map(|turn| (turn.receiver, turn.room))
    }

    #[test]
    fn messages_go_round_robin_within_windows_and_limits() {
        let mut receivers = Receivers::new(100, 50);
        let (a, _) = receivers.attach(1, 'a', 40, 0);
        let (b, _) = receivers.attach(2, 'b', 3, 0);
        assert_eq!(turn(&mut receivers), Some((a, 32)));
        receivers.took(a, 32, None);
        assert_eq!(turn(&mut receivers), Some((b, 3)));
        receivers.took(b, 3, None);
        assert_eq!(turn(&mut receivers), Some((a, 8)));
        receivers.took(a, 8, None);
        assert_eq!(turn(&mut receivers), None, "both are full");
        receivers.gave_back(&[b]);
        assert_eq!(turn(&mut receivers), Some((b, 1)));
        receivers.took(b, 1, None);
        receivers.set_window(a, 1_000);
        assert_eq!(turn(&mut receivers), Some((a, 10)), "no window is above the limit");
        receivers.took(a, 10, None);
        let (_, is_back) = receivers.attach(3, 'c', 50, 0);
        assert!(!is_back);
        assert_eq!(turn(&mut receivers), Some((3, 32)));
        receivers.took(3, 32, None);
        assert_eq!(turn(&mut receivers), Some((3, 15)), "100 may be out in all");
    }

    #[test]
    fn who_comes_back_keeps_what_it_has_and_who_has_nothing_is_forgotten() {
        let mut receivers = Receivers::new(100, 50);
        let (a, _) = receivers.attach(7, 'a', 10, 0);
        receivers.took(a, 4, None);
        receivers.detach(a);
        assert_eq!((turn(&mut receivers), receivers.outlet(a)), (None, None));
        assert_eq!(receivers.attach(7, 'b', 10, 0), (a, true));
        assert_eq!((turn(&mut receivers), receivers.outlet(a)), (Some((a, 6)), Some('b')));
        receivers.detach(a);
        receivers.gave_back(&[a, a, a, a]);
        assert_eq!(receivers.attach(7, 'c', 10, 0), (a + 1, false), "it had nothing left");
        assert_eq!(receivers.connected(), 1);
    }

    #[test]
    fn who_asks_gets_that_much_in_one_answer_whatever_its_window() {
        let mut receivers = Receivers::new(1_000, 50);
        let (a, _) = receivers.attach(1, 'a', 0, 0);
        let (b, _) = receivers.attach(2, 'x', 9, 0);
        assert_eq!(turn(&mut receivers), None, "one has no window, the other no room");
        receivers.pull(a, 7, 40, 5);
        receivers.pull(a, 8, 40, 5);
        let pulled = receivers.next_turn(|_| true).unwrap();
        assert_eq!(pulled, Turn { receiver: a, room: 40, visibility_ms: 5, pull: Some(7) });
        receivers.took(a, 40, Some(7));
        assert!(receivers.take_answered().is_empty(), "nothing was sent");
        receivers.sent(a, 7, 39, 40);
        let answered = receivers.take_answered();
        assert_eq!(answered, [(a, 'a', Pull { number: 7, left: 1, sent: 39, visibility_ms: 5 })]);
        assert_eq!(
            receivers.next_turn(|_| true).unwrap(),
            Turn { receiver: a, room: 10, visibility_ms: 5, pull: Some(8) }
        );
        receivers.took(a, 10, Some(8));
        assert_eq!(receivers.end_pull(a, 8), Some(('a', true)), "it has as many as it may");
        assert_eq!(receivers.end_pull(a, 8), None);
        receivers.ready(b);
        assert_eq!(receivers.next_turn(|_| true).map(|turn| (turn.receiver, turn.pull)), Some((b, None)));
    }
}
