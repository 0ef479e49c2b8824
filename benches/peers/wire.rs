//! A TCP connection to a peer, and requests sent through it with a number of them unanswered.
//!
//! Both buffers are large and requests are sent many at a time, so that the system calls are few and the client is not what
//! is measured. Protocols work on the buffers: they take whole answers off the front of `input`, and leave what is to be
//! sent in `output`.

use std::net::SocketAddr;

use bytes::BytesMut;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::Error;

/// What one read may bring.
const INPUT_BYTES: usize = 256 << 10;

/// A connection.
pub(super) struct Wire {
    stream: TcpStream,
    /// What came and was not taken yet.
    pub input: BytesMut,
    /// What goes out with the next [`flush`](Self::flush) or [`read`](Self::read).
    pub output: Vec<u8>,
}

impl Wire {
    /// Connects.
    pub(super) async fn connect(address: SocketAddr) -> Result<Self, Error> {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        Ok(Self { stream, input: BytesMut::with_capacity(INPUT_BYTES), output: Vec::new() })
    }

    /// Sends what waits in `output`.
    pub(super) async fn flush(&mut self) -> Result<(), Error> {
        if !self.output.is_empty() {
            self.stream.write_all(&self.output).await?;
            self.output.clear();
        }
        Ok(())
    }

    /// Sends what waits, then waits until more has come.
    pub(super) async fn read(&mut self) -> Result<(), Error> {
        self.flush().await?;
        self.input.reserve(INPUT_BYTES / 2);
        match self.stream.read_buf(&mut self.input).await? {
            0 => Err(Error::Closed),
            _ => Ok(()),
        }
    }
}

/// Takes the answers that are there, and counts them: an error among them is this function's.
pub(super) type Answers = fn(&mut Wire) -> Result<u64, Error>;

/// Sends `request` `count` times, at most `in_flight` of them unanswered, and waits until each is answered.
pub(super) async fn pipelined(
    wire: &mut Wire,
    request: &[u8],
    count: u64,
    in_flight: u64,
    answers: Answers,
) -> Result<(), Error> {
    // A quarter at a time: fewer and larger writes, while the server has three quarters in hand.
    let quarter = (in_flight / 4).max(1);
    let (mut sent, mut answered) = (0, 0);
    while answered < count {
        let left = count - sent;
        let more = left.min(in_flight.max(1) - (sent - answered));
        if more >= quarter.min(left) {
            for _ in 0..more {
                wire.output.extend_from_slice(request);
            }
            sent += more;
        }
        wire.read().await?;
        answered += answers(wire)?;
        if answered > sent {
            return Err(Error::Unaccounted(format!("{answered} answers to {sent} requests")));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;

    fn bytes(wire: &mut Wire) -> Result<u64, Error> {
        let count = wire.input.len() as u64;
        wire.input.clear();
        Ok(count)
    }

    /// Answers each byte with one: half of what it has not answered at a time, the rest once `count` have come.
    async fn answer(mut stream: TcpStream, count: u64, in_flight: u64) {
        let (mut received, mut answered, mut buffer) = (0, 0, [0; 64]);
        while received < count {
            received += stream.read(&mut buffer).await.expect("it reads") as u64;
            let unanswered = received - answered;
            assert!(unanswered <= in_flight, "{unanswered} unanswered");
            let now = if received == count { unanswered } else { unanswered.div_ceil(2) };
            stream.write_all(&vec![b'.'; now as usize]).await.expect("it writes");
            answered += now;
        }
        assert_eq!(received, count);
    }

    #[tokio::test]
    async fn each_request_is_answered_and_no_more_are_open_than_was_said() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a socket");
        for (count, in_flight) in [(1, 1), (7, 1), (100, 8), (3, 1_000)] {
            let address = listener.local_addr().expect("bound");
            let mut wire = Wire::connect(address).await.expect("it listens");
            let (stream, _) = listener.accept().await.expect("it connects");
            let server = tokio::spawn(answer(stream, count, in_flight));
            pipelined(&mut wire, b"?", count, in_flight, bytes).await.expect("all are answered");
            server.await.expect("the server saw what it should");
        }
    }

    #[tokio::test]
    async fn a_connection_that_ends_is_an_error() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a socket");
        let mut wire = Wire::connect(listener.local_addr().expect("bound")).await.expect("it listens");
        drop(listener.accept().await.expect("it connects"));
        let ended = pipelined(&mut wire, b"", 1, 1, bytes).await;
        assert!(matches!(ended, Err(Error::Closed)), "{ended:?}");
    }
}
