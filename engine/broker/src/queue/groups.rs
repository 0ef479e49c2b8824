//! FIFO groups of one partition: what waits in each, which are locked, and whose turn is next.
//!
//! A group is the hash of its messages' key: two keys that meet in one hash share a lock, which keeps the order and costs
//! them their parallelism, no more. A group is here while any of its messages waits or is out.

use std::collections::{HashMap, VecDeque};

/// Messages of one group that are out with one receiver, in order; each leaves as it is settled.
pub(super) type Run = VecDeque<u64>;

#[derive(Debug, Default)]
struct Group {
    /// Not out, in order.
    waiting: VecDeque<u64>,
    /// Out; the group is locked while there are any.
    run: Run,
    /// It stands in the list of those that may be delivered.
    is_listed: bool,
}

#[derive(Debug, Default)]
pub(super) struct Groups {
    groups: HashMap<u64, Group>,
    /// The groups of messages that were delivered, or are held back, and are not settled.
    of: HashMap<u64, u64>,
    /// Round robin.
    listed: VecDeque<u64>,
}

impl Groups {
    pub fn group_of(&self, offset: u64) -> Option<u64> {
        self.of.get(&offset).copied()
    }

    /// A message that was never here: to the end of its group.
    pub fn push(&mut self, group: u64, offset: u64) {
        self.groups.entry(group).or_default().waiting.push_back(offset);
    }

    /// A message that is back from the dead: before all that is younger, after what is older.
    pub fn insert(&mut self, group: u64, offset: u64) {
        insert_sorted(&mut self.groups.entry(group).or_default().waiting, offset);
        self.of.insert(offset, group);
    }

    /// Remembers a message's group, until it is settled.
    pub fn remember(&mut self, group: u64, offset: u64) {
        self.of.insert(offset, group);
    }

    /// The first message of the group that is not out, if the group is not locked.
    pub fn head(&self, group: u64) -> Option<u64> {
        let group = self.groups.get(&group)?;
        group.run.is_empty().then(|| group.waiting.front().copied()).flatten()
    }

    /// The first of the group's messages that are out.
    pub fn first_out(&self, group: u64) -> Option<u64> {
        self.groups.get(&group)?.run.front().copied()
    }

    /// Those of the group that are out, in order.
    pub fn run(&self, group: u64) -> Vec<u64> {
        self.groups.get(&group).map(|group| group.run.iter().copied().collect()).unwrap_or_default()
    }

    /// Puts the group on the list, once.
    pub fn list(&mut self, group: u64) {
        if let Some(found) = self.groups.get_mut(&group)
            && !std::mem::replace(&mut found.is_listed, true)
        {
            self.listed.push_back(group);
        }
    }

    /// The next group on the list, taken off it.
    pub fn next_listed(&mut self) -> Option<u64> {
        let group = self.listed.pop_front()?;
        if let Some(found) = self.groups.get_mut(&group) {
            found.is_listed = false;
        }
        Some(group)
    }

    pub fn has_listed(&self) -> bool {
        !self.listed.is_empty()
    }

    /// Sends the head out: it is locked with the group.
    pub fn send(&mut self, group: u64) {
        let Some(found) = self.groups.get_mut(&group) else { return };
        if let Some(offset) = found.waiting.pop_front() {
            found.run.push_back(offset);
            self.of.insert(offset, group);
        }
    }

    /// The second message that waits, and so on: what follows the head.
    pub fn waiting(&self, group: u64) -> impl Iterator<Item = u64> + '_ {
        self.groups.get(&group).into_iter().flat_map(|group| group.waiting.iter().copied())
    }

    /// The message at `offset` failed: it and all after it in its run wait again, in their places. Answers those after it.
    pub fn take_back(&mut self, group: u64, offset: u64) -> Vec<u64> {
        let Some(found) = self.groups.get_mut(&group) else { return Vec::new() };
        let Some(at) = found.run.iter().position(|out| *out == offset) else { return Vec::new() };
        let back = found.run.split_off(at);
        back.iter().rev().for_each(|offset| insert_sorted(&mut found.waiting, *offset));
        back.into_iter().skip(1).collect()
    }

    /// Forgets a settled message, wherever it is.
    pub fn remove(&mut self, group: u64, offset: u64) {
        self.of.remove(&offset);
        let Some(found) = self.groups.get_mut(&group) else { return };
        for offsets in [&mut found.run, &mut found.waiting] {
            if offsets.front() == Some(&offset) {
                offsets.pop_front();
            } else if let Some(at) = offsets.iter().position(|one| *one == offset) {
                offsets.remove(at);
            }
        }
        if found.run.is_empty() && found.waiting.is_empty() {
            self.groups.remove(&group);
        }
    }

    /// Forgets all messages below `start` but those that `stays` names; answers the groups whose head has changed.
    pub fn remove_below(&mut self, start: u64, stays: impl Fn(u64) -> bool) -> Vec<u64> {
        let goes = |offset: u64| offset < start && !stays(offset);
        let mut changed = Vec::new();
        self.groups.retain(|id, group| {
            let before = group.run.len() + group.waiting.len();
            group.run.retain(|offset| !goes(*offset));
            group.waiting.retain(|offset| !goes(*offset));
            let after = group.run.len() + group.waiting.len();
            if after != before && after > 0 {
                changed.push(*id);
            }
            after > 0
        });
        self.of.retain(|offset, _| !goes(*offset));
        changed
    }
}

/// As a rule it is the first.
fn insert_sorted(offsets: &mut VecDeque<u64>, offset: u64) {
    let at = match offsets.front() {
        Some(first) if *first < offset => offsets.partition_point(|other| *other < offset),
        _ => 0,
    };
    offsets.insert(at, offset);
}
