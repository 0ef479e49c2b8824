//! Which server a client command talks to, and how it knows that server.
//!
//! The first of these that names one decides; a flag beats the environment, which beats files:
//! 1. `--server ADDR` with `--fingerprint PIN` or `--ca-file FILE`
//! 2. `--data-dir DIR`: the `client.json` that a running server leaves in its data directory
//! 3. `MILLSTREAM_SERVER` with `MILLSTREAM_FINGERPRINT` or `MILLSTREAM_CA_FILE`
//! 4. `MILLSTREAM_DATA_DIR`
//! 5. the context file: `MILLSTREAM_CONTEXT`, or `~/.config/millstream/context.toml`
//! 6. `./millstream-data`
//!
//! So on the server's machine nothing needs to be said. Not here: TLS and the connection itself (`millstream-client`).

use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use millstream_client::Client;
use millstream_protocol::Code;
use millstream_server::ClientFile;
use serde::Deserialize;

use crate::exit::{Exit, Failure};

/// Where a server keeps its data unless it is told otherwise.
pub const DATA_DIR_DEFAULT: &str = "./millstream-data";

/// The flags that say where the server is.
#[derive(Debug, Clone, Default, PartialEq, Eq, clap::Args)]
#[command(next_help_heading = "Which server")]
pub struct ServerFlags {
    /// The server's address, for example edge-7:4650 [env: MILLSTREAM_SERVER]
    #[arg(long, global = true, value_name = "ADDR")]
    pub server: Option<String>,
    /// The server's certificate, pinned: sha256:<64 hex>, as `serve` prints it [env: MILLSTREAM_FINGERPRINT]
    #[arg(long, global = true, value_name = "PIN")]
    pub fingerprint: Option<String>,
    /// PEM file with the CA that signed the server's certificate, instead of a pin [env: MILLSTREAM_CA_FILE]
    #[arg(long, global = true, value_name = "FILE", conflicts_with = "fingerprint")]
    pub ca_file: Option<PathBuf>,
    /// The server's data directory; its client.json names address and pin [env: MILLSTREAM_DATA_DIR] [default: ./millstream-data]
    #[arg(long, global = true, value_name = "DIR")]
    pub data_dir: Option<PathBuf>,
    /// How long to wait for a connection [default: 5s]
    #[arg(long, global = true, value_name = "SPAN", value_parser = crate::time::parse_span)]
    pub connect_timeout: Option<Duration>,
}

/// How the server proves that it is the one meant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Trust {
    /// By its certificate's fingerprint.
    Fingerprint(String),
    /// By a certificate that this CA signed.
    CaFile(PathBuf),
}

/// Where the address was found: said when it does not work.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// On the command line.
    Flags,
    /// In the environment.
    Environment,
    /// In a context file.
    ContextFile(PathBuf),
    /// In the `client.json` of a data directory.
    DataDir(PathBuf),
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Origin::Flags => f.write_str("from the command line"),
            Origin::Environment => f.write_str("from the environment"),
            Origin::ContextFile(path) => write!(f, "from {}", path.display()),
            Origin::DataDir(dir) => write!(f, "from {}", dir.join("client.json").display()),
        }
    }
}

/// A server to connect to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// Host and port.
    pub address: String,
    /// How it proves itself.
    pub trust: Trust,
    /// Where that was found.
    pub origin: Origin,
    /// How long connecting may take.
    pub connect_timeout: Duration,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct ContextFile {
    server: String,
    fingerprint: Option<String>,
    ca_file: Option<PathBuf>,
}

type Env<'a> = &'a dyn Fn(&str) -> Option<String>;

/// This process's environment.
pub fn process_env(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

impl ServerFlags {
    /// The data directory meant, by flag, environment or default.
    pub fn data_dir(&self, env: Env<'_>) -> PathBuf {
        self.data_dir
            .clone()
            .or_else(|| env("MILLSTREAM_DATA_DIR").map(Into::into))
            .unwrap_or_else(|| DATA_DIR_DEFAULT.into())
    }

    /// Finds the server.
    ///
    /// # Errors
    /// Exit 2: an address without a pin, or a malformed pin; 60: nothing names a server; 70: a file cannot be read.
    pub fn target(&self, env: Env<'_>) -> Result<Target, Failure> {
        let connect_timeout = self.connect_timeout.unwrap_or(Duration::from_secs(5));
        let make = |address, trust, origin| Ok(Target { address, trust, origin, connect_timeout });
        if let Some(address) = &self.server {
            let trust = self.trust(env)?.ok_or_else(|| no_trust(address))?;
            return make(address.clone(), trust, Origin::Flags);
        }
        if let Some(dir) = &self.data_dir {
            let file = read_client_file(dir)?.ok_or_else(|| not_running(dir))?;
            return make(file.address.to_string(), Trust::Fingerprint(file.fingerprint), Origin::DataDir(dir.clone()));
        }
        if let Some(address) = env("MILLSTREAM_SERVER") {
            let trust = self.trust(env)?.ok_or_else(|| no_trust(&address))?;
            return make(address, trust, Origin::Environment);
        }
        if env("MILLSTREAM_DATA_DIR").is_none()
            && let Some((path, file)) = read_context_file(env)?
        {
            let trust = match (self.trust(env)?, file.fingerprint, file.ca_file) {
                (Some(trust), _, _) => trust,
                (None, Some(fingerprint), _) => pin(&fingerprint)?,
                (None, None, Some(ca_file)) => Trust::CaFile(ca_file),
                (None, None, None) => return Err(no_trust(&file.server)),
            };
            return make(file.server, trust, Origin::ContextFile(path));
        }
        let dir = self.data_dir(env);
        let file = read_client_file(&dir)?.ok_or_else(|| not_running(&dir))?;
        make(file.address.to_string(), Trust::Fingerprint(file.fingerprint), Origin::DataDir(dir))
    }

    fn trust(&self, env: Env<'_>) -> Result<Option<Trust>, Failure> {
        if let Some(fingerprint) = &self.fingerprint {
            return pin(fingerprint).map(Some);
        }
        if let Some(path) = &self.ca_file {
            return Ok(Some(Trust::CaFile(path.clone())));
        }
        if let Some(fingerprint) = env("MILLSTREAM_FINGERPRINT") {
            return pin(&fingerprint).map(Some);
        }
        Ok(env("MILLSTREAM_CA_FILE").map(|path| Trust::CaFile(path.into())))
    }
}

impl Target {
    /// Connects.
    ///
    /// # Errors
    /// Exit 60: nobody answers in time, or somebody else does; 70: the CA file cannot be used.
    pub async fn connect(&self) -> Result<Client, Failure> {
        let builder = Client::builder(&self.address);
        let builder = match &self.trust {
            Trust::Fingerprint(pin) => builder.fingerprint(pin),
            Trust::CaFile(path) => builder.ca_file(path),
        };
        let connected = builder.connect_timeout(self.connect_timeout).name("millstream").connect().await;
        connected.map_err(|error| match &self.trust {
            Trust::CaFile(_) if error.code() == Code::IllegalSetting => Failure::local(error.to_string()),
            _ => self.failure(&error),
        })
    }

    /// What a client's error means for who runs the command.
    pub fn failure(&self, error: &millstream_client::Error) -> Failure {
        if error.is_wrong_fingerprint() {
            let text = format!("{error} (what is trusted is {})", self.origin);
            let hint = "--fingerprint with what `millstream serve` printed there, if you trust that server";
            return Failure::new(Exit::Unreachable, text).or_try(hint);
        }
        if error.is_unreachable() {
            let failure = Failure::new(Exit::Unreachable, format!("{error} (the address is {})", self.origin));
            return match &self.origin {
                Origin::DataDir(dir) => failure.or_try(serve_command(dir)),
                _ => failure.or_try("millstream serve, there; or --server with another address"),
            };
        }
        Failure::new(Exit::Code(error.code()), error.to_string())
    }
}

/// The command that starts a server on a data directory.
pub fn serve_command(dir: &Path) -> String {
    if dir == Path::new(DATA_DIR_DEFAULT) {
        "millstream serve".into()
    } else {
        format!("millstream serve --data-dir {}", dir.display())
    }
}

fn not_running(dir: &Path) -> Failure {
    let text = format!("no server is named, and none runs on {} (it has no client.json)", dir.display());
    Failure::new(Exit::Unreachable, text).or_try(serve_command(dir)).or_try("--server ADDR --fingerprint PIN")
}

fn no_trust(address: &str) -> Failure {
    Failure::usage(format!("nothing says how the server at {address} proves that it is the one you mean"))
        .or_try("--fingerprint with the sha256:… that `millstream serve` printed there, or --ca-file")
}

fn pin(text: &str) -> Result<Trust, Failure> {
    let is_pin =
        text.strip_prefix("sha256:").is_some_and(|hex| hex.len() == 64 && hex.bytes().all(|b| b.is_ascii_hexdigit()));
    if is_pin {
        return Ok(Trust::Fingerprint(text.to_owned()));
    }
    Err(Failure::usage(format!("'{text}' is not a fingerprint: it is sha256: and 64 hexadecimal digits"))
        .or_try("--fingerprint with what the first line of `millstream serve` shows"))
}

fn read_client_file(dir: &Path) -> Result<Option<ClientFile>, Failure> {
    ClientFile::read(dir).map_err(|error| Failure::local(error.to_string()).or_try(serve_command(dir)))
}

fn read_context_file(env: Env<'_>) -> Result<Option<(PathBuf, ContextFile)>, Failure> {
    let (path, is_asked_for) = match env("MILLSTREAM_CONTEXT") {
        Some(path) => (PathBuf::from(path), true),
        None => {
            let config = env("XDG_CONFIG_HOME").map(PathBuf::from);
            let Some(config) = config.or_else(|| env("HOME").map(|home| Path::new(&home).join(".config"))) else {
                return Ok(None);
            };
            (config.join("millstream/context.toml"), false)
        }
    };
    let text = match std::fs::read_to_string(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound && !is_asked_for => return Ok(None),
        Err(error) => return Err(Failure::local(format!("cannot read the context file {}: {error}", path.display()))),
    };
    let file = toml::from_str(&text).map_err(|error| {
        let error = error.to_string();
        Failure::local(format!("the context file {} cannot be used: {}", path.display(), error.trim_end()))
            .or_try("two lines: server = \"ADDR\" and fingerprint = \"sha256:…\"")
    })?;
    Ok(Some((path, file)))
}

#[cfg(test)]
mod tests {
    use super::*;

    const PIN: &str = "sha256:00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff";
    const OTHER: &str = "sha256:ffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff";

    fn flags(server: Option<&str>, fingerprint: Option<&str>, data_dir: Option<&Path>) -> ServerFlags {
        ServerFlags {
            server: server.map(Into::into),
            fingerprint: fingerprint.map(Into::into),
            data_dir: data_dir.map(Into::into),
            ..ServerFlags::default()
        }
    }

    fn env<'a>(pairs: &'a [(&'a str, &'a str)]) -> impl Fn(&str) -> Option<String> + 'a {
        move |name| pairs.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned())
    }

    /// A data directory as a running server leaves it, and a context file; they name ports 1 and 2.
    fn files() -> (tempfile::TempDir, PathBuf, String) {
        let dir = tempfile::tempdir().expect("a directory");
        let data = dir.path().join("data");
        std::fs::create_dir(&data).expect("made");
        let client = format!(r#"{{"address":"127.0.0.1:1","fingerprint":"{PIN}","http":null}}"#);
        std::fs::write(data.join("client.json"), client).expect("written");
        let context = dir.path().join("context.toml");
        std::fs::write(&context, format!("server = \"127.0.0.1:2\"\nfingerprint = \"{OTHER}\"\n")).expect("written");
        let context = context.display().to_string();
        (dir, data, context)
    }

    #[test]
    fn flags_beat_the_environment_which_beats_files() {
        let (_dir, data, context) = files();
        let data_text = data.display().to_string();
        let server = ("MILLSTREAM_SERVER", "127.0.0.1:3");
        let fingerprint = ("MILLSTREAM_FINGERPRINT", PIN);
        let data_dir = ("MILLSTREAM_DATA_DIR", data_text.as_str());
        let file = ("MILLSTREAM_CONTEXT", context.as_str());
        let found = |flags: ServerFlags, pairs: &[(&str, &str)]| {
            let target = flags.target(&env(pairs)).expect("found");
            (target.address, target.trust)
        };
        let by_pin = |address: &str, pin: &str| (address.to_owned(), Trust::Fingerprint(pin.to_owned()));
        let all = [server, fingerprint, data_dir, file];
        assert_eq!(found(flags(Some("h:4"), Some(OTHER), Some(&data)), &all), by_pin("h:4", OTHER));
        assert_eq!(found(flags(None, None, Some(&data)), &all), by_pin("127.0.0.1:1", PIN));
        assert_eq!(found(flags(None, None, None), &all), by_pin("127.0.0.1:3", PIN));
        assert_eq!(found(flags(None, None, None), &[data_dir, file]), by_pin("127.0.0.1:1", PIN));
        assert_eq!(found(flags(None, None, None), &[file]), by_pin("127.0.0.1:2", OTHER));
        assert_eq!(found(flags(None, Some(PIN), None), &[file]), by_pin("127.0.0.1:2", PIN));
    }

    #[test]
    fn what_is_missing_is_said_with_the_exit_code_that_fits() {
        let (dir, data, _) = files();
        let exit = |flags: ServerFlags, pairs: &[(&str, &str)]| {
            flags.target(&env(pairs)).expect_err("refused").exit().number()
        };
        assert_eq!(exit(flags(Some("h:4"), None, None), &[]), 2);
        assert_eq!(exit(flags(Some("h:4"), Some("sha256:12"), None), &[]), 2);
        assert_eq!(exit(flags(None, None, Some(dir.path())), &[]), 60);
        assert_eq!(exit(flags(None, None, None), &[("MILLSTREAM_CONTEXT", "/nowhere/context.toml")]), 70);
        std::fs::write(data.join("client.json"), "{").expect("written");
        assert_eq!(exit(flags(None, None, Some(&data)), &[]), 70);
    }
}
