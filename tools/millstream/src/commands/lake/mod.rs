//! `millstream lake …`: a verb or two a file.

mod add;
mod audit;
mod doctor;
mod pace;
mod schema;
mod status;
mod view;

use std::time::Duration;

use millstream_protocol::frame::control::LakeConfig;
use millstream_protocol::{ByteSize, Code};

use self::view::{LakeView, StatusView};
use super::{Session, legal_name};
use crate::cli::lake::Lake;
use crate::context::ServerFlags;
use crate::exit::Failure;
use crate::output::{Align, Output, Table, counted};
use crate::time::{now, span};

pub(super) use add::lake_url;

/// Runs one of them.
///
/// # Errors
/// What the server says, or that it cannot be reached.
pub async fn run(command: Lake, server: &ServerFlags, output: Output) -> Result<(), Failure> {
    // Whatever needs no server comes first.
    match &command {
        Lake::Doctor(doctor) => return doctor::run(doctor, output).await,
        Lake::List => {}
        Lake::Add(add) => {
            legal_name("lake", &add.name)?;
            legal_name("stream", &add.stream)?;
        }
        Lake::Status(command) => {
            legal_name("lake", &command.name)?;
            status::check_interval(command.watch)?;
        }
        Lake::Audit(command) => legal_name("lake", &command.name)?,
        Lake::Flush { name, .. }
        | Lake::RetryErrors { name, .. }
        | Lake::Alter { name, .. }
        | Lake::Remove { name } => legal_name("lake", name)?,
    }
    match command {
        Lake::Add(command) => {
            let (config, is_dry) = (add::config(&command)?, command.dry_run);
            Session::with(server, async |session| match is_dry {
                true => add::preview(session, config, output).await,
                false => add::add(session, config, output).await,
            })
            .await
        }
        Lake::Alter { name, schema } => {
            let text = schema::read(&schema)?;
            Session::with(server, async |session| alter(session, &name, text, output).await).await
        }
        command => Session::with(server, async |session| on_server(session, command, output).await).await,
    }
}

async fn on_server(session: &Session, command: Lake, output: Output) -> Result<(), Failure> {
    match command {
        Lake::List => list(session, output).await,
        Lake::Status(command) => status::run(session, &command, output).await,
        Lake::Flush { name, timeout } => flush(session, &name, timeout, output).await,
        Lake::Audit(command) => audit::audit(session, &command, output).await,
        Lake::RetryErrors { name, timeout } => audit::retry_errors(session, &name, timeout, output).await,
        Lake::Remove { name } => remove(session, &name, output).await,
        Lake::Add(_) | Lake::Alter { .. } | Lake::Doctor(_) => unreachable!("they are matched in `run`"),
    }
}

async fn list(session: &Session, output: Output) -> Result<(), Failure> {
    let lakes = session.client.list_lakes().await.map_err(|error| session.failure(&error))?;
    if lakes.is_empty() && !output.json {
        output.note("no lakes yet: `millstream lake add NAME --stream STREAM --url ./DIR`");
        return Ok(());
    }
    let views: Vec<LakeView<'_>> = lakes.iter().map(LakeView::from).collect();
    output.result(&views, |paint| {
        let mut table = Table::new(&[
            ("LAKE", Align::Left),
            ("STREAM", Align::Left),
            ("FORMAT", Align::Left),
            ("ROLLS AT", Align::Left),
            ("URL", Align::Left),
        ]);
        for lake in &lakes {
            table.row([
                lake.name.clone(),
                lake.stream.clone(),
                view::files(lake),
                rolls(lake),
                view::place(&lake.url, &lake.layout),
            ]);
        }
        table.render(paint)
    })
}

/// When a lake's files end.
fn rolls(lake: &LakeConfig) -> String {
    format!("{} or {}", ByteSize(lake.roll_bytes), span(Duration::from_millis(lake.roll_age_ms)))
}

async fn flush(session: &Session, name: &str, timeout: Duration, output: Output) -> Result<(), Failure> {
    let status = match session.client.flush_lake(name, timeout).await {
        Ok(status) => status,
        Err(error) => {
            let failure = session.lake_failure(name, &error).await;
            return Err(match error.code() {
                Code::TimedOut => failure.or_try(format!("millstream lake status {name}")),
                _ => failure,
            });
        }
    };
    output.result(&StatusView::new(&status, now()), |_| {
        let rejected = match status.rejected {
            0 => String::new(),
            n => format!(", {} rejected (see errors/ there)", counted(n, "record")),
        };
        format!(
            "all landed: {} in {}{rejected}, under {}",
            counted(status.rows, "row"),
            counted(status.files, "file"),
            status.config.url
        )
    })
}

async fn alter(session: &Session, name: &str, schema: String, output: Output) -> Result<(), Failure> {
    match session.client.alter_lake(name, schema).await {
        Ok(config) => output.result(&LakeView::from(&config), |_| {
            format!(
                "lake '{name}' lands under the new schema; `millstream lake retry-errors {name}` tries its errors again"
            )
        }),
        Err(error) => Err(session.lake_failure(name, &error).await),
    }
}

async fn remove(session: &Session, name: &str, output: Output) -> Result<(), Failure> {
    if let Err(error) = session.client.remove_lake(name).await {
        return Err(session.lake_failure(name, &error).await);
    }
    output.result(&serde_json::json!({ "removed": name }), |_| format!("removed lake '{name}'; its files stay"))
}
