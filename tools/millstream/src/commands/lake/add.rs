//! `millstream lake add`, and what it would do with `--dry-run`.

use std::path::Path;
use std::time::Duration;

use millstream_client::Error;
use millstream_protocol::Code;
use millstream_protocol::frame::control::{LakeColumn, LakeColumns, LakeConfig, LakeFormat, LakePreview};
use serde::Serialize;
use url::Url;

use super::super::Session;
use super::schema;
use super::view::{LakeView, files, place};
use crate::cli::lake::LakeAdd;
use crate::exit::Failure;
use crate::nearest::nearest;
use crate::output::{Align, Output, Paint, Table, count, counted};

/// How many of the newest records a dry run looks at.
const PREVIEW_RECORDS: u32 = 1_000;
/// Names in a layout that are no fields of the record.
const NOT_FIELDS: [&str; 3] = ["ts", "arrival", "$"];

/// The lake that is asked for.
///
/// # Errors
/// Exit 2: a path that no URL can hold; 10 or 70: a schema file that does not parse or cannot be read.
pub(super) fn config(add: &LakeAdd) -> Result<LakeConfig, Failure> {
    let defaults = LakeConfig::new(add.name.as_str(), add.stream.as_str(), lake_url(&add.url)?);
    let ms = |span: Duration| u64::try_from(span.as_millis()).unwrap_or(u64::MAX);
    let columns = match &add.schema {
        Some(path) => LakeColumns::Declared(schema::read(path)?),
        None => add.columns.into(),
    };
    Ok(LakeConfig {
        format: add.format.into(),
        compression: add.compression.into(),
        columns,
        layout: add.layout.clone(),
        delivery: add.delivery.into(),
        roll_bytes: add.roll_size.bytes(),
        roll_rows: add.roll_rows.unwrap_or(defaults.roll_rows),
        roll_age_ms: add.roll_age.map_or(defaults.roll_age_ms, ms),
        // Who names an age asks for freshness, and gets it for small files too.
        max_age_ms: add.max_age.or(add.roll_age).map_or(defaults.max_age_ms, ms),
        open_files: add.open_files.unwrap_or(defaults.open_files),
        ..defaults
    })
}

/// Adds it.
pub(super) async fn add(session: &Session, config: LakeConfig, output: Output) -> Result<(), Failure> {
    let added = match session.client.create_lake(config.clone()).await {
        Ok(added) => added,
        Err(error) => return Err(failure(session, &config, &error).await),
    };
    output.result(&LakeView::from(&added), |_| {
        let (files, place) = (files(&added), place(&added.url, &added.layout));
        format!("stream '{}' lands as {files} in {place} (lake '{}')", added.stream, added.name)
    })
}

/// Shows what it would do with the newest records.
pub(super) async fn preview(session: &Session, config: LakeConfig, output: Output) -> Result<(), Failure> {
    match session.client.preview_lake(config.clone(), PREVIEW_RECORDS).await {
        Ok(preview) => {
            output.result(&PreviewView::new(&config, &preview), |paint| description(&config, &preview, paint))
        }
        Err(error) => Err(failure(session, &config, &error).await),
    }
}

/// What to do about a lake that is refused.
async fn failure(session: &Session, config: &LakeConfig, error: &Error) -> Failure {
    let failure = session.stream_failure(&config.stream, error).await;
    let doctor = format!("millstream lake doctor {}", config.url);
    match error.code() {
        Code::LakeExists => failure.or_try(format!("millstream lake status {}", config.name)),
        Code::LakeUnavailable => failure.or_try(doctor),
        Code::IllegalLake => match session.client.preview_lake(config.clone(), 1).await {
            // All is well but for the store, which a preview does not ask.
            Ok(_) => failure.or_try("--url with a place that the server may write").or_try(doctor),
            Err(_) => match misspelt(session, config).await {
                Some((field, meant)) => failure.adding(&format!("is '{{{field}}}' meant to be '{{{meant}}}'?")),
                None => failure.or_try("millstream lake add --help"),
            },
        },
        _ => failure,
    }
}

/// A field of the layout that no record has, and the one that was probably meant.
async fn misspelt(session: &Session, config: &LakeConfig) -> Option<(String, String)> {
    if config.layout.is_empty() {
        return None;
    }
    let plain = LakeConfig::new(config.name.as_str(), config.stream.as_str(), config.url.as_str());
    let preview = session.client.preview_lake(plain, PREVIEW_RECORDS).await.ok()?;
    nearest_field(&config.layout, &preview.columns)
}

fn nearest_field(layout: &str, columns: &[LakeColumn]) -> Option<(String, String)> {
    let known = || columns.iter().map(|column| column.name.as_str());
    fields(layout).find_map(|field| {
        let meant = if known().any(|name| name == field) { None } else { nearest(field, known()) };
        meant.map(|meant| (field.to_owned(), meant.to_owned()))
    })
}

/// The record's top-level fields that a layout names: `{carrier}`, `{at.city}`, `{time:%Y}`, but not `{$.ts}`.
fn fields(layout: &str) -> impl Iterator<Item = &str> {
    let parts = layout.split('{').skip(1).filter_map(|part| part.split_once('}'));
    let names = parts.filter_map(|(inside, _)| inside.split([':', '.']).next());
    names.map(str::trim).filter(|name| !NOT_FIELDS.contains(name))
}

fn description(config: &LakeConfig, preview: &LakePreview, paint: Paint) -> String {
    let mut table = Table::new(&[("ID", Align::Right), ("COLUMN", Align::Left), ("TYPE", Align::Left)]);
    for column in &preview.columns {
        table.row([column.id.to_string(), column.name.clone(), column.kind.clone()]);
    }
    let mut parts = vec![format!(
        "nothing is written; from {} of stream '{}', as {}:",
        counted_newest(preview.records),
        config.stream,
        files(config)
    )];
    // Lines of JSON have no columns.
    if config.format == LakeFormat::Parquet {
        parts.push(table.render(paint));
    }
    if !preview.paths.is_empty() {
        let heading = match preview.directories {
            0 | 1 => "files such as".to_owned(),
            n => format!("{} directories, files such as", count(n)),
        };
        let paths: Vec<String> = preview.paths.iter().map(|path| format!("  {path}")).collect();
        parts.push(format!("{}\n{}", paint.dim(&heading), crate::output::printable(&paths.join("\n"))));
    }
    parts.push(match preview.rejected {
        0 => format!("{} would be rejected", paint.green("no record")),
        n => format!(
            "{} would be rejected: {}",
            paint.yellow(&counted(n, "record")),
            crate::output::printable(&preview.reason)
        ),
    });
    parts.join("\n\n")
}

fn counted_newest(records: u64) -> String {
    match records {
        0 => "no records (there are none)".to_owned(),
        1 => "the newest record".to_owned(),
        n => format!("the {} newest records", count(n)),
    }
}

#[derive(Serialize)]
struct PreviewView<'a> {
    #[serde(flatten)]
    lake: LakeView<'a>,
    records: u64,
    fields: Vec<ColumnView<'a>>,
    paths: &'a [String],
    directories: u64,
    rejected: u64,
    reason: Option<&'a str>,
}

#[derive(Serialize)]
struct ColumnView<'a> {
    name: &'a str,
    #[serde(rename = "type")]
    kind: &'a str,
    id: u32,
}

impl<'a> PreviewView<'a> {
    fn new(config: &'a LakeConfig, preview: &'a LakePreview) -> Self {
        let column = |column: &'a LakeColumn| ColumnView { name: &column.name, kind: &column.kind, id: column.id };
        Self {
            lake: LakeView::from(config),
            records: preview.records,
            fields: preview.columns.iter().map(column).collect(),
            paths: &preview.paths,
            directories: preview.directories,
            rejected: preview.rejected,
            reason: (!preview.reason.is_empty()).then_some(&preview.reason),
        }
    }
}

/// A URL as it is; a path as the `file:///` URL of its absolute form.
pub(in crate::commands) fn lake_url(text: &str) -> Result<String, Failure> {
    let is_url = text.split_once(':').is_some_and(|(scheme, _)| {
        scheme.len() > 1 && scheme.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'+' | b'-' | b'.'))
    });
    if is_url {
        return Ok(text.to_owned());
    }
    let absolute = std::path::absolute(Path::new(text));
    let absolute = absolute.map_err(|error| Failure::usage(format!("'{text}' is no URL and no path: {error}")))?;
    let url = Url::from_file_path(&absolute);
    url.map(String::from).map_err(|()| Failure::usage(format!("'{text}' is no path that a URL can hold")))
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::cli::lake::Lake;
    use crate::cli::{Cli, Command};

    fn asked(flags: &str) -> LakeConfig {
        let line = format!("millstream lake add nyc --stream flights --url /tmp/x {flags}");
        let cli = Cli::try_parse_from(line.split_whitespace()).expect("a legal line");
        let Command::Lake(lake) = cli.command else { panic!("a lake") };
        let Lake::Add(add) = *lake else { panic!("added") };
        config(&add).expect("legal")
    }

    #[test]
    fn a_path_becomes_a_url_and_a_url_stays() {
        for url in ["file:///tmp/lake", "s3://bucket/prefix", "ftp://x"] {
            assert_eq!(lake_url(url), Ok(url.to_owned()));
        }
        assert_eq!(lake_url("/tmp/my lake"), Ok("file:///tmp/my%20lake".into()));
        let relative = lake_url("./lake").expect("a path");
        assert!(
            relative.starts_with("file:///") && relative.ends_with("/lake") && !relative.contains("./"),
            "{relative}"
        );
    }

    #[test]
    fn without_flags_it_is_the_default_lake() {
        assert_eq!(asked(""), LakeConfig::new("nyc", "flights", "file:///tmp/x"));
    }

    #[test]
    fn a_roll_age_asks_for_freshness_unless_a_max_age_is_named() {
        let ages = |flags: &str| (asked(flags).roll_age_ms, asked(flags).max_age_ms);
        assert_eq!(ages(""), (300_000, 3_600_000));
        assert_eq!(ages("--roll-age 10s"), (10_000, 10_000));
        assert_eq!(ages("--roll-age 10s --max-age 1m"), (10_000, 60_000));
        assert_eq!(ages("--max-age 2h"), (300_000, 7_200_000));
    }

    #[test]
    fn a_slip_in_a_layout_finds_its_field() {
        let columns = ["carrier", "origin", "event_time"].map(|name| LakeColumn {
            name: name.into(),
            kind: "string".into(),
            id: 16,
        });
        let meant = |layout: &str| nearest_field(layout, &columns);
        assert_eq!(meant("c={carier}/d={ts:%Y}"), Some(("carier".into(), "carrier".into())));
        assert_eq!(meant("d={event_tmie:%Y-%m-%d}"), Some(("event_tmie".into(), "event_time".into())));
        for none in ["", "c={carrier}", "{ts:%Y}/{$.carrier}", "{weather}", "{unfinished", "}{"] {
            assert_eq!(meant(none), None, "{none}");
        }
    }
}
