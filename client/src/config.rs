//! A client's settings, and the builder that asks for whom to trust before it offers to connect.

use std::marker::PhantomData;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::client::Client;
use crate::error::Result;
use crate::tls::Trust;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
const REQUEST_TIMEOUT: Duration = Duration::from_secs(30);

/// What a client is made of.
pub(crate) struct Config {
    pub address: String,
    pub trust: Trust,
    pub connect_timeout: Duration,
    pub request_timeout: Duration,
    pub name: String,
}

/// Of a [`ClientBuilder`] that does not know yet whom to trust.
#[derive(Debug)]
pub enum NoTrust {}
/// Of a [`ClientBuilder`] that can connect.
#[derive(Debug)]
pub enum Trusted {}

#[derive(Debug, Clone)]
enum Identity {
    Unknown,
    Pin(String),
    CaFile(PathBuf),
}

/// Settings of a [`Client`]. [`connect`](ClientBuilder::connect) exists once a fingerprint or a CA file is given.
///
/// # Example
/// ```no_run
/// # async fn example() -> millstream_client::Result<()> {
/// use millstream_client::Client;
/// use std::time::Duration;
///
/// let client = Client::builder("edge-7:4650")
///     .ca_file("/etc/millstream/ca.pem")
///     .connect_timeout(Duration::from_secs(2))
///     .name("billing")
///     .connect()
///     .await?;
/// # Ok(()) }
/// ```
#[derive(Debug)]
#[must_use = "a builder does nothing until `connect`"]
pub struct ClientBuilder<T = NoTrust> {
    address: String,
    identity: Identity,
    connect_timeout: Duration,
    request_timeout: Duration,
    name: String,
    trust: PhantomData<T>,
}

impl ClientBuilder<NoTrust> {
    pub(crate) fn new(address: String) -> Self {
        Self {
            address,
            identity: Identity::Unknown,
            connect_timeout: CONNECT_TIMEOUT,
            request_timeout: REQUEST_TIMEOUT,
            name: concat!("millstream-client/", env!("CARGO_PKG_VERSION")).to_owned(),
            trust: PhantomData,
        }
    }
}

impl<T> ClientBuilder<T> {
    /// Trusts the server that holds this key: `sha256:` and 64 hex digits, as the server prints them at start. Its
    /// certificate's name and dates do not matter then; that it holds the key is verified.
    pub fn fingerprint(self, pin: impl Into<String>) -> ClientBuilder<Trusted> {
        self.trusting(Identity::Pin(pin.into()))
    }

    /// Trusts a server whose certificate one of the authorities in this PEM file signed for the address's host.
    pub fn ca_file(self, path: impl AsRef<Path>) -> ClientBuilder<Trusted> {
        self.trusting(Identity::CaFile(path.as_ref().to_owned()))
    }

    /// How long connecting may take: name, handshake and hello together. Default 5 s.
    pub fn connect_timeout(mut self, timeout: Duration) -> Self {
        self.connect_timeout = timeout;
        self
    }

    /// How long an admin call waits for its answer. Default 30 s.
    pub fn request_timeout(mut self, timeout: Duration) -> Self {
        self.request_timeout = timeout;
        self
    }

    /// What the server's log calls this client; at most 256 bytes. Default: this crate and its version.
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.name = name.into();
        self
    }

    fn trusting(self, identity: Identity) -> ClientBuilder<Trusted> {
        let Self { address, connect_timeout, request_timeout, name, .. } = self;
        ClientBuilder { address, identity, connect_timeout, request_timeout, name, trust: PhantomData }
    }
}

impl ClientBuilder<Trusted> {
    /// Connects and says hello.
    ///
    /// # Errors
    /// [`is_unreachable`](crate::Error::is_unreachable): nothing listens there, or not in time;
    /// [`is_wrong_fingerprint`](crate::Error::is_wrong_fingerprint): another server;
    /// [`Code::Unsupported`](crate::Code::Unsupported): another version;
    /// [`Code::IllegalSetting`](crate::Code::IllegalSetting): the address, pin or CA file cannot be used.
    pub async fn connect(self) -> Result<Client> {
        let trust = match &self.identity {
            Identity::Pin(pin) => Trust::Pin(pin.parse()?),
            Identity::CaFile(path) => Trust::from_ca_file(path)?,
            Identity::Unknown => unreachable!("`Trusted` is reached only by naming an identity"),
        };
        let Self { address, connect_timeout, request_timeout, name, .. } = self;
        Client::open(Config { address, trust, connect_timeout, request_timeout, name }).await
    }
}
