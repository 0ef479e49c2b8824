//! `millstream serve`: settings, the ready line, signals. The server itself is `millstream-server`.

use std::path::Path;

use millstream_server::{Server, ServerConfig};
use serde::Serialize;
use serde_json::{Map, Value};
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::cli::Serve;
use crate::context::ServerFlags;
use crate::exit::{Exit, Failure};
use crate::output::Output;

/// Variables of the clients, which are no settings of the server's.
const NOT_SETTINGS: [&str; 5] =
    ["MILLSTREAM_SERVER", "MILLSTREAM_FINGERPRINT", "MILLSTREAM_CA_FILE", "MILLSTREAM_CONTEXT", "MILLSTREAM_LOG"];

#[derive(Serialize)]
struct Ready<'a> {
    ready: bool,
    address: String,
    fingerprint: &'a str,
    data_dir: &'a Path,
    http: Option<String>,
}

/// Runs a server until a signal ends it.
///
/// # Errors
/// Exit 2: a flag or variable; 70: the settings' file, the port, or the data directory.
pub async fn run(command: Serve, flags: &ServerFlags, output: Output) -> Result<(), Failure> {
    let config = settings(&command, flags, output)?;
    if command.print_config {
        return output.result(&config, |_| config.to_toml().trim_end().to_owned());
    }
    raise_descriptor_limit(output);
    // Before the start, so that no signal ever meets a half-started server.
    let mut signals = Signals::listen()?;
    let server = tokio::select! {
        started = Server::start(config) => started.map_err(|error| failure(&error))?,
        number = signals.next() => return Err(Failure::new(Exit::Signal(number), "stopped before it was ready")),
    };
    ready(&server, output)?;
    signals.next().await;
    output.note("stopping; a second signal stops at once");
    tokio::select! {
        stopped = server.stop() => stopped.map_err(|error| failure(&error)),
        number = signals.next() => Err(Failure::new(Exit::Signal(number), "stopped at once, not cleanly: the next start checks the log's end")),
    }
}

/// Every partition keeps files open; shells often grant 1,024 at first and far more to who asks.
fn raise_descriptor_limit(output: Output) {
    use rustix::process::{Resource, getrlimit, setrlimit};
    let mut limit = getrlimit(Resource::Nofile);
    if limit.current == limit.maximum {
        return;
    }
    limit.current = limit.maximum;
    if let Err(error) = setrlimit(Resource::Nofile, limit) {
        output.note(&format!("the limit of open files stays ({error}): it bounds how many partitions can be open"));
    }
}

fn ready(server: &Server, output: Output) -> Result<(), Failure> {
    let address = server.address().to_string();
    let http = server.http_address().map(|address| address.to_string());
    let (fingerprint, data_dir) = (server.fingerprint(), server.data_dir());
    let line = format!(
        "millstream ready on {address} fingerprint {fingerprint} data {} http {}",
        data_dir.display(),
        http.as_deref().unwrap_or("off")
    );
    match output.result(&Ready { ready: true, address, fingerprint, data_dir, http }, |_| line) {
        // Nobody has to read the line for the server to serve.
        Err(error) if error.exit() == Exit::Quiet => Ok(()),
        other => other,
    }
}

/// Defaults, then the file, then the environment, then flags.
fn settings(command: &Serve, flags: &ServerFlags, output: Output) -> Result<ServerConfig, Failure> {
    let mut config = match &command.config {
        Some(path) => read_file(path)?,
        None => ServerConfig::default(),
    };
    let variables: Vec<(String, String)> = std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
        .filter(|(name, value)| !NOT_SETTINGS.contains(&name.as_str()) && !value.is_empty())
        .collect();
    let slips = config
        .apply_env(variables.iter().map(|(name, value)| (name.as_str(), value.as_str())))
        .map_err(|error| Failure::usage(format!("in the environment: {error}")))?;
    for (variable, meant) in slips {
        output.warn(&format!("{variable} is no setting: did you mean MILLSTREAM_{}?", meant.to_ascii_uppercase()));
    }
    let data_dir = flags.data_dir.as_ref().map(|dir| dir.display().to_string());
    let named = [
        ("data_dir", &data_dir),
        ("listen", &command.listen),
        ("http", &command.http),
        ("tls_certificate", &command.tls_certificate),
        ("tls_key", &command.tls_key),
    ];
    let named = named.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value.clone()?)));
    with_flags(&config, named.chain(command.settings.iter().cloned()))
        .map_err(|error| Failure::usage(error).or_try("millstream serve --print-config"))
}

fn with_flags(config: &ServerConfig, flags: impl Iterator<Item = (String, String)>) -> Result<ServerConfig, String> {
    let Ok(Value::Object(mut table)) = serde_json::to_value(config) else { unreachable!("settings are a table") };
    table.extend(flags.map(|(name, value)| (name, Value::String(value))).collect::<Map<_, _>>());
    serde_json::from_value(Value::Object(table)).map_err(|error| error.to_string())
}

fn read_file(path: &Path) -> Result<ServerConfig, Failure> {
    let failed =
        |reason: String| Failure::local(format!("the configuration {} cannot be used: {reason}", path.display()));
    let text = std::fs::read_to_string(path).map_err(|error| failed(error.to_string()))?;
    ServerConfig::from_toml(&text)
        .map_err(|error| failed(error.to_string().trim_end().to_owned()).or_try("millstream serve --print-config"))
}

fn failure(error: &millstream_server::ServeError) -> Failure {
    let exit = if error.is_local() { Exit::Local } else { Exit::Code(error.code()) };
    Failure::new(exit, error.to_string())
}

struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    fn listen() -> Result<Self, Failure> {
        let listen = |kind| signal(kind).map_err(|error| Failure::local(format!("cannot listen for signals: {error}")));
        Ok(Self { terminate: listen(SignalKind::terminate())?, interrupt: listen(SignalKind::interrupt())? })
    }

    /// The number of the next signal.
    async fn next(&mut self) -> u8 {
        let kind = tokio::select! {
            _ = self.terminate.recv() => SignalKind::terminate(),
            _ = self.interrupt.recv() => SignalKind::interrupt(),
        };
        u8::try_from(kind.as_raw_value()).expect("signal numbers are small")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(flags: &[(&str, &str)]) -> Result<ServerConfig, String> {
        with_flags(&ServerConfig::default(), flags.iter().map(|(name, value)| ((*name).into(), (*value).into())))
    }

    #[test]
    fn flags_set_any_setting_and_a_slip_is_named() {
        let config = with(&[("http", "off"), ("lanes", "2"), ("memory_in_hand", "64 MiB")]).expect("legal");
        assert_eq!((config.http, config.lanes, config.memory_in_hand.0), (None, 2, 64 << 20));
        assert!(with(&[("lisen", "x")]).expect_err("refused").contains("did you mean 'listen'"));
        assert!(with(&[("listen", "nowhere")]).expect_err("refused").contains("127.0.0.1:4650"));
    }
}
