//! Who receives from a queue, how much each may have, and whose turn is next. Pure.
//!
//! A receiver's window is the number of messages that it may have unsettled; settling makes room. Messages go round robin
//! over the receivers with room, a small run each, so that who reads far ahead does not starve who comes later.

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
        let receiver = Receiver { key, outlet: Some(outlet), window, out: 0, visibility_ms };
        self.receivers.insert(self.last_id, receiver);
        self.turns.push_back(self.last_id);
        (self.last_id, false)
    }

    /// Its connection is lost. What it has stays its own for now.
    pub fn detach(&mut self, id: ReceiverId) {
        if let Some(receiver) = self.receivers.get_mut(&id) {
            receiver.outlet = None;
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

    pub fn outlet(&self, id: ReceiverId) -> Option<K> {
        self.receivers.get(&id)?.outlet.clone()
    }

    pub fn outlets(&self) -> impl Iterator<Item = &K> {
        self.receivers.values().filter_map(|receiver| receiver.outlet.as_ref())
    }

    pub fn connected(&self) -> usize {
        self.outlets().count()
    }

    /// The next receiver with room; it goes to the end of the line.
    pub fn next_turn(&mut self) -> Option<Turn> {
        let left = self.out_max.saturating_sub(self.out);
        if left == 0 {
            return None;
        }
        while let Some(id) = self.turns.pop_front() {
            let Some(receiver) = self.receivers.get(&id) else { continue };
            let room = receiver.window.saturating_sub(receiver.out);
            if receiver.outlet.is_some() && room > 0 {
                self.turns.push_back(id);
                return Some(Turn {
                    receiver: id,
                    room: room.min(RUN).min(left),
                    visibility_ms: receiver.visibility_ms,
                });
            }
        }
        None
    }

    /// A receiver got messages.
    pub fn took(&mut self, id: ReceiverId, count: u32) {
        self.out += count;
        if let Some(receiver) = self.receivers.get_mut(&id) {
            receiver.out += count;
        }
    }

    /// Leases ended, one for each entry.
    pub fn gave_back(&mut self, ended: &[ReceiverId]) {
        for id in ended {
            self.out = self.out.saturating_sub(1);
            let Some(receiver) = self.receivers.get_mut(id) else { continue };
            let had_room = receiver.out < receiver.window;
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
        receivers.next_turn().map(|turn| (turn.receiver, turn.room))
    }

    #[test]
    fn messages_go_round_robin_within_windows_and_limits() {
        let mut receivers = Receivers::new(100, 50);
        let (a, _) = receivers.attach(1, 'a', 40, 0);
        let (b, _) = receivers.attach(2, 'b', 3, 0);
        assert_eq!(turn(&mut receivers), Some((a, 32)));
        receivers.took(a, 32);
        assert_eq!(turn(&mut receivers), Some((b, 3)));
        receivers.took(b, 3);
        assert_eq!(turn(&mut receivers), Some((a, 8)));
        receivers.took(a, 8);
        assert_eq!(turn(&mut receivers), None, "both are full");
        receivers.gave_back(&[b]);
        assert_eq!(turn(&mut receivers), Some((b, 1)));
        receivers.took(b, 1);
        receivers.set_window(a, 1_000);
        assert_eq!(turn(&mut receivers), Some((a, 10)), "no window is above the limit");
        receivers.took(a, 10);
        let (_, is_back) = receivers.attach(3, 'c', 50, 0);
        assert!(!is_back);
        assert_eq!(turn(&mut receivers), Some((3, 32)));
        receivers.took(3, 32);
        assert_eq!(turn(&mut receivers), Some((3, 15)), "100 may be out in all");
    }

    #[test]
    fn who_comes_back_keeps_what_it_has_and_who_has_nothing_is_forgotten() {
        let mut receivers = Receivers::new(100, 50);
        let (a, _) = receivers.attach(7, 'a', 10, 0);
        receivers.took(a, 4);
        receivers.detach(a);
        assert_eq!((turn(&mut receivers), receivers.outlet(a)), (None, None));
        assert_eq!(receivers.attach(7, 'b', 10, 0), (a, true));
        assert_eq!((turn(&mut receivers), receivers.outlet(a)), (Some((a, 6)), Some('b')));
        receivers.detach(a);
        receivers.gave_back(&[a, a, a, a]);
        assert_eq!(receivers.attach(7, 'c', 10, 0), (a + 1, false), "it had nothing left");
        assert_eq!(receivers.connected(), 1);
    }
}
