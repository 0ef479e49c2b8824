//! The raw pipe: the shortest program that moves bytes over QUIC into a synced file, and out of a cached one.
//!
//! ```text
//! produce  client: batches ─► quinn streams ─► server: whatever has come ─► one write, one fdatasync ─► acks
//! fetch    server: file ─► quinn stream ─► client: counts
//! ```
//! The bytes have no frames: the first byte of a stream says what it is, an ack is the number of the stream's bytes
//! that are written, or durable, so far. All streams that are open together go to one file, by one thread:
//! what waits while a sync runs shares the next one. Client and server are two processes in `ratios`.
//!
//! It leaves out all that a product must do: checksums, offsets, indexes, bounded memory, more than one file.

use std::fs::File;
use std::io::{self, IoSlice, Write};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak, mpsc};
use std::time::{Duration, Instant};

use bytes::Bytes;
use parking_lot::Mutex;
use quinn::{Connection, Endpoint, RecvStream, SendStream, VarInt};
use tokio::runtime::Runtime;
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;

use crate::disk::{self, AlignedReader};
use crate::gather::{Gather, Gatherer};
use crate::pace::Ticks;
use crate::process;
use crate::quic::{self, Certificate, Error};

const SYNCED: u8 = b'S';
const WRITTEN: u8 = b'W';
const FETCH: u8 = b'F';
const FETCH_MAPPED: u8 = b'M';
/// What one fetch writes at a time.
const FETCH_CHUNK: usize = 1 << 20;
/// Chunks taken from quinn under one lock.
const CHUNKS: usize = 64;

/// A runtime with as many workers as the product's programs have.
///
/// # Errors
/// No threads.
pub fn runtime(name: &str) -> io::Result<Runtime> {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).thread_name(name).enable_all().build()
}

/// What an ack of the pipe means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ack {
    /// `fdatasync` has returned.
    Synced,
    /// `write` has returned.
    Written,
}

/// How a fetch reads the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Read {
    /// `pread` of 1 MiB into page-aligned buffers, ahead of the network as far as quinn takes it.
    Pread,
    /// A map: no call and no copy, but a bad sector under it kills the process.
    Mapped,
}

/// A pipe's client: one connection to its server, or many.
pub struct Pipe {
    // Dropped in this order: the connections close, then their runtime ends.
    connections: Vec<Connection>,
    _endpoints: Vec<Endpoint>,
    runtime: Runtime,
}

impl Pipe {
    /// Connects to a [`Server`].
    ///
    /// # Errors
    /// No socket, no connection.
    pub fn connect(address: SocketAddr, certificate: &[u8]) -> Result<Self, Error> {
        Self::connect_many(address, certificate, 1)
    }

    /// The same with so many connections, each from a port of its own.
    ///
    /// # Errors
    /// No socket, no connection.
    pub fn connect_many(address: SocketAddr, certificate: &[u8], count: usize) -> Result<Self, Error> {
        let runtime = runtime("pipe-client")?;
        let (mut endpoints, mut connections) = (Vec::with_capacity(count), Vec::with_capacity(count));
        for _ in 0..count {
            let (endpoint, connection) = runtime.block_on(quic::connect(address, certificate))?;
            endpoints.push(endpoint);
            connections.push(connection);
        }
        Ok(Self { connections, _endpoints: endpoints, runtime })
    }

    /// Sends `batch` `count` times over each of `streams`, which the connections have in turn, at most `depth` of them not yet
    /// acknowledged on each; the time until the last ack.
    ///
    /// # Errors
    /// The connection, or the server's disk.
    pub fn produce(
        &self,
        batch: &Bytes,
        streams: usize,
        count: usize,
        depth: usize,
        ack: Ack,
    ) -> Result<Duration, Error> {
        self.runtime.block_on(async {
            let start = Instant::now();
            let mut producing = JoinSet::new();
            for stream in 0..streams {
                let connection = self.connections[stream % self.connections.len()].clone();
                producing.spawn(produce(connection, batch.clone(), count, depth, ack));
            }
            while let Some(ended) = producing.join_next().await {
                ended??;
            }
            Ok(start.elapsed())
        })
    }

    /// Sends `batch` `count` times, each after the ack of the one before; the time of each.
    ///
    /// # Errors
    /// The connection, or the server's disk.
    pub fn round_trips(&self, batch: &Bytes, count: usize) -> Result<Vec<Duration>, Error> {
        self.runtime.block_on(round_trips(&self.connections[0], batch, count))
    }

    /// Sends `batch` at each tick; the time from when it was due until its ack came.
    ///
    /// # Errors
    /// The connection, or the server's disk.
    pub fn paced_round_trips(&self, batch: &Bytes, ticks: Ticks) -> Result<Vec<Duration>, Error> {
        self.runtime.block_on(paced_round_trips(&self.connections[0], batch, ticks))
    }

    /// Takes the whole cached file; the time until its last byte.
    ///
    /// # Errors
    /// The connection.
    pub fn fetch(&self, read: Read) -> Result<Duration, Error> {
        self.runtime.block_on(fetch(&self.connections[0], read))
    }

    /// The datagram size that the path has settled at, and packets lost so far, on the client's side.
    pub fn path(&self) -> (u16, u64) {
        let stats = self.connections[0].stats();
        (stats.path.current_mtu, stats.path.lost_packets)
    }
}

impl Drop for Pipe {
    fn drop(&mut self) {
        for connection in &self.connections {
            connection.close(VarInt::from_u32(0), b"done");
        }
    }
}

// ---- the client ----

fn opening(ack: Ack) -> [u8; 1] {
    [if ack == Ack::Synced { SYNCED } else { WRITTEN }]
}

async fn produce(connection: Connection, batch: Bytes, count: usize, depth: usize, kind: Ack) -> Result<(), Error> {
    let (mut send, mut recv) = connection.open_bi().await?;
    send.write_all(&opening(kind)).await?;
    let room = Arc::new(Semaphore::new(depth));
    let length = batch.len() as u64;
    let sender = tokio::spawn({
        let room = Arc::clone(&room);
        async move {
            for _ in 0..count {
                room.acquire().await?.forget();
                send.write_chunk(batch.clone()).await?;
            }
            send.finish()?;
            Ok::<_, Error>(())
        }
    });
    let mut acknowledged = 0;
    while acknowledged < count as u64 {
        let now = ack(&mut recv).await? / length;
        room.add_permits((now - acknowledged) as usize);
        acknowledged = now;
    }
    sender.await?
}

async fn round_trips(connection: &Connection, batch: &Bytes, count: usize) -> Result<Vec<Duration>, Error> {
    let (mut send, mut recv) = connection.open_bi().await?;
    send.write_all(&opening(Ack::Synced)).await?;
    let mut times = Vec::with_capacity(count);
    let mut wanted = 0;
    for _ in 0..count {
        let start = Instant::now();
        send.write_chunk(batch.clone()).await?;
        wanted += batch.len() as u64;
        while ack(&mut recv).await? < wanted {}
        times.push(start.elapsed());
    }
    send.finish()?;
    Ok(times)
}

async fn paced_round_trips(connection: &Connection, batch: &Bytes, mut ticks: Ticks) -> Result<Vec<Duration>, Error> {
    let (mut send, mut recv) = connection.open_bi().await?;
    send.write_all(&opening(Ack::Synced)).await?;
    let (due, mut acknowledging) = tokio::sync::mpsc::unbounded_channel();
    let (batch, length) = (batch.clone(), batch.len() as u64);
    let sender = tokio::spawn(async move {
        while let Some(tick) = ticks.next().await {
            due.send(tick)?;
            send.write_chunk(batch.clone()).await?;
        }
        send.finish()?;
        Ok::<_, Error>(())
    });
    let (mut times, mut acknowledged) = (Vec::new(), 0);
    while let Some(tick) = acknowledging.recv().await {
        while acknowledged < length * (times.len() as u64 + 1) {
            acknowledged = ack(&mut recv).await?;
        }
        times.push(tick.elapsed());
    }
    sender.await??;
    Ok(times)
}

async fn ack(recv: &mut RecvStream) -> Result<u64, Error> {
    let mut bytes = [0; 8];
    recv.read_exact(&mut bytes).await?;
    Ok(u64::from_le_bytes(bytes))
}

async fn fetch(connection: &Connection, read: Read) -> Result<Duration, Error> {
    let start = Instant::now();
    let (mut send, mut recv) = connection.open_bi().await?;
    send.write_all(&[if read == Read::Mapped { FETCH_MAPPED } else { FETCH }]).await?;
    let mut chunks = [const { Bytes::new() }; CHUNKS];
    let mut bytes = 0;
    while let Some(count) = recv.read_chunks(&mut chunks).await? {
        bytes += chunks[..count].iter_mut().map(|chunk| std::mem::take(chunk).len()).sum::<usize>();
    }
    let elapsed = start.elapsed();
    if bytes == 0 { Err("nothing was fetched".into()) } else { Ok(elapsed) }
}

// ---- the server ----

/// A running pipe's server; ends when dropped.
pub struct Server {
    /// Where it listens.
    pub address: SocketAddr,
    /// What a client must be given.
    pub certificate: Vec<u8>,
    shared: Arc<Shared>,
    _runtime: Runtime,
}

impl Server {
    /// Starts one. What is produced goes to new files in `directory`; `cached` is what a fetch gives out.
    ///
    /// # Errors
    /// No socket, no file.
    pub fn start(directory: &Path, cached: &Path, datagram_bytes: u16, socket_buffer: usize) -> Result<Self, Error> {
        Self::start_gathering(directory, cached, datagram_bytes, socket_buffer, Gather::Pieces)
    }

    /// The same with pieces put together before they are written.
    ///
    /// # Errors
    /// No socket, no file.
    pub fn start_gathering(
        directory: &Path,
        cached: &Path,
        datagram_bytes: u16,
        socket_buffer: usize,
        gather: Gather,
    ) -> Result<Self, Error> {
        let certificate = Certificate::new()?;
        let runtime = runtime("pipe-server")?;
        let endpoint = runtime.block_on(async { quic::server(&certificate, datagram_bytes, socket_buffer) })?;
        let address = endpoint.local_addr()?;
        let shared = Arc::new(Shared {
            directory: directory.to_path_buf(),
            cached: cached.to_path_buf(),
            gatherer: Gatherer::new(gather),
            lanes: Mutex::default(),
            writing: Arc::default(),
        });
        runtime.spawn(accept(endpoint, Arc::clone(&shared)));
        Ok(Self { address, certificate: certificate.der().to_vec(), shared, _runtime: runtime })
    }

    /// Processor time of the writing threads so far.
    pub fn writing(&self) -> Duration {
        Duration::from_nanos(self.shared.writing.load(Ordering::Relaxed))
    }
}

async fn accept(endpoint: Endpoint, shared: Arc<Shared>) {
    while let Some(incoming) = endpoint.accept().await {
        let shared = Arc::clone(&shared);
        tokio::spawn(async move {
            if let Ok(connection) = incoming.await {
                serve(connection, shared).await;
            }
        });
    }
}

/// What all connections share.
struct Shared {
    directory: PathBuf,
    cached: PathBuf,
    gatherer: Gatherer,
    lanes: Mutex<Lanes>,
    /// Nanoseconds of processor time that writing has taken.
    writing: Arc<AtomicU64>,
}

#[derive(Default)]
struct Lanes {
    open: Weak<Lane>,
    files: u64,
}

impl Shared {
    /// The lane that is open, or the next.
    fn lane(&self, ack: Ack) -> io::Result<Arc<Lane>> {
        let mut lanes = self.lanes.lock();
        if let Some(open) = lanes.open.upgrade().filter(|lane| lane.ack == ack) {
            return Ok(open);
        }
        lanes.files += 1;
        let path = self.directory.join(format!("pipe-{}", lanes.files));
        let lane = Arc::new(Lane::open(path, ack, Arc::clone(&self.writing))?);
        lanes.open = Arc::downgrade(&lane);
        Ok(lane)
    }
}

async fn serve(connection: Connection, shared: Arc<Shared>) {
    while let Ok((send, mut recv)) = connection.accept_bi().await {
        let mut kind = [0];
        if recv.read_exact(&mut kind).await.is_err() {
            continue;
        }
        let ack = match kind[0] {
            SYNCED => Ack::Synced,
            WRITTEN => Ack::Written,
            FETCH => {
                tokio::spawn(give(send, shared.cached.clone()));
                continue;
            }
            _ => {
                tokio::spawn(give_mapped(send, shared.cached.clone()));
                continue;
            }
        };
        let Ok(lane) = shared.lane(ack) else { return };
        tokio::spawn(take(send, recv, lane, shared.gatherer.clone()));
    }
}

async fn give_mapped(mut send: SendStream, cached: PathBuf) -> Result<(), Error> {
    let mut cached = Bytes::from_owner(disk::map(&cached)?);
    while !cached.is_empty() {
        send.write_chunk(cached.split_to(cached.len().min(FETCH_CHUNK))).await?;
    }
    Ok(send.finish()?)
}

/// The next chunk is read while quinn takes this one.
async fn give(mut send: SendStream, cached: PathBuf) -> Result<(), Error> {
    let read = |mut reader: AlignedReader| {
        tokio::task::spawn_blocking(move || {
            let chunk = reader.next();
            (reader, chunk)
        })
    };
    let (mut reader, mut chunk) = read(AlignedReader::open(&cached, FETCH_CHUNK)?).await?;
    while let Some(now) = chunk? {
        let (next, sent) = tokio::join!(read(reader), send.write_chunk(now));
        sent?;
        (reader, chunk) = next?;
    }
    Ok(send.finish()?)
}

/// One file, and the thread that writes it.
struct Lane {
    ack: Ack,
    to_disk: mpsc::Sender<Group>,
    path: PathBuf,
}

/// What has come on one stream.
struct Group {
    chunks: Vec<Bytes>,
    done: watch::Sender<u64>,
}

impl Lane {
    fn open(path: PathBuf, ack: Ack, writing: Arc<AtomicU64>) -> io::Result<Self> {
        let (to_disk, waiting) = mpsc::channel();
        let file = File::create(&path)?;
        std::thread::spawn(move || write(file, waiting, ack, &writing));
        Ok(Self { ack, to_disk, path })
    }
}

impl Drop for Lane {
    fn drop(&mut self) {
        // The directory goes with the bench.
        let _ = std::fs::remove_file(&self.path);
    }
}

/// Reads on; the lane's thread writes and syncs; acks go out meanwhile.
async fn take(mut send: SendStream, mut recv: RecvStream, lane: Arc<Lane>, gatherer: Gatherer) -> Result<(), Error> {
    let (done, mut progress) = watch::channel(0);
    let acks = tokio::spawn(async move {
        while progress.changed().await.is_ok() {
            let bytes: u64 = *progress.borrow_and_update();
            send.write_all(&bytes.to_le_bytes()).await?;
        }
        send.finish()?;
        Ok::<_, Error>(())
    });
    let mut chunks = [const { Bytes::new() }; CHUNKS];
    while let Some(count) = recv.read_chunks(&mut chunks).await? {
        let chunks = gatherer.gather(chunks[..count].iter_mut().map(std::mem::take).collect());
        // Bounded by what the client has in flight.
        lane.to_disk.send(Group { chunks, done: done.clone() }).map_err(|_| "the writer has ended")?;
    }
    drop(done);
    acks.await?
}

fn write(mut file: File, waiting: mpsc::Receiver<Group>, ack: Ack, writing: &AtomicU64) -> io::Result<()> {
    let mut before = process::thread_cpu();
    while let Ok(first) = waiting.recv() {
        let groups: Vec<Group> = std::iter::once(first).chain(waiting.try_iter()).collect();
        let mut slices: Vec<IoSlice<'_>> =
            groups.iter().flat_map(|group| &group.chunks).map(|chunk| IoSlice::new(chunk)).collect();
        let mut rest = slices.as_mut_slice();
        while !rest.is_empty() {
            let written = file.write_vectored(rest)?;
            IoSlice::advance_slices(&mut rest, written);
        }
        if ack == Ack::Synced {
            file.sync_data()?;
        }
        for Group { chunks, done } in groups {
            done.send_modify(|total| *total += chunks.iter().map(Bytes::len).sum::<usize>() as u64);
        }
        let now = process::thread_cpu();
        writing.fetch_add((now - before).as_nanos() as u64, Ordering::Relaxed);
        before = now;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::noise;

    #[test]
    fn what_goes_in_is_acknowledged_and_what_is_cached_comes_out() {
        let dir = std::env::temp_dir().join(format!("millstream-pipe-{}", std::process::id()));
        std::fs::create_dir_all(&dir).expect("a directory");
        let cached = dir.join("cached");
        disk::fill(&cached, &noise(1 << 20), 3 << 20).expect("written");
        let server = Server::start(&dir, &cached, quic::DATAGRAM_BYTES_MAX, quic::SOCKET_BUFFER).expect("it starts");
        let batch = Bytes::from(noise(64 << 10));
        let pipe = Pipe::connect_many(server.address, &server.certificate, 2).expect("it connects");
        for ack in [Ack::Synced, Ack::Written] {
            pipe.produce(&batch, 3, 40, 8, ack).expect("acknowledged");
        }
        let one = batch.slice(..1_024);
        assert_eq!(pipe.round_trips(&one, 10).expect("acknowledged").len(), 10);
        assert_eq!(pipe.paced_round_trips(&one, Ticks::start(1_000, 50)).expect("acknowledged").len(), 50);
        for read in [Read::Pread, Read::Mapped] {
            pipe.fetch(read).expect("fetched");
        }
        drop((pipe, server));
        std::fs::remove_dir_all(&dir).expect("removed");
    }
}
