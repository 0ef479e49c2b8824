//! `millstream lake …` as the command line has it.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Subcommand, ValueEnum};
use millstream_protocol::ByteSize;
use millstream_protocol::frame::control::{LakeColumns, LakeCompression, LakeDelivery, LakeFormat};

use crate::time::parse_span;

#[derive(Debug, Subcommand)]
pub enum Lake {
    /// Land a stream from its beginning on
    Add(LakeAdd),
    /// List all lakes
    List,
    /// Show how far a lake is: lag, freshness, files, rows, bytes, errors
    Status(LakeStatus),
    /// Land everything produced so far, and wait until it has landed
    Flush {
        /// The lake
        name: String,
        /// How long to wait
        #[arg(long, value_name = "SPAN", default_value = "60s", value_parser = parse_span)]
        timeout: Duration,
    },
    /// Compare the manifest, the files and the log: whether each record has landed, once
    Audit(LakeAudit),
    /// Try again to land the records in the error prefix
    RetryErrors {
        /// The lake
        name: String,
        /// How long to wait
        #[arg(long, value_name = "SPAN", default_value = "5m", value_parser = parse_span)]
        timeout: Duration,
    },
    /// Give a lake another declared schema, which adds to the old one or loosens it
    Alter {
        /// The lake
        name: String,
        /// The new schema file (JSON)
        #[arg(long, value_name = "FILE")]
        schema: PathBuf,
    },
    /// Probe a store, from here, and say what a lake on it can promise
    Doctor(LakeDoctor),
    /// Stop landing and forget the lake; its files stay
    Remove {
        /// The lake
        name: String,
    },
}

#[derive(Debug, Args)]
#[command(after_help = "\
A layout says in which directory a record lands. Text, and in braces: a field {carrier} or {to.city}, a field that is a time
{event_time:%Y-%m}, the record's timestamp {ts:%Y-%m-%d}, when it was appended {arrival:%F}. For example
  --layout 'carrier={carrier}/date={ts:%Y-%m-%d}'    which DuckDB, Spark and the like read as two more columns
A schema file is {\"columns\": [{\"name\": \"id\", \"type\": \"int64\", \"required\": true}, {\"name\": \"tags\", \"type\": \"list<string>\"}]}
With --dry-run nothing is written: it shows the columns and example paths that the newest records would have.
A file ends at --roll-size, --roll-rows or --roll-age, whichever comes first; one below 8 MiB stays open up to --max-age,
unless --roll-age asks for freshness: then both are the same.")]
pub struct LakeAdd {
    /// The lake: 1–128 of a-z 0-9 . _ -
    pub name: String,
    /// The stream
    #[arg(long)]
    pub stream: String,
    /// file:///DIR, s3://BUCKET/PREFIX, gs://…, az://…, or a path; the server writes there, with its rights and credentials
    #[arg(long)]
    pub url: String,
    /// What the files are
    #[arg(long, value_enum, default_value_t)]
    pub format: FormatChoice,
    /// How they are compressed: parquet with zstd, snappy, lz4 or none; ndjson with zstd, gzip or none
    #[arg(long, value_enum, default_value_t)]
    pub compression: CompressionChoice,
    /// Where the columns come from
    #[arg(long, value_enum, default_value_t)]
    pub columns: ColumnsChoice,
    /// Columns as this file (JSON) declares them; records that do not fit go to the error prefix
    #[arg(long, value_name = "FILE", conflicts_with = "columns")]
    pub schema: Option<PathBuf>,
    /// The directory of a record under the URL, as a template [default: none, all files in one directory]
    #[arg(long, value_name = "TEMPLATE", default_value = "", hide_default_value = true)]
    pub layout: String,
    /// A file ends at this size, as written: 1 MiB to 512 MiB
    #[arg(long, value_name = "SIZE", default_value = "128 MiB")]
    pub roll_size: ByteSize,
    /// A file ends at so many rows [default: 20 million]
    #[arg(long, value_name = "N")]
    pub roll_rows: Option<u64>,
    /// A file ends when its oldest record has waited so long, however small it is: 100ms to 7d [default: 5m, if it has 8 MiB]
    #[arg(long, value_name = "SPAN", value_parser = parse_span)]
    pub roll_age: Option<Duration>,
    /// A small file ends when its oldest record has waited so long [default: --roll-age, if given, or 1h]
    #[arg(long, value_name = "SPAN", value_parser = parse_span)]
    pub max_age: Option<Duration>,
    /// How many files are open at once, at most: 1 to 4096 [default: 256]
    #[arg(long, value_name = "N")]
    pub open_files: Option<u32>,
    /// What is promised; a store without create-only PUT is refused for exactly-once
    #[arg(long, value_enum, default_value_t)]
    pub delivery: DeliveryChoice,
    /// Write nothing: show what the newest records would become
    #[arg(long)]
    pub dry_run: bool,
}

#[derive(Debug, Args)]
#[command(after_help = "\
With --watch a line per interval until Ctrl-C (on a terminal in place): what has landed, how fast, what waits, and when all
that is in the stream will have been read at this pace. What was read and has not landed is in open files.")]
pub struct LakeStatus {
    /// The lake
    pub name: String,
    /// Go on showing, every so often
    #[arg(long, value_name = "SPAN", value_parser = parse_span)]
    pub watch: Option<Duration>,
}

#[derive(Debug, Args)]
#[command(after_help = "Exit 0: complete. Exit 50: something is missing, twice there, or not the lake's; it is named.")]
pub struct LakeAudit {
    /// The lake
    pub name: String,
    /// How long to wait
    #[arg(long, value_name = "SPAN", default_value = "5m", value_parser = parse_span)]
    pub timeout: Duration,
}

#[derive(Debug, Args)]
#[command(after_help = "\
It runs here, without a server, with the credentials of this environment (AWS_…, GOOGLE_…, AZURE_…): run it as the server runs.
It puts, reads, lists and deletes small objects, and leaves none.
Exit 0: a lake there lands each record once. Exit 10: it cannot promise that.")]
pub struct LakeDoctor {
    /// file:///DIR, s3://BUCKET/PREFIX, gs://…, az://…, or a path
    pub url: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub enum FormatChoice {
    /// Columns
    #[default]
    Parquet,
    /// The records, a line each
    Ndjson,
}

impl From<FormatChoice> for LakeFormat {
    fn from(choice: FormatChoice) -> Self {
        match choice {
            FormatChoice::Parquet => LakeFormat::Parquet,
            FormatChoice::Ndjson => LakeFormat::Ndjson,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub enum CompressionChoice {
    /// Small and fast
    #[default]
    Zstd,
    /// Parquet only
    Snappy,
    /// Parquet only
    Lz4,
    /// NDJSON only
    Gzip,
    /// Not at all
    None,
}

impl From<CompressionChoice> for LakeCompression {
    fn from(choice: CompressionChoice) -> Self {
        match choice {
            CompressionChoice::Zstd => LakeCompression::Zstd,
            CompressionChoice::Snappy => LakeCompression::Snappy,
            CompressionChoice::Lz4 => LakeCompression::Lz4,
            CompressionChoice::Gzip => LakeCompression::Gzip,
            CompressionChoice::None => LakeCompression::None,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub enum ColumnsChoice {
    /// From the records, which are JSON objects
    #[default]
    Inferred,
    /// The record itself, whatever it is: key, headers, value
    Raw,
}

impl From<ColumnsChoice> for LakeColumns {
    fn from(choice: ColumnsChoice) -> Self {
        match choice {
            ColumnsChoice::Inferred => LakeColumns::Inferred,
            ColumnsChoice::Raw => LakeColumns::Raw,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub enum DeliveryChoice {
    /// Each record once
    #[default]
    ExactlyOnce,
    /// Each record at least once, on any store
    AtLeastOnce,
}

impl From<DeliveryChoice> for LakeDelivery {
    fn from(choice: DeliveryChoice) -> Self {
        match choice {
            DeliveryChoice::ExactlyOnce => LakeDelivery::ExactlyOnce,
            DeliveryChoice::AtLeastOnce => LakeDelivery::AtLeastOnce,
        }
    }
}
