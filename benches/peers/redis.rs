//! Redis Streams: `XADD` to produce; a consumer group with `XREADGROUP` and an `XACK` for each job as a queue.
//!
//! Everything is pipelined: a consumer's acks go out with its next `XREADGROUP`, in one write. Redis answers them first, so
//! a job counts as acknowledged once its own answer has come, which must be 1: acked by this, and not before.

mod resp;

use std::fmt::Display;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Buf;

use resp::{Token, put_command, token};

use super::process::{Directory, Process, Program};
use super::run::{self, Producers, Progress};
use super::wire::Wire;
use super::{Error, Load, SyncPolicy, payload};

pub(super) const SERVER: Program =
    Program { name: "redis-server", before_version: "v=", ready: "Ready to accept connections" };

const GROUP: &[u8] = b"workers";
/// Jobs that a consumer asks for at a time.
const COUNT: &[u8] = b"100";

/// What the server is told beyond where it is.
fn options(sync: SyncPolicy) -> [(&'static str, &'static str); 4] {
    let when = match sync {
        SyncPolicy::Always => "always",
        SyncPolicy::Periodic => "everysec",
    };
    // A rewrite of the file in the middle of a run would cost it a fork and twice the writes.
    [("appendonly", "yes"), ("appendfsync", when), ("save", ""), ("auto-aof-rewrite-percentage", "0")]
}

/// The same in words.
pub(super) fn settings(sync: SyncPolicy) -> String {
    let words = options(sync)
        .map(|(name, value)| if value.is_empty() { format!("{name} \"\"") } else { format!("{name} {value}") });
    words.join(", ")
}

pub(super) async fn start(sync: SyncPolicy, directory: Directory) -> Result<Process, Error> {
    Process::start(&SERVER, directory, |address, path| {
        let (ip, port) = (address.ip().to_string(), address.port().to_string());
        let place = [("bind", ip.as_str()), ("port", &port), ("dir", &path.to_string_lossy()), ("daemonize", "no")]
            .map(|(name, value)| (name.to_owned(), value.to_owned()));
        let options = options(sync).map(|(name, value)| (name.to_owned(), value.to_owned()));
        Ok(place.into_iter().chain(options).flat_map(|(name, value)| [format!("--{name}"), value]).collect())
    })
    .await
}

pub(super) async fn produce(address: SocketAddr, stream: &str, load: &Load) -> Result<Duration, Error> {
    let took = run::produce(producers(address, stream, load).await?).await?;
    delete(address, stream).await?;
    Ok(took)
}

pub(super) async fn round_trips(
    address: SocketAddr,
    stream: &str,
    count: u64,
    record_bytes: usize,
) -> Result<Vec<Duration>, Error> {
    let wire = Wire::connect(address).await?;
    let times = run::round_trips(wire, &add(stream, record_bytes), count, answers).await?;
    delete(address, stream).await?;
    Ok(times)
}

pub(super) async fn queue(address: SocketAddr, stream: &str, load: &Load, consumers: usize) -> Result<Duration, Error> {
    let mut control = Replies::connect(address).await?;
    put_command(&mut control.wire.output, &[b"XGROUP", b"CREATE", stream.as_bytes(), GROUP, b"0", b"MKSTREAM"]);
    control.expect(Token::Text(b"OK")).await?;
    let mut connected = Vec::with_capacity(consumers);
    for _ in 0..consumers {
        connected.push(Replies::connect(address).await?);
    }
    let start = run::queue(producers(address, stream, load).await?, |progress| {
        let numbered = connected.into_iter().enumerate();
        numbered.map(|(number, replies)| consume(replies, stream.to_owned(), number, progress.clone())).collect()
    })
    .await?;
    let took = start.elapsed();
    // The summary of what is delivered and not acknowledged begins with how much that is.
    put_command(&mut control.wire.output, &[b"XPENDING", stream.as_bytes(), GROUP]);
    control.expect(Token::Array(Some(4))).await?;
    control.expect(Token::Integer(0)).await?;
    delete(address, stream).await?;
    Ok(took)
}

async fn producers(address: SocketAddr, stream: &str, load: &Load) -> Result<Producers, Error> {
    let request: Arc<[u8]> = add(stream, load.record_bytes).into();
    let mut wires = Vec::with_capacity(load.producers);
    for _ in 0..load.producers.max(1) {
        wires.push((Wire::connect(address).await?, request.clone()));
    }
    Ok(Producers { wires, answers, load: *load })
}

/// The command that adds a record.
fn add(stream: &str, record_bytes: usize) -> Vec<u8> {
    let mut request = Vec::with_capacity(record_bytes + 64);
    put_command(&mut request, &[b"XADD", stream.as_bytes(), b"*", b"v", &payload(record_bytes)]);
    request
}

/// Each `XADD` is answered by an id.
fn answers(wire: &mut Wire) -> Result<u64, Error> {
    let (mut count, mut taken) = (0, 0);
    while let Some((found, length)) = token(&wire.input[taken..])? {
        if !matches!(found, Token::String(Some(_))) {
            return Err(unexpected(found, "an id"));
        }
        count += 1;
        taken += length;
    }
    wire.input.advance(taken);
    Ok(count)
}

/// Takes jobs and acknowledges them, for ever.
async fn consume(mut replies: Replies, stream: String, number: usize, progress: Progress) -> Result<(), Error> {
    let (stream, name) = (stream.as_bytes(), format!("consumer-{number}"));
    let mut receive = Vec::new();
    put_command(
        &mut receive,
        &[b"XREADGROUP", b"GROUP", GROUP, name.as_bytes(), b"COUNT", COUNT, b"BLOCK", b"0", b"STREAMS", stream, b">"],
    );
    let (mut acks, mut due) = (Vec::new(), 0);
    loop {
        replies.wire.output.append(&mut acks);
        replies.wire.output.extend_from_slice(&receive);
        for _ in 0..due {
            replies.expect(Token::Integer(1)).await?;
        }
        if due > 0 {
            // Whoever counts may have gone: then this is dropped at once.
            let _ = progress.send(due);
        }
        due = take(&mut replies, stream, &mut acks).await?;
    }
}

/// Takes the answer to `XREADGROUP`: one stream with its name and its entries, each an id and a list of one field and its value.
/// Appends an `XACK` for each entry; returns how many there are.
async fn take(replies: &mut Replies, stream: &[u8], acks: &mut Vec<u8>) -> Result<u64, Error> {
    replies.expect(Token::Array(Some(1))).await?;
    replies.expect(Token::Array(Some(2))).await?;
    replies.expect(Token::String(Some(stream))).await?;
    let entries = match replies.next().await? {
        Token::Array(Some(entries)) => entries,
        other => return Err(unexpected(other, "a list of entries")),
    };
    for _ in 0..entries {
        replies.expect(Token::Array(Some(2))).await?;
        match replies.next().await? {
            Token::String(Some(id)) => put_command(acks, &[b"XACK", stream, GROUP, id]),
            other => return Err(unexpected(other, "an id")),
        }
        replies.expect(Token::Array(Some(2))).await?;
        replies.expect(Token::String(Some(b"v"))).await?;
        match replies.next().await? {
            Token::String(Some(_)) => {}
            other => return Err(unexpected(other, "a value")),
        }
    }
    Ok(entries as u64)
}

/// Frees the stream's memory: the next run must not pay for it.
async fn delete(address: SocketAddr, stream: &str) -> Result<(), Error> {
    let mut replies = Replies::connect(address).await?;
    put_command(&mut replies.wire.output, &[b"DEL", stream.as_bytes()]);
    replies.expect(Token::Integer(1)).await
}

/// A connection whose replies are taken token by token.
struct Replies {
    wire: Wire,
    /// Bytes of the token that was given out last: they go with the next one.
    taken: usize,
}

impl Replies {
    async fn connect(address: SocketAddr) -> Result<Self, Error> {
        Ok(Self { wire: Wire::connect(address).await?, taken: 0 })
    }

    /// The next token; waits for it.
    async fn next(&mut self) -> Result<Token<'_>, Error> {
        self.wire.input.advance(std::mem::take(&mut self.taken));
        self.taken = loop {
            match token(&self.wire.input)? {
                Some((_, length)) => break length,
                None => self.wire.read().await?,
            }
        };
        let whole = token(&self.wire.input[..self.taken])?;
        Ok(whole.expect("it was whole just now").0)
    }

    async fn expect(&mut self, expected: Token<'_>) -> Result<(), Error> {
        let found = self.next().await?;
        if found == expected { Ok(()) } else { Err(unexpected(found, expected)) }
    }
}

fn unexpected(found: Token<'_>, expected: impl Display) -> Error {
    Error::Unaccounted(format!("Redis answered {found} where {expected} was due"))
}
