//! The raw pipe: the shortest program that moves bytes over QUIC into a synced file, and out of a cached one.
//!
//! ```text
//! produce  client: batches ─► quinn stream ─► server: whatever has come ─► one write, one fdatasync ─► acks
//! fetch    server: mapped file ─► quinn stream ─► client: counts
//! ```
//! The disk bounds the synced way long before the network does; without the sync it is the CPU. Hence both.
//! The bytes have no frames: the first byte of a stream says what it is, an ack is the number of bytes
//! that are written, or durable, so far. Grouping is the product's: what waits while a sync runs shares the next one. Each side has
//! its own runtime, as two processes would.
//!
//! It leaves out all that a product must do: checksums, offsets, indexes, bounded memory, more than one file.

use std::fs::File;
use std::io::{self, IoSlice, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, mpsc};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use bytes::Bytes;
use quinn::{Connection, Endpoint, RecvStream, SendStream, VarInt};
use tokio::runtime::Runtime;
use tokio::sync::{Semaphore, watch};

use crate::disk;
use crate::quic::{self, Certificate, Error};

const SYNCED: u8 = b'S';
const WRITTEN: u8 = b'W';
const FETCH: u8 = b'F';
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

/// A running pipe: a server and one connection to it.
pub struct Pipe {
    // Dropped in this order: the client closes, then the server ends.
    connection: Connection,
    _endpoint: Endpoint,
    client: Runtime,
    _server: Runtime,
}

impl Pipe {
    /// Starts one. What is produced goes to new files in `directory`; `cached` is what a fetch gives out.
    ///
    /// # Errors
    /// No socket, no file, no connection.
    pub fn start(directory: &Path, cached: &Path) -> Result<Self, Error> {
        let certificate = Certificate::new()?;
        let (server, client) = (runtime("pipe-server")?, runtime("pipe-client")?);
        let cached = Bytes::from_owner(disk::map(cached)?);
        let endpoint = server.block_on(async { quic::server(&certificate) })?;
        let address = endpoint.local_addr()?;
        server.spawn(accept(endpoint, directory.to_path_buf(), cached));
        let (endpoint, connection) = client.block_on(quic::connect(address, &certificate))?;
        Ok(Self { connection, _endpoint: endpoint, client, _server: server })
    }

    /// Sends `batch` `count` times, at most `depth` of them not yet acknowledged; the time until the last ack.
    ///
    /// # Errors
    /// The connection, or the server's disk.
    pub fn produce(&self, batch: &Bytes, count: usize, depth: usize, ack: Ack) -> Result<Duration, Error> {
        self.client.block_on(produce(&self.connection, batch.clone(), count, depth, ack))
    }

    /// Sends `batch` `count` times, each after the ack of the one before; the time of each.
    ///
    /// # Errors
    /// The connection, or the server's disk.
    pub fn round_trips(&self, batch: &Bytes, count: usize) -> Result<Vec<Duration>, Error> {
        self.client.block_on(round_trips(&self.connection, batch, count))
    }

    /// Takes the whole cached file; the time until its last byte.
    ///
    /// # Errors
    /// The connection.
    pub fn fetch(&self) -> Result<Duration, Error> {
        self.client.block_on(fetch(&self.connection))
    }

    /// The datagram size that the path has settled at, and packets lost so far, on the client's side.
    pub fn path(&self) -> (u16, u64) {
        let stats = self.connection.stats();
        (stats.path.current_mtu, stats.path.lost_packets)
    }
}

impl Drop for Pipe {
    fn drop(&mut self) {
        self.connection.close(VarInt::from_u32(0), b"done");
    }
}

// ---- the client ----

async fn produce(
    connection: &Connection,
    batch: Bytes,
    count: usize,
    depth: usize,
    kind: Ack,
) -> Result<Duration, Error> {
    let start = Instant::now();
    let (mut send, mut recv) = connection.open_bi().await?;
    send.write_all(&[if kind == Ack::Synced { SYNCED } else { WRITTEN }]).await?;
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
    sender.await??;
    Ok(start.elapsed())
}

async fn round_trips(connection: &Connection, batch: &Bytes, count: usize) -> Result<Vec<Duration>, Error> {
    let (mut send, mut recv) = connection.open_bi().await?;
    send.write_all(&[SYNCED]).await?;
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

async fn ack(recv: &mut RecvStream) -> Result<u64, Error> {
    let mut bytes = [0; 8];
    recv.read_exact(&mut bytes).await?;
    Ok(u64::from_le_bytes(bytes))
}

async fn fetch(connection: &Connection) -> Result<Duration, Error> {
    let start = Instant::now();
    let (mut send, mut recv) = connection.open_bi().await?;
    send.write_all(&[FETCH]).await?;
    let mut chunks = [const { Bytes::new() }; CHUNKS];
    let mut bytes = 0;
    while let Some(count) = recv.read_chunks(&mut chunks).await? {
        bytes += chunks[..count].iter_mut().map(|chunk| std::mem::take(chunk).len()).sum::<usize>();
    }
    let elapsed = start.elapsed();
    if bytes == 0 { Err("nothing was fetched".into()) } else { Ok(elapsed) }
}

// ---- the server ----

async fn accept(endpoint: Endpoint, directory: PathBuf, cached: Bytes) {
    let mut files = 0;
    while let Some(incoming) = endpoint.accept().await {
        let Ok(connection) = incoming.await else { continue };
        while let Ok((send, mut recv)) = connection.accept_bi().await {
            files += 1;
            let (path, cached) = (directory.join(format!("pipe-{files}")), cached.clone());
            tokio::spawn(async move {
                let mut kind = [0];
                recv.read_exact(&mut kind).await?;
                match kind[0] {
                    SYNCED => take(send, recv, &path, Ack::Synced).await,
                    WRITTEN => take(send, recv, &path, Ack::Written).await,
                    _ => give(send, cached).await,
                }
            });
        }
    }
}

async fn give(mut send: SendStream, mut cached: Bytes) -> Result<(), Error> {
    while !cached.is_empty() {
        send.write_chunk(cached.split_to(cached.len().min(FETCH_CHUNK))).await?;
    }
    Ok(send.finish()?)
}

/// Reads on; a thread of its own writes and syncs; acks go out meanwhile.
async fn take(mut send: SendStream, mut recv: RecvStream, path: &Path, ack: Ack) -> Result<(), Error> {
    let (to_disk, waiting) = mpsc::channel();
    let (done, mut progress) = watch::channel(0);
    let writer = write(File::create(path)?, waiting, done, ack);
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
        let group: Vec<Bytes> = chunks[..count].iter_mut().map(std::mem::take).collect();
        to_disk.send(group)?;
    }
    drop(to_disk);
    acks.await??;
    writer.join().map_err(|_| "the writer panicked")??;
    Ok(std::fs::remove_file(path)?)
}

fn write(
    mut file: File,
    waiting: mpsc::Receiver<Vec<Bytes>>,
    done: watch::Sender<u64>,
    ack: Ack,
) -> JoinHandle<io::Result<()>> {
    std::thread::spawn(move || {
        let mut total = 0;
        while let Ok(mut group) = waiting.recv() {
            group.extend(waiting.try_iter().flatten());
            total += group.iter().map(Bytes::len).sum::<usize>() as u64;
            let mut slices: Vec<IoSlice<'_>> = group.iter().map(|chunk| IoSlice::new(chunk)).collect();
            let mut rest = slices.as_mut_slice();
            while !rest.is_empty() {
                let written = file.write_vectored(rest)?;
                IoSlice::advance_slices(&mut rest, written);
            }
            if ack == Ack::Synced {
                file.sync_data()?;
            }
            done.send_replace(total);
        }
        Ok(())
    })
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
        let pipe = Pipe::start(&dir, &cached).expect("it starts");
        let batch = Bytes::from(noise(64 << 10));
        for ack in [Ack::Synced, Ack::Written] {
            pipe.produce(&batch, 40, 8, ack).expect("acknowledged");
        }
        assert_eq!(pipe.round_trips(&batch.slice(..1_024), 10).expect("acknowledged").len(), 10);
        pipe.fetch().expect("fetched");
        drop(pipe);
        std::fs::remove_dir_all(&dir).expect("removed");
    }
}
