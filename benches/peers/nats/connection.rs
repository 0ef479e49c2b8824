//! A connection to NATS with an inbox of its own, and requests over it.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Buf;
use serde_json::{Value, json};

use super::super::Error;
use super::super::wire::Wire;
use super::text::{Said, put_message, said};

static INBOXES: AtomicU64 = AtomicU64::new(0);

/// A connection that is subscribed to its inbox.
pub(super) struct Connection {
    /// The bytes.
    pub wire: Wire,
    /// The subject on which answers come.
    pub inbox: String,
}

/// What a connection without messages of its own waits for.
enum Heard {
    Answer(Value),
    Pong,
}

impl Connection {
    /// Connects and subscribes.
    pub(super) async fn open(address: SocketAddr) -> Result<Self, Error> {
        let inbox = format!("_INBOX.{}", INBOXES.fetch_add(1, Ordering::Relaxed));
        let mut connection = Self { wire: Wire::connect(address).await?, inbox };
        let about = json!({
            "verbose": false, "pedantic": false, "headers": true, "no_responders": true,
            "lang": "rust", "version": "0", "protocol": 1,
        });
        let hello = format!("CONNECT {about}\r\nSUB {} 1\r\nPING\r\n", connection.inbox);
        connection.wire.output.extend_from_slice(hello.as_bytes());
        while !matches!(connection.hear().await?, Heard::Pong) {}
        Ok(connection)
    }

    /// Asks the server something, as JSON (null: nothing is said), and waits for its answer.
    ///
    /// # Errors
    /// [`Error::Refused`] if the answer is an error.
    pub(super) async fn request(&mut self, subject: &str, body: &Value) -> Result<Value, Error> {
        let body = if body.is_null() { String::new() } else { body.to_string() };
        put_message(&mut self.wire.output, subject.as_bytes(), self.inbox.as_bytes(), body.as_bytes());
        loop {
            if let Heard::Answer(answer) = self.hear().await? {
                return match answer["error"].is_null() {
                    true => Ok(answer),
                    false => Err(refusal(b"", answer.to_string().as_bytes())),
                };
            }
        }
    }

    async fn hear(&mut self) -> Result<Heard, Error> {
        loop {
            while let Some((found, length)) = said(&self.wire.input)? {
                let heard = match found {
                    Said::Message(message) => match serde_json::from_slice(message.payload) {
                        Ok(answer) => Some(Heard::Answer(answer)),
                        Err(_) => return Err(refusal(message.headers, message.payload)),
                    },
                    Said::Pong => Some(Heard::Pong),
                    Said::Ping => {
                        self.wire.output.extend_from_slice(b"PONG\r\n");
                        None
                    }
                    Said::Else => None,
                };
                self.wire.input.advance(length);
                if let Some(heard) = heard {
                    return Ok(heard);
                }
            }
            self.wire.read().await?;
        }
    }
}

/// What the server said in place of an answer: JSON with a description, or a status in the headers.
pub(super) fn refusal(headers: &[u8], payload: &[u8]) -> Error {
    let answer: Option<Value> = serde_json::from_slice(payload).ok();
    match answer.as_ref().and_then(|answer| answer["error"]["description"].as_str()) {
        Some(description) => Error::Refused(description.to_owned()),
        None => {
            let said = [headers, payload].concat();
            Error::Refused(String::from_utf8_lossy(&said).trim().to_owned())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_is_the_servers_description_or_its_status() {
        let description = br#"{"error":{"code":503,"description":"insufficient storage"},"stream":"s","seq":0}"#;
        assert_eq!(refusal(b"", description).to_string(), "the server refused: insufficient storage");
        let status = b"NATS/1.0 503 No Responders\r\n\r\n";
        assert_eq!(refusal(status, b"").to_string(), "the server refused: NATS/1.0 503 No Responders");
    }
}
