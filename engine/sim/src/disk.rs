//! A disk in memory that is meaner than any real one: [`Storage`] from a seed.
//!
//! What it takes from whoever trusts too much
//! - **Power loss** ([`SimDisk::power_loss`]): data is durable only by a sync of *that* file, a name only by a sync of
//!   *that* directory. Of what was written and not synced each 512-byte sector is kept, dropped, zeroed or (1 in 50)
//!   garbage, on its own; a new length may survive without its data; the names made and removed in a directory survive as
//!   any subset, a rename whole or not at all. The `journalled` flavour keeps names with a file's sync, like real file
//!   systems: nothing may depend on either.
//! - **A killed process** ([`SimDisk::kill`]) loses nothing that was written; a call in progress is cut short at any byte
//!   ([`SimDisk::die_at`]). From then on every call fails until the next start.
//! - **A failed sync**: the pages count as clean, reads still show them until `evict`, later syncs say OK, the medium
//!   has the old bytes. The `reverting` flavour shows the old bytes at once.
//! - **No room**: writes beyond the capacity write a part and fail, and so does making a file.
//! - **Bad sectors and rot**: reads of a range fail; bits change at rest ([`SimDisk::flip`]).
//!
//! One mercy, that real disks grant too (*powersafe overwrite*): bytes that were durable and have not been written since
//! survive whatever happens to the rest of their sector.

use std::collections::{BTreeMap, HashMap};
use std::io::{self, IoSlice};
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

use millstream_log::storage::{Access, Entry, Space, Storage, StorageFile};
use parking_lot::Mutex;

use crate::rng::Rng;

const SECTOR: usize = 512;

/// What a run's disk is like.
#[derive(Debug, Clone, Default)]
pub struct Nature {
    /// A file's sync also keeps its name.
    pub journalled: bool,
    /// After a failed sync reads show the old bytes at once.
    pub reverting: bool,
    /// One sync in so many fails; 0: none.
    pub sync_fails_one_in: u64,
    /// One write in so many fails with EIO; 0: none.
    pub write_fails_one_in: u64,
    /// One read in so many fails with EIO; 0: none.
    pub read_fails_one_in: u64,
    /// One directory sync, rename or removal in so many fails; 0: none.
    pub directory_fails_one_in: u64,
    /// Bytes of all files together; `None`: no limit.
    pub capacity: Option<u64>,
}

/// A directory's or a file's number.
type Node = u64;

#[derive(Debug, Default, Clone)]
struct File {
    /// What a read shows.
    cache: Vec<u8>,
    /// What the medium holds.
    durable: Vec<u8>,
    /// Written and not synced: rising, apart.
    dirty: Vec<(usize, usize)>,
}

#[derive(Debug, Default, Clone)]
struct Directory {
    names: BTreeMap<String, Node>,
    durable: BTreeMap<String, Node>,
    /// Since the last sync, in order; changes with the same number happen together.
    pending: Vec<(u64, Change)>,
}

#[derive(Debug, Clone)]
enum Change {
    Set(String, Node),
    Remove(String),
}

#[derive(Debug, Clone)]
struct State {
    files: HashMap<Node, File>,
    directories: HashMap<Node, Directory>,
    next: u64,
    rng: Rng,
    nature: Nature,
    calls: u64,
    die_at: Option<u64>,
    dead: bool,
    locks: HashMap<PathBuf, u64>,
    lives: u64,
    /// Bad sectors, by file: reads of them fail.
    unreadable: HashMap<Node, Vec<(usize, usize)>>,
    /// Syncs of these files fail for ever.
    never_syncs: HashMap<Node, ()>,
    faults: u64,
}

/// The disk.
#[derive(Clone)]
pub struct SimDisk(Arc<Mutex<State>>);

const ROOT: Node = 0;
const EIO: i32 = 5;
const ENOSPC: i32 = 28;

impl SimDisk {
    /// An empty disk.
    pub fn new(seed: u64, nature: Nature) -> Self {
        Self(Arc::new(Mutex::new(State {
            files: HashMap::new(),
            directories: HashMap::from([(ROOT, Directory::default())]),
            next: 1,
            rng: Rng::new(seed),
            nature,
            calls: 0,
            die_at: None,
            dead: false,
            locks: HashMap::new(),
            lives: 0,
            unreadable: HashMap::new(),
            never_syncs: HashMap::new(),
            faults: 0,
        })))
    }

    /// A copy that goes its own way.
    #[must_use]
    pub fn fork(&self) -> Self {
        Self(Arc::new(Mutex::new(self.0.lock().clone())))
    }

    /// Changes what the disk is like.
    pub fn set_nature(&self, change: impl FnOnce(&mut Nature)) {
        change(&mut self.0.lock().nature);
    }

    /// Calls so far.
    pub fn calls(&self) -> u64 {
        self.0.lock().calls
    }

    /// Faults injected so far: a run in which it stays as it was must work.
    pub fn faults(&self) -> u64 {
        self.0.lock().faults
    }

    /// The process dies in the call of that number: a write stops at any byte.
    pub fn die_at(&self, call: Option<u64>) {
        self.0.lock().die_at = call;
    }

    /// Whether it has died.
    pub fn is_dead(&self) -> bool {
        self.0.lock().dead
    }

    /// The process is gone; the next one finds all that was written.
    pub fn kill(&self) {
        let mut state = self.0.lock();
        state.revive();
    }

    /// The power is gone: the next process finds what was durable, and any part of the rest.
    pub fn power_loss(&self) {
        let mut state = self.0.lock();
        state.revive();
        state.lose_power();
    }

    /// Changes bits of a byte at rest. Returns whether the file has that byte.
    pub fn flip(&self, path: &Path, position: u64, mask: u8) -> bool {
        let mut state = self.0.lock();
        let Ok(node) = state.file_at(path) else { return false };
        let file = state.files.get_mut(&node).expect("a named file");
        let at = position as usize;
        for bytes in [&mut file.cache, &mut file.durable] {
            if let Some(byte) = bytes.get_mut(at) {
                *byte ^= mask;
            }
        }
        at < file.cache.len()
    }

    /// Cuts a file at rest.
    pub fn cut(&self, path: &Path, length: u64) {
        let mut state = self.0.lock();
        if let Ok(node) = state.file_at(path) {
            let file = state.files.get_mut(&node).expect("a named file");
            file.cache.truncate(length as usize);
            file.durable.truncate(length as usize);
        }
    }

    /// Makes a range of a file unreadable.
    pub fn spoil(&self, path: &Path, from: u64, to: u64) {
        let mut state = self.0.lock();
        if let Ok(node) = state.file_at(path) {
            state.unreadable.entry(node).or_default().push((from as usize, to as usize));
        }
    }

    /// Every sync of a file fails from now on.
    pub fn never_sync(&self, path: &Path) {
        let mut state = self.0.lock();
        if let Ok(node) = state.file_at(path) {
            state.never_syncs.insert(node, ());
        }
    }

    /// All files below a directory, sorted, with their lengths.
    pub fn files(&self, below: &Path) -> Vec<(PathBuf, u64)> {
        let state = self.0.lock();
        let mut found = Vec::new();
        let mut left = match state.directory_at(below) {
            Ok(node) => vec![(below.to_owned(), node)],
            Err(_) => Vec::new(),
        };
        while let Some((path, node)) = left.pop() {
            for (name, child) in &state.directories[&node].names {
                match state.files.get(child) {
                    Some(file) => found.push((path.join(name), file.cache.len() as u64)),
                    None => left.push((path.join(name), *child)),
                }
            }
        }
        found.sort();
        found
    }
}

impl State {
    fn revive(&mut self) {
        (self.dead, self.die_at) = (false, None);
        self.lives += 1;
        self.locks.clear();
    }

    /// Counts a call; `Err` if the process is dead, or dies now.
    fn call(&mut self) -> io::Result<()> {
        self.calls += 1;
        if self.die_at.is_some_and(|at| self.calls >= at) {
            self.dead = true;
        }
        if self.dead { Err(dead()) } else { Ok(()) }
    }

    /// Whether this call fails, one in so many.
    fn fails(&mut self, one_in: u64) -> bool {
        let fails = one_in > 0 && self.rng.one_in(one_in);
        self.faults += u64::from(fails);
        fails
    }

    fn used(&self) -> u64 {
        self.files.values().map(|file| file.cache.len() as u64).sum()
    }

    fn node_at(&self, path: &Path) -> io::Result<Node> {
        let mut node = ROOT;
        for part in path.components() {
            if let Component::Normal(name) = part {
                let directory = self.directories.get(&node).ok_or(io::ErrorKind::NotADirectory)?;
                node = *directory.names.get(&*name.to_string_lossy()).ok_or(io::ErrorKind::NotFound)?;
            }
        }
        Ok(node)
    }

    fn directory_at(&self, path: &Path) -> io::Result<Node> {
        let node = self.node_at(path)?;
        if self.directories.contains_key(&node) { Ok(node) } else { Err(io::ErrorKind::NotADirectory.into()) }
    }

    fn file_at(&self, path: &Path) -> io::Result<Node> {
        let node = self.node_at(path)?;
        if self.files.contains_key(&node) { Ok(node) } else { Err(io::ErrorKind::IsADirectory.into()) }
    }

    fn parent_of(&self, path: &Path) -> io::Result<(Node, String)> {
        let name = path.file_name().ok_or(io::ErrorKind::InvalidInput)?.to_string_lossy().into_owned();
        Ok((self.directory_at(path.parent().unwrap_or(Path::new("/")))?, name))
    }

    fn fresh(&mut self) -> u64 {
        self.next += 1;
        self.next
    }

    fn change(&mut self, directory: Node, together: u64, change: Change) {
        let directory = self.directories.get_mut(&directory).expect("a directory");
        apply(&mut directory.names, &change);
        directory.pending.push((together, change));
    }

    fn lose_power(&mut self) {
        let mut kept: HashMap<u64, bool> = HashMap::new();
        let mut nodes: Vec<Node> = self.directories.keys().copied().collect();
        nodes.sort_unstable();
        for node in nodes {
            let pending = std::mem::take(&mut self.directories.get_mut(&node).expect("listed").pending);
            for (together, change) in pending {
                let keep = *kept.entry(together).or_insert_with(|| self.rng.one_in(2));
                if keep {
                    apply(&mut self.directories.get_mut(&node).expect("listed").durable, &change);
                }
            }
            let directory = self.directories.get_mut(&node).expect("listed");
            directory.names = directory.durable.clone();
        }
        let mut nodes: Vec<Node> = self.files.keys().copied().collect();
        nodes.sort_unstable();
        for node in nodes {
            let file = self.files.get_mut(&node).expect("listed");
            file.lose_power(&mut self.rng);
        }
        // What no name leads to any more is gone.
        let mut reached = vec![ROOT];
        let mut index = 0;
        while index < reached.len() {
            if let Some(directory) = self.directories.get(&reached[index]) {
                reached.extend(directory.names.values().copied());
            }
            index += 1;
        }
        self.files.retain(|node, _| reached.contains(node));
        self.directories.retain(|node, _| reached.contains(node));
    }
}

fn apply(names: &mut BTreeMap<String, Node>, change: &Change) {
    match change {
        Change::Set(name, node) => drop(names.insert(name.clone(), *node)),
        Change::Remove(name) => drop(names.remove(name)),
    }
}

impl File {
    fn write(&mut self, at: usize, bytes: &[u8]) {
        let end = at + bytes.len();
        if self.cache.len() < end {
            // A gap reads as zeros, and is as new as the bytes behind it.
            let from = self.cache.len().min(at);
            self.cache.resize(end, 0);
            self.touch(from, end);
        }
        self.cache[at..end].copy_from_slice(bytes);
        self.touch(at, end);
    }

    fn touch(&mut self, from: usize, to: usize) {
        if from >= to {
            return;
        }
        let (mut from, mut to) = (from, to);
        self.dirty.retain(|(start, end)| {
            let apart = *end < from || to < *start;
            if !apart {
                (from, to) = (from.min(*start), to.max(*end));
            }
            apart
        });
        self.dirty.push((from, to));
        self.dirty.sort_unstable();
    }

    fn set_len(&mut self, length: usize) {
        let old = self.cache.len();
        self.cache.resize(length, 0);
        if length > old {
            self.touch(old, length);
        } else {
            self.dirty.retain_mut(|(start, end)| {
                *end = (*end).min(length);
                start < end
            });
        }
    }

    fn sync(&mut self) {
        // Only what is dirty is written: pages of a sync that failed count as clean.
        self.durable.resize(self.cache.len(), 0);
        for (from, to) in std::mem::take(&mut self.dirty) {
            self.durable[from..to].copy_from_slice(&self.cache[from..to]);
        }
    }

    /// The pages count as clean, the medium is as it was.
    fn fail_sync(&mut self, reverting: bool) {
        self.dirty.clear();
        if reverting {
            self.cache.clone_from(&self.durable);
        }
    }

    /// Clean pages from `from` on go: what the medium holds is seen again.
    fn evict(&mut self, from: usize) {
        let dirty = std::mem::take(&mut self.dirty);
        if dirty.is_empty() && self.cache != self.durable {
            let keep = from.min(self.cache.len());
            let mut seen = self.durable.clone();
            // The length is the file system's and stays; bytes before `from` are not touched.
            seen.resize(self.cache.len(), 0);
            seen[..keep].copy_from_slice(&self.cache[..keep]);
            self.cache = seen;
        }
        self.dirty = dirty;
    }

    fn lose_power(&mut self, rng: &mut Rng) {
        let (old, new) = (self.durable.len(), self.cache.len());
        let length = match rng.below(4) {
            0 => old,
            1 | 2 => new,
            _ => old.min(new) + rng.below(old.abs_diff(new) as u64 + 1) as usize,
        };
        let mut found = self.durable.clone();
        found.resize(length, 0);
        for (from, to) in std::mem::take(&mut self.dirty) {
            let to = to.min(length);
            let mut at = from;
            while at < to {
                let end = ((at / SECTOR + 1) * SECTOR).min(to);
                match rng.below(50) {
                    0 => (at..end).for_each(|i| found[i] = rng.draw() as u8),
                    1..=4 => found[at..end].fill(0),
                    5..=25 => {}
                    _ => found[at..end].copy_from_slice(&self.cache[at..end]),
                }
                at = end;
            }
        }
        self.cache = found.clone();
        self.durable = found;
    }
}

fn dead() -> io::Error {
    io::Error::other("the process is dead")
}

fn eio() -> io::Error {
    io::Error::from_raw_os_error(EIO)
}

impl Storage for SimDisk {
    fn create_dir_all(&self, path: &Path) -> io::Result<()> {
        let mut state = self.0.lock();
        state.call()?;
        let mut node = ROOT;
        for part in path.components() {
            let Component::Normal(name) = part else { continue };
            let name = name.to_string_lossy().into_owned();
            let known = state.directories.get(&node).ok_or(io::ErrorKind::NotADirectory)?.names.get(&name).copied();
            node = match known {
                Some(child) => child,
                None => {
                    let (child, together) = (state.fresh(), state.fresh());
                    state.directories.insert(child, Directory::default());
                    state.change(node, together, Change::Set(name, child));
                    child
                }
            };
        }
        Ok(())
    }

    fn list(&self, path: &Path) -> io::Result<Vec<Entry>> {
        let mut state = self.0.lock();
        state.call()?;
        let node = state.directory_at(path)?;
        let names = &state.directories[&node].names;
        Ok(names
            .iter()
            .map(|(name, child)| Entry { name: name.clone(), is_dir: state.directories.contains_key(child) })
            .collect())
    }

    fn create(&self, path: &Path) -> io::Result<Arc<dyn StorageFile>> {
        let mut state = self.0.lock();
        state.call()?;
        let (directory, name) = state.parent_of(path)?;
        if state.directories[&directory].names.contains_key(&name) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        if state.nature.capacity.is_some_and(|capacity| state.used() >= capacity) {
            return Err(io::Error::from_raw_os_error(ENOSPC));
        }
        let (node, together) = (state.fresh(), state.fresh());
        state.files.insert(node, File::default());
        state.change(directory, together, Change::Set(name, node));
        Ok(Arc::new(Handle { disk: self.clone(), node, life: state.lives, name: Some((directory, path.to_owned())) }))
    }

    fn open(&self, path: &Path, _: Access) -> io::Result<Arc<dyn StorageFile>> {
        let mut state = self.0.lock();
        state.call()?;
        let node = state.file_at(path)?;
        Ok(Arc::new(Handle { disk: self.clone(), node, life: state.lives, name: None }))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut state = self.0.lock();
        state.call()?;
        let one_in = state.nature.directory_fails_one_in;
        if state.fails(one_in) {
            return Err(eio());
        }
        let node = state.node_at(from)?;
        let (old_directory, old_name) = state.parent_of(from)?;
        let (new_directory, new_name) = state.parent_of(to)?;
        let together = state.fresh();
        state.change(new_directory, together, Change::Set(new_name, node));
        state.change(old_directory, together, Change::Remove(old_name));
        Ok(())
    }

    fn remove_file(&self, path: &Path) -> io::Result<()> {
        let mut state = self.0.lock();
        state.call()?;
        state.file_at(path)?;
        let one_in = state.nature.directory_fails_one_in;
        if state.fails(one_in) {
            return Err(eio());
        }
        let (directory, name) = state.parent_of(path)?;
        let together = state.fresh();
        state.change(directory, together, Change::Remove(name));
        Ok(())
    }

    fn remove_dir_all(&self, path: &Path) -> io::Result<()> {
        let mut state = self.0.lock();
        state.call()?;
        let node = state.directory_at(path)?;
        let mut left = vec![node];
        while let Some(directory) = left.pop() {
            let names: Vec<(String, Node)> =
                state.directories[&directory].names.iter().map(|(name, node)| (name.clone(), *node)).collect();
            for (name, child) in names {
                if state.directories.contains_key(&child) {
                    left.push(child);
                }
                // Any of it may be undone by a power loss, one by one.
                let together = state.fresh();
                state.change(directory, together, Change::Remove(name));
            }
        }
        let (parent, name) = state.parent_of(path)?;
        let together = state.fresh();
        state.change(parent, together, Change::Remove(name));
        Ok(())
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        let mut state = self.0.lock();
        state.call()?;
        let node = state.directory_at(path)?;
        let one_in = state.nature.directory_fails_one_in;
        if state.fails(one_in) {
            return Err(eio());
        }
        state.sync_names(node);
        Ok(())
    }

    fn space(&self, _: &Path) -> io::Result<Space> {
        let mut state = self.0.lock();
        state.call()?;
        let capacity = state.nature.capacity.ok_or(io::ErrorKind::Unsupported)?;
        Ok(Space { free: capacity.saturating_sub(state.used()), total: capacity })
    }

    fn lock(&self, path: &Path) -> io::Result<Box<dyn Send + Sync>> {
        let mut state = self.0.lock();
        state.call()?;
        let life = state.lives;
        if state.locks.insert(path.to_owned(), life).is_some() {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        Ok(Box::new(Lock { disk: self.clone(), path: path.to_owned(), life }))
    }
}

impl State {
    /// Makes a directory's names durable; a rename into it that another directory shares becomes durable there, too.
    fn sync_names(&mut self, node: Node) {
        let pending = std::mem::take(&mut self.directories.get_mut(&node).expect("a directory").pending);
        for (together, change) in pending {
            apply(&mut self.directories.get_mut(&node).expect("a directory").durable, &change);
            for other in self.directories.values_mut() {
                let (done, left): (Vec<_>, Vec<_>) =
                    std::mem::take(&mut other.pending).into_iter().partition(|(number, _)| *number == together);
                other.pending = left;
                done.iter().for_each(|(_, change)| apply(&mut other.durable, change));
            }
        }
    }
}

struct Lock {
    disk: SimDisk,
    path: PathBuf,
    life: u64,
}

impl Drop for Lock {
    fn drop(&mut self) {
        let mut state = self.disk.0.lock();
        if state.locks.get(&self.path) == Some(&self.life) {
            state.locks.remove(&self.path);
        }
    }
}

struct Handle {
    disk: SimDisk,
    node: Node,
    /// The process that opened it: a later one does not have it.
    life: u64,
    /// Where it was made, for the `journalled` flavour.
    name: Option<(Node, PathBuf)>,
}

impl Handle {
    fn with<R>(&self, work: impl FnOnce(&mut State) -> io::Result<R>) -> io::Result<R> {
        let mut state = self.disk.0.lock();
        if state.lives != self.life {
            return Err(dead());
        }
        work(&mut state)
    }

    fn file<'a>(&self, state: &'a mut State) -> io::Result<&'a mut File> {
        state.files.get_mut(&self.node).ok_or_else(dead)
    }
}

impl StorageFile for Handle {
    fn len(&self) -> io::Result<u64> {
        self.with(|state| {
            state.call()?;
            Ok(self.file(state)?.cache.len() as u64)
        })
    }

    fn read_at(&self, buffer: &mut [u8], position: u64) -> io::Result<usize> {
        self.with(|state| {
            state.call()?;
            let one_in = state.nature.read_fails_one_in;
            if state.fails(one_in) {
                return Err(eio());
            }
            let from = position as usize;
            let spoilt = state.unreadable.get(&self.node);
            if spoilt.is_some_and(|all| all.iter().any(|(start, end)| *start < from + buffer.len() && from < *end)) {
                return Err(eio());
            }
            let cache = &self.file(state)?.cache;
            let from = from.min(cache.len());
            let read = buffer.len().min(cache.len() - from);
            buffer[..read].copy_from_slice(&cache[from..from + read]);
            Ok(read)
        })
    }

    fn write_all_at(&self, slices: &[IoSlice<'_>], position: u64) -> io::Result<()> {
        let bytes: Vec<u8> = slices.iter().flat_map(|slice| slice.iter().copied()).collect();
        self.with(|state| {
            let alive = !state.dead;
            let called = state.call();
            let mut fit = bytes.len();
            let mut error = None;
            if let Err(dying) = called {
                if !alive {
                    return Err(dying);
                }
                // It dies in this call: any part may have been written.
                (fit, error) = (state.rng.below(bytes.len() as u64 + 1) as usize, Some(dying));
            } else {
                let one_in = state.nature.write_fails_one_in;
                if state.fails(one_in) {
                    (fit, error) = (state.rng.below(bytes.len() as u64 + 1) as usize, Some(eio()));
                } else if let Some(capacity) = state.nature.capacity {
                    let length = self.file(state)?.cache.len();
                    let others = state.used() - length as u64;
                    let room = (capacity.saturating_sub(others) as usize).max(length);
                    if position as usize + bytes.len() > room {
                        fit = room.saturating_sub(position as usize).min(bytes.len());
                        error = Some(io::Error::from_raw_os_error(ENOSPC));
                    }
                }
            }
            if fit > 0 {
                self.file(state)?.write(position as usize, &bytes[..fit]);
            }
            error.map_or(Ok(()), Err)
        })
    }

    fn sync_data(&self) -> io::Result<()> {
        self.with(|state| {
            state.call()?;
            let one_in = state.nature.sync_fails_one_in;
            let fails = state.fails(one_in) || state.never_syncs.contains_key(&self.node);
            let (reverting, journalled) = (state.nature.reverting, state.nature.journalled);
            if fails {
                self.file(state)?.fail_sync(reverting);
                return Err(eio());
            }
            self.file(state)?.sync();
            if let (true, Some((directory, _))) = (journalled, &self.name)
                && state.directories.contains_key(directory)
            {
                state.sync_names(*directory);
            }
            Ok(())
        })
    }

    fn set_len(&self, length: u64) -> io::Result<()> {
        self.with(|state| {
            state.call()?;
            self.file(state)?.set_len(length as usize);
            Ok(())
        })
    }

    fn allocate(&self, length: u64) -> io::Result<()> {
        self.set_len(0)?;
        self.write_all_at(&[IoSlice::new(&vec![0; length as usize])], 0)
    }

    fn evict(&self, position: u64) -> io::Result<()> {
        self.with(|state| {
            state.call()?;
            self.file(state)?.evict(position as usize);
            Ok(())
        })
    }
}

#[cfg(test)]
mod tests;
