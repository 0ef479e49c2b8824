//! One connection: resolve, handshake, hello, and the control stream that lives as long as it.
//!
//! Everything up to the hello's answer happens within the connect timeout, and fails with an error that tells a
//! server that is not there from one that is not the right one and one that speaks another version.
//! Not here: when to make a new one (`client`), whom to trust (`tls`).

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use millstream_protocol::frame::Kind;
use millstream_protocol::frame::hello::{Hello, HelloOk, PROTOCOL_VERSION};
use millstream_protocol::{ALPN, Code};
use parking_lot::Mutex;
use quinn::crypto::rustls::QuicClientConfig;
use quinn::{ConnectionError, Endpoint, SendStream, TransportErrorCode, VarInt};
use rustls_pki_types::ServerName;

use crate::config::Config;
use crate::control::Control;
use crate::error::{Error, Result};
use crate::frame_io::{FrameReader, StreamError, write_frame};
use crate::tls::{Fingerprint, PINNED_NAME, Trust};
use crate::transport;

/// The TLS alert of a server that speaks none of our protocols (RFC 7301).
const ALERT_NO_APPLICATION_PROTOCOL: u8 = 120;

/// The first frame of a stream.
pub(crate) struct Opening<'a> {
    pub kind: Kind,
    pub body: &'a [u8],
    /// The kind of a good answer.
    pub answer: Kind,
    pub within: Duration,
}

/// A connection whose hello was answered.
pub(crate) struct Connection {
    quic: quinn::Connection,
    endpoint: Endpoint,
    control: Control,
    server_id: u64,
}

impl Connection {
    /// Connects within the configured timeout.
    pub async fn open(config: &Config) -> Result<Self> {
        match tokio::time::timeout(config.connect_timeout, Self::attempt(config)).await {
            Ok(result) => result,
            Err(_) => Err(Error::unreachable(
                &config.address,
                format_args!(
                    "no answer within {:?}; check that it runs, the address, and that UDP gets through",
                    config.connect_timeout
                ),
            )),
        }
    }

    async fn attempt(config: &Config) -> Result<Self> {
        let addresses = resolve(&config.address).await?;
        let mut last = None;
        for address in addresses {
            match Self::to(config, address).await {
                Ok(connection) => return Ok(connection),
                // The next address may be another way to the same server.
                Err(error) if error.is_unreachable() => last = Some(error),
                Err(error) => return Err(error),
            }
        }
        Err(last.unwrap_or_else(|| Error::unreachable(&config.address, "the name has no address; check it")))
    }

    async fn to(config: &Config, remote: SocketAddr) -> Result<Self> {
        let endpoint = transport::endpoint(remote).map_err(|error| {
            let why = format!("no local UDP socket ({error})");
            Error::unreachable_from(&config.address, why, error)
        })?;
        let (client, shown) = client_config(config)?;
        let connecting = endpoint
            .connect_with(client, remote, &server_name(config))
            .map_err(|error| Error::unreachable_from(&config.address, error.to_string(), error))?;
        let quic = tokio::select! {
            result = connecting => result.map_err(|error| failed(config, error, &shown))?,
            closed = transport::port_is_closed(remote) => {
                let why = "nothing listens there; start the server (`millstream serve`), or check the address";
                return Err(Error::unreachable_from(&config.address, why, closed));
            }
        };
        let (control, answer) = hello(config, &quic, &shown).await?;
        tracing::debug!(server = %remote, version = answer.server_version, "connected");
        Ok(Self { quic, endpoint, control, server_id: answer.server_id })
    }

    pub fn control(&self) -> &Control {
        &self.control
    }

    /// Opens a further stream: its first frame and the answer to it.
    pub async fn open_stream(&self, open: Opening<'_>) -> Result<(SendStream, FrameReader, Bytes)> {
        let opened = async {
            let (mut send, recv) = self.quic.open_bi().await.map_err(StreamError::from)?;
            let mut reader = FrameReader::new(recv);
            write_frame(&mut send, open.kind, 0, open.body).await?;
            let answer = reader.answer(open.answer, "the answer to an opening").await?;
            Ok((send, reader, answer))
        };
        // A connection has so many streams at most; beyond that QUIC lets the next one wait.
        match tokio::time::timeout(open.within, opened).await {
            Ok(result) => result,
            Err(_) => Err(Error::timed_out(format!(
                "the server opened no stream within {:?}; a connection carries 64 producers and consumers, use another \
                 client for more",
                open.within
            ))),
        }
    }

    /// Random per data directory: whether a reconnect met the same log.
    pub fn server_id(&self) -> u64 {
        self.server_id
    }

    /// Whether it can still be used.
    pub fn is_open(&self) -> bool {
        self.quic.close_reason().is_none() && self.control.is_open()
    }

    /// Closes it at once; what is not answered is lost.
    pub fn close(&self) {
        self.quic.close(VarInt::from_u32(0), b"the client was closed");
    }

    /// Waits until the peer knows that it is closed, or cannot be told.
    pub async fn closed(&self) {
        self.endpoint.wait_idle().await;
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.close();
    }
}

async fn resolve(address: &str) -> Result<Vec<SocketAddr>> {
    let port =
        address.rsplit_once(':').and_then(|(host, port)| (!host.is_empty()).then(|| port.parse::<u16>().ok())?);
    if port.is_none() {
        let text = format!("{address:?} is not an address: write host:port, for example 127.0.0.1:4650");
        return Err(Error::local(Code::IllegalSetting, text));
    }
    match tokio::net::lookup_host(address).await {
        Ok(addresses) => Ok(addresses.collect()),
        Err(error) => {
            let why = format!("the name does not resolve ({error}); check it");
            Err(Error::unreachable_from(address, why, error))
        }
    }
}

fn client_config(config: &Config) -> Result<(quinn::ClientConfig, Arc<Mutex<Option<Fingerprint>>>)> {
    let unusable =
        |error: &dyn std::fmt::Display| Error::local(Code::Internal, format!("TLS cannot be set up: {error}"));
    let tls = config.trust.tls().map_err(|error| unusable(&error))?;
    let crypto = QuicClientConfig::try_from(tls.config).map_err(|error| unusable(&error))?;
    let mut client = quinn::ClientConfig::new(Arc::new(crypto));
    client.transport_config(transport::config());
    Ok((client, tls.shown))
}

/// The name that the certificate must have, where an authority vouches for it.
fn server_name(config: &Config) -> String {
    match config.trust {
        Trust::Pin(_) => PINNED_NAME.to_owned(),
        Trust::Authorities(_) => {
            let host = config.address.rsplit_once(':').map_or(&*config.address, |(host, _)| host);
            let host = host.trim_start_matches('[').trim_end_matches(']');
            // An address with a zone or the like: what it is called does not matter where it cannot be verified.
            ServerName::try_from(host).map_or_else(|_| PINNED_NAME.to_owned(), |_| host.to_owned())
        }
    }
}

async fn hello(
    config: &Config,
    quic: &quinn::Connection,
    shown: &Mutex<Option<Fingerprint>>,
) -> Result<(Control, HelloOk)> {
    let hello = Hello {
        version_min: PROTOCOL_VERSION,
        version_max: PROTOCOL_VERSION,
        client_name: config.name.clone(),
        token: String::new(),
    };
    // A connection that ended says more than a stream of it.
    let lost = |error: Error| match quic.close_reason() {
        Some(reason) if error.code() == Code::ConnectionLost => failed(config, reason, shown),
        _ => error,
    };
    let (mut send, recv) = quic.open_bi().await.map_err(|error| failed(config, error, shown))?;
    let mut reader = FrameReader::new(recv);
    write_frame(&mut send, Kind::Hello, 0, &hello.encode()).await.map_err(|error| lost(error.into()))?;
    let body = reader.answer(Kind::HelloOk, "the answer to a hello").await.map_err(lost)?;
    let answer = HelloOk::decode(&body)?;
    if answer.version != PROTOCOL_VERSION {
        return Err(other_version(config, format_args!("protocol version {}", answer.version)));
    }
    Ok((Control::start(quic.clone(), send, reader), answer))
}

fn other_version(config: &Config, speaks: impl std::fmt::Display) -> Error {
    let text = format!(
        "the server at {} speaks {speaks}, this client {} (protocol version {PROTOCOL_VERSION}): use versions that match",
        config.address,
        String::from_utf8_lossy(ALPN)
    );
    Error::local(Code::Unsupported, text)
}

/// Why no connection came about.
fn failed(config: &Config, error: ConnectionError, shown: &Mutex<Option<Fingerprint>>) -> Error {
    if let (Trust::Pin(pin), Some(found)) = (&config.trust, *shown.lock()) {
        return Error::wrong_fingerprint(&config.address, pin, &found);
    }
    let no_protocol = TransportErrorCode::crypto(ALERT_NO_APPLICATION_PROTOCOL);
    match error {
        ConnectionError::VersionMismatch => other_version(config, "another version of QUIC"),
        ConnectionError::ConnectionClosed(close) if close.error_code == no_protocol => {
            other_version(config, "another version of the protocol, or is no Millstream server")
        }
        // Our own side ended a handshake: the server could not prove who it is.
        ConnectionError::TransportError(error) if u64::from(error.code) & !0xff == 0x100 => {
            Error::untrusted(&config.address, error)
        }
        ConnectionError::ApplicationClosed(close) => match refusal_code(close.error_code) {
            Some(code) => {
                let reason = String::from_utf8_lossy(&close.reason);
                Error::from(millstream_protocol::frame::Refusal::new(code, reason))
            }
            None => Error::unreachable(&config.address, close),
        },
        error => Error::unreachable_from(&config.address, error.to_string(), error),
    }
}

/// A server closes with the code's number.
fn refusal_code(number: VarInt) -> Option<Code> {
    Code::ALL.iter().copied().find(|code| u64::from(code.number()) == number.into_inner())
}
