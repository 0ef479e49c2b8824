//! The server's settings: one table from which the struct, the file, the environment and `--print-config` come.
//!
//! A setting is written in TOML under its name (`listen = "127.0.0.1:4650"`), in the environment as
//! `MILLSTREAM_` and its name in capitals, and as a flag by the program. Later ones win. An unknown name is
//! refused with the nearest known one; a value outside its range with the range.
//!
//! Not here: where the file lies and what the process's environment is; both are handed in.

mod value;

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use millstream_protocol::ByteSize;
use millstream_protocol::frame::FRAME_HEADER_BYTES;
use millstream_protocol::limits::FRAME_BYTES_MAX;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use value::Value;

/// What the environment's names begin with.
const ENV_PREFIX: &str = "MILLSTREAM_";

/// The least memory in hand: each half and quarter of it must hold one largest frame (see `budget`).
const MEMORY_MIN: ByteSize = ByteSize::mib(40);
const CONNECTION_MEMORY_MIN: ByteSize = ByteSize::mib(9);

const _: () = assert!(
    FRAME_BYTES_MAX + FRAME_HEADER_BYTES <= CONNECTION_MEMORY_MIN.as_usize(),
    "a connection must be able to reserve one largest frame"
);
const _: () = assert!(
    CONNECTION_MEMORY_MIN.0 <= MEMORY_MIN.0 / 4,
    "every share of the server's memory must hold one largest frame"
);

/// Why a configuration is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// The text is not TOML.
    #[error("the configuration is not valid TOML: {0}")]
    Syntax(String),
    /// No setting has that name.
    #[error("unknown setting '{name}'{}", nearest.map_or(String::new(), |name| format!(": did you mean '{name}'?")))]
    Unknown {
        /// The name.
        name: String,
        /// The known name that is nearest to it, if one is near.
        nearest: Option<&'static str>,
    },
    /// A value of the wrong kind or outside its range.
    #[error("setting '{name}' cannot be {value}: {reason}")]
    Illegal {
        /// The setting.
        name: &'static str,
        /// The value given.
        value: String,
        /// Why, and what is legal.
        reason: String,
    },
    /// Two settings that contradict each other.
    #[error("{0}")]
    Conflict(String),
}

struct Setting {
    name: &'static str,
    about: &'static str,
    unit: &'static str,
    range: &'static str,
    price: &'static str,
    get: fn(&ServerConfig) -> toml::Value,
    set: fn(&mut ServerConfig, &toml::Value) -> Result<(), String>,
    is_legal: fn(&ServerConfig) -> bool,
}

macro_rules! settings {
    ($($(#[doc = $about:literal])+ $name:ident: $type:ty = $default:expr,
       unit $unit:literal, range $range:literal, price $price:literal, legal $legal:expr;)*) => {
        /// How a server runs. All have defaults that just work; see each for unit, range and price.
        #[derive(Debug, Clone, PartialEq, Eq)]
        pub struct ServerConfig {$(
            $(#[doc = $about])+
            ///
            #[doc = concat!("Unit: ", $unit, ". Range: ", $range, ". Default: `", stringify!($default), "`. Price: ", $price, ".")]
            pub $name: $type,
        )*}

        impl Default for ServerConfig {
            fn default() -> Self {
                Self { $($name: $default),* }
            }
        }

        static SETTINGS: &[Setting] = &[$(Setting {
            name: stringify!($name),
            about: concat!($($about),+),
            unit: $unit,
            range: $range,
            price: $price,
            get: |config| config.$name.write(),
            set: |config, value| <$type as Value>::read(value).map(|value| config.$name = value),
            is_legal: |config| {
                let legal: fn(&$type) -> bool = $legal;
                legal(&config.$name)
            },
        }),*];
    };
}

settings! {
    /// Where streams, lakes' positions, the certificate and `client.json` are kept.
    data_dir: PathBuf = PathBuf::from("./millstream-data"),
        unit "path", range "a directory that is new, empty or ours", price "none", legal |_| true;
    /// Where QUIC listens.
    listen: SocketAddr = SocketAddr::from(([127, 0, 0, 1], 4650)),
        unit "address:port", range "any; port 0 lets the system choose", price "none", legal |_| true;
    /// Where HTTP (health, metrics) listens.
    http: Option<SocketAddr> = Some(SocketAddr::from(([127, 0, 0, 1], 4651))),
        unit "address:port", range "a loopback address, or 'off'; port 0 lets the system choose", price "none", legal |_| true;
    /// Lets HTTP listen beyond loopback, although nothing there asks who is reading.
    http_open_to_network: bool = false,
        unit "true or false", range "both", price "names of streams and lakes are readable to the network", legal |_| true;
    /// The certificate chain, PEM; without one, a self-signed certificate is made at the first start.
    tls_certificate: Option<PathBuf> = None,
        unit "path", range "with tls_key, or 'none'", price "none", legal |_| true;
    /// The certificate's private key, PEM.
    tls_key: Option<PathBuf> = None,
        unit "path", range "with tls_certificate, or 'none'", price "none", legal |_| true;
    /// Whether a producer that finds its stream missing may have it made.
    auto_create_streams: bool = true,
        unit "true or false", range "both", price "a mistyped name becomes a stream", legal |_| true;
    /// Frames and windows the server holds for all connections together.
    memory_in_hand: ByteSize = ByteSize::mib(128),
        unit "bytes", range "40 MiB to 1 TiB", price "memory; below about 4 MiB a busy connection, throughput",
        legal |size| (MEMORY_MIN..=ByteSize::gib(1024)).contains(size);
    /// Frames the server holds for one connection.
    connection_memory_in_hand: ByteSize = ByteSize::mib(16),
        unit "bytes", range "9 MiB to 1 GiB, at most half of memory_in_hand", price "memory",
        legal |size| (CONNECTION_MEMORY_MIN..=ByteSize::gib(1)).contains(size);
    /// Connections at one time.
    connections_max: u32 = 10_000,
        unit "count", range "1 to 1000000", price "up to 0.5 MiB of windows each, even when idle", legal |n| (1..=1_000_000).contains(n);
    /// Connections at one time from one address.
    connections_per_address_max: u32 = 256,
        unit "count", range "1 to 1000000", price "one host can take that many", legal |n| (1..=1_000_000).contains(n);
    /// Control, produce and consume streams at one time on one connection.
    streams_per_connection_max: u32 = 64,
        unit "count", range "2 to 65536", price "a task each", legal |n| (2..=65_536).contains(n);
    /// How long a client may take for its handshake, and again for its hello.
    hello_timeout: Duration = Duration::from_secs(5),
        unit "time", range "100 ms to 60 s", price "how long a silent peer holds a place", legal |t| within(t, 100, 60_000);
    /// How long the body of a frame may take once there is room for it.
    body_timeout: Duration = Duration::from_secs(30),
        unit "time", range "100 ms to 10 min", price "how long a slow sender holds memory", legal |t| within(t, 100, 600_000);
    /// A connection that is silent for this long is closed; clients send a sign of life every 10 s.
    idle_timeout: Duration = Duration::from_secs(30),
        unit "time", range "1 s to 10 min", price "how long a vanished client holds a place", legal |t| within(t, 1_000, 600_000);
    /// How long a stopping server waits for answers in hand.
    stop_timeout: Duration = Duration::from_secs(5),
        unit "time", range "0 ms to 10 min", price "a slow stop", legal |t| within(t, 0, 600_000);
    /// Threads that write and sync the log; 0 takes as many as there are cores, at most 4.
    lanes: u32 = 0,
        unit "count", range "0 to 64", price "more than there are cores is slower", legal |n| (0..=64).contains(n);
    /// Bytes that a crash leaves to be replayed or read, for each lane: those not yet synced into their segments and those
    /// no index covers.
    unsynced_size: ByteSize = ByteSize::mib(128),
        unit "bytes", range "1 MiB to 16 GiB", price "time of a start after a crash, and as much memory while many partitions are written",
        legal |size| (ByteSize::mib(1)..=ByteSize::gib(16)).contains(size);
    /// Records are refused with `disk full` while the file system has less room; what frees it goes on.
    min_free_space: Option<ByteSize> = None,
        unit "bytes", range "0 to 1 TiB, or 'auto': a twentieth of the file system, at most 1 GiB", price "disk that records do not get",
        legal |size| size.is_none_or(|size| size <= ByteSize::gib(1024));
    /// How often old segments, and those that are worth compacting, are looked for.
    retention_interval: Duration = Duration::from_secs(30),
        unit "time", range "100 ms to 24 h", price "disk kept longer", legal |t| within(t, 100, 86_400_000);
    /// How long a consumer group's offsets stay after its last member went and its last commit, whichever is later.
    offsets_retention: Option<Duration> = Some(Duration::from_secs(7 * 24 * 60 * 60)),
        unit "time", range "1 s to 10 years, or 'never': they stay", price "about 100 bytes on disk and in memory for each partition of a group",
        legal |t| t.is_none_or(|t| within(&t, 1_000, 10 * 365 * 86_400_000));
    /// How much of a partition one read takes from the disk.
    read_size: ByteSize = ByteSize::mib(1),
        unit "bytes", range "64 KiB to 4 MiB", price "twice this in memory for each consumer; below 1 MiB, throughput",
        legal |size| (ByteSize::kib(64)..=ByteSize::mib(4)).contains(size);
    /// The largest UDP datagram tried on a path.
    datagram_bytes_max: u16 = 6_500,
        unit "bytes", range "1200 to 6550", price "above 1452 only loopback and jumbo frames gain", legal |n| (1_200..=6_550).contains(n);
    /// The UDP socket's buffers, each way; the system may grant less. All connections share them: where hundreds send at
    /// once, 64 MiB keep their bursts, at 4 MiB one datagram in twenty was lost and sent again.
    socket_buffer: ByteSize = ByteSize::mib(4),
        unit "bytes", range "64 KiB to 1 GiB", price "kernel memory; lost packets when below the windows",
        legal |size| (ByteSize::kib(64)..=ByteSize::gib(1)).contains(size);
    /// What one QUIC stream may send ahead of what was read.
    stream_receive_window: ByteSize = ByteSize::mib(1),
        unit "bytes", range "64 KiB to 1 GiB", price "throughput on long paths (bandwidth × delay)",
        legal |size| (ByteSize::kib(64)..=ByteSize::gib(1)).contains(size);
    /// What a producing connection may send ahead of what was read, where memory allows.
    receive_window: ByteSize = ByteSize::mib(4),
        unit "bytes", range "256 KiB to 1 GiB", price "memory for each producing connection",
        legal |size| (ByteSize::kib(256)..=ByteSize::gib(1)).contains(size);
    /// What the server keeps for a consuming connection until it is acknowledged, where memory allows.
    send_window: ByteSize = ByteSize::mib(16),
        unit "bytes", range "256 KiB to 1 GiB", price "memory for each consuming connection; 4 MiB fetches 0.8 times as fast",
        legal |size| (ByteSize::kib(256)..=ByteSize::gib(1)).contains(size);
}

fn within(time: &Duration, least_ms: u64, most_ms: u64) -> bool {
    (Duration::from_millis(least_ms)..=Duration::from_millis(most_ms)).contains(time)
}

impl ServerConfig {
    /// Reads a TOML text over the defaults.
    ///
    /// # Errors
    /// [`ConfigError`].
    pub fn from_toml(text: &str) -> Result<Self, ConfigError> {
        let table: toml::Table = text.parse().map_err(|e: toml::de::Error| ConfigError::Syntax(e.to_string()))?;
        Self::from_table(&table)
    }

    fn from_table(table: &toml::Table) -> Result<Self, ConfigError> {
        let mut config = Self::default();
        for (name, value) in table {
            config.set(find(name)?, value)?;
        }
        config.check()?;
        Ok(config)
    }

    /// Lets the environment's `MILLSTREAM_…` override. Names that are no setting are left alone, since clients
    /// have variables under the same prefix; those that look like a slip are returned with the name that was
    /// probably meant, to be said.
    ///
    /// # Errors
    /// [`ConfigError::Illegal`], [`ConfigError::Conflict`].
    pub fn apply_env<'a>(
        &mut self,
        variables: impl IntoIterator<Item = (&'a str, &'a str)>,
    ) -> Result<Vec<(String, &'static str)>, ConfigError> {
        let mut slips = Vec::new();
        for (variable, value) in variables {
            let Some(name) = variable.strip_prefix(ENV_PREFIX) else { continue };
            match find(&name.to_ascii_lowercase()) {
                Ok(setting) => self.set(setting, &toml::Value::String(value.to_owned()))?,
                Err(ConfigError::Unknown { nearest: Some(nearest), .. }) => slips.push((variable.to_owned(), nearest)),
                Err(_) => {}
            }
        }
        self.check()?;
        Ok(slips)
    }

    /// Checks every range, and what ties settings together.
    ///
    /// # Errors
    /// [`ConfigError::Illegal`], [`ConfigError::Conflict`].
    pub fn check(&self) -> Result<(), ConfigError> {
        for setting in SETTINGS {
            self.check_range(setting)?;
        }
        let conflict = |text: &str| Err(ConfigError::Conflict(text.to_owned()));
        if self.tls_certificate.is_some() != self.tls_key.is_some() {
            return conflict(
                "tls_certificate and tls_key belong together: give both, or neither for a self-signed one",
            );
        }
        if self.connection_memory_in_hand.0 > self.memory_in_hand.0 / 2 {
            return conflict("connection_memory_in_hand is above half of memory_in_hand: lower it, or raise the other");
        }
        if self.http.is_some_and(|http| !http.ip().is_loopback()) && !self.http_open_to_network {
            return conflict("http is not a loopback address: choose one, or set http_open_to_network = true");
        }
        Ok(())
    }

    /// The effective settings as TOML, each with its meaning, unit, range and price.
    pub fn to_toml(&self) -> String {
        let mut out = String::new();
        for setting in SETTINGS {
            let (name, value) = (setting.name, (setting.get)(self));
            let note = format!("Unit: {}. Range: {}. Price: {}.", setting.unit, setting.range, setting.price);
            write!(out, "#{}\n# {note}\n{name} = {value}\n\n", setting.about).expect("writing to a string succeeds");
        }
        out
    }

    /// The certificate's and the key's file, if given.
    pub(crate) fn tls_files(&self) -> Option<(&PathBuf, &PathBuf)> {
        self.tls_certificate.as_ref().zip(self.tls_key.as_ref())
    }

    fn set(&mut self, setting: &'static Setting, value: &toml::Value) -> Result<(), ConfigError> {
        (setting.set)(self, value).map_err(|reason| ConfigError::Illegal {
            name: setting.name,
            value: value.to_string(),
            reason: format!("{reason} ({}: {})", setting.unit, setting.range),
        })?;
        self.check_range(setting)
    }

    fn check_range(&self, setting: &'static Setting) -> Result<(), ConfigError> {
        if (setting.is_legal)(self) {
            return Ok(());
        }
        let value = (setting.get)(self).to_string();
        Err(ConfigError::Illegal { name: setting.name, value, reason: format!("the range is {}", setting.range) })
    }
}

impl Serialize for ServerConfig {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(SETTINGS.iter().map(|setting| (setting.name, (setting.get)(self))))
    }
}

impl<'de> Deserialize<'de> for ServerConfig {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::from_table(&toml::Table::deserialize(deserializer)?).map_err(serde::de::Error::custom)
    }
}

fn find(name: &str) -> Result<&'static Setting, ConfigError> {
    SETTINGS
        .iter()
        .find(|setting| setting.name == name)
        .ok_or_else(|| ConfigError::Unknown { name: name.chars().take(64).collect(), nearest: nearest(name) })
}

/// The known name with the fewest edits, if they are few for its length.
fn nearest(name: &str) -> Option<&'static str> {
    let distances = SETTINGS.iter().map(|setting| (edits(name, setting.name), setting.name));
    let (distance, known) = distances.min()?;
    (distance <= (known.len() / 3).max(1)).then_some(known)
}

/// Levenshtein's distance, one row at a time.
fn edits(from: &str, to: &str) -> usize {
    let to: Vec<char> = to.chars().collect();
    let mut row: Vec<usize> = (0..=to.len()).collect();
    for (i, a) in from.chars().take(64).enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, b) in to.iter().enumerate() {
            let replaced = diagonal + usize::from(a != *b);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[to.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn defaults_are_legal_and_what_is_printed_reads_back() {
        let config = ServerConfig::default();
        assert_eq!(config.check(), Ok(()));
        assert_eq!(ServerConfig::from_toml(&config.to_toml()), Ok(config));
        let other = ServerConfig {
            http: None,
            tls_certificate: Some("cert.pem".into()),
            tls_key: Some("key.pem".into()),
            hello_timeout: Duration::from_millis(1_500),
            memory_in_hand: ByteSize(123_456_789),
            ..ServerConfig::default()
        };
        assert_eq!(ServerConfig::from_toml(&other.to_toml()), Ok(other));
    }

    #[test]
    fn an_unknown_setting_is_refused_with_the_nearest_name() {
        let refused = |text: &str| ServerConfig::from_toml(text).expect_err("refused").to_string();
        assert_eq!(refused("lisen = '127.0.0.1:1'"), "unknown setting 'lisen': did you mean 'listen'?");
        assert_eq!(refused("data-dir = 'x'"), "unknown setting 'data-dir': did you mean 'data_dir'?");
        assert_eq!(refused("zzzzzzzzzz = 1"), "unknown setting 'zzzzzzzzzz'");
        assert!(refused("listen = ").starts_with("the configuration is not valid TOML"));
    }

    #[test]
    fn values_outside_their_range_are_refused_with_the_range() {
        for (text, part) in [
            ("memory_in_hand = '1 MiB'", "40 MiB to 1 TiB"),
            ("listen = 'localhost'", "address:port"),
            ("hello_timeout = '5'", "write for example 30 s"),
            ("hello_timeout = '1 h'", "100 ms to 60 s"),
            ("connections_max = -1", "1 to 1000000"),
            ("auto_create_streams = 'perhaps'", "true or false"),
            ("tls_key = 'key.pem'", "belong together"),
            ("http = '0.0.0.0:80'", "http_open_to_network"),
            ("connection_memory_in_hand = '100 MiB'", "above half"),
        ] {
            let error = ServerConfig::from_toml(text).expect_err(text).to_string();
            assert!(error.contains(part), "{text}: {error}");
        }
    }

    #[test]
    fn the_environment_overrides_and_slips_are_named() {
        let mut config = ServerConfig::from_toml("connections_max = 7").expect("legal");
        let slips = config.apply_env([
            ("MILLSTREAM_LISTEN", "0.0.0.0:9"),
            ("MILLSTREAM_HTTP", "off"),
            ("MILLSTREAM_AUTO_CREATE_STREAMS", "false"),
            ("MILLSTREAM_CONNECTIONS_MAX", "9"),
            ("MILLSTREAM_FINGERPRINT", "sha256:00"),
            ("MILLSTREAM_DATADIR", "x"),
            ("PATH", "/bin"),
        ]);
        assert_eq!(slips, Ok(vec![("MILLSTREAM_DATADIR".to_owned(), "data_dir")]));
        assert_eq!(config.listen, SocketAddr::from(([0, 0, 0, 0], 9)));
        assert_eq!((config.http, config.auto_create_streams, config.connections_max), (None, false, 9));
        assert!(config.apply_env([("MILLSTREAM_IDLE_TIMEOUT", "never")]).is_err());
    }

    #[test]
    fn serde_goes_through_the_same_table() {
        let json = serde_json::to_value(ServerConfig::default()).expect("it is a map");
        assert_eq!(json["memory_in_hand"], "128 MiB");
        let error = serde_json::from_str::<ServerConfig>("{\"lisen\":\"x\"}").expect_err("refused");
        assert!(error.to_string().contains("did you mean 'listen'"));
    }
}
