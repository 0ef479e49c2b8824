//! The command line: one definition from which parsing, help and completions come. Parsing does nothing else.

pub mod dlq;
pub mod lake;
pub mod queue;

use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};
use millstream_protocol::batch::Codec;
use millstream_protocol::frame::control::Durability;
use millstream_protocol::frame::group::ResetTo;
use millstream_protocol::{ByteSize, Timestamp};

use crate::context::ServerFlags;
use crate::output::ColourChoice;
use crate::time::{parse_span, parse_time};

const EXAMPLES: &str = "\
The first five minutes:
  millstream demo                                       see everything work, on real data
  millstream serve                                      start a server on ./millstream-data
  millstream produce flights flights.ndjson.zst         send a file; the stream is made on the way
  millstream consume flights --count 3                  look at it
  millstream lake add nyc --stream flights --url ./lake land it as Parquet, for DuckDB and the like

Exit codes: 0 done · 2 usage · 10 wrong request · 20 not now · 30 behind · 40 outcome unknown · 50 damaged ·
60 server unreachable or not the pinned one · 70 local file or port";

/// A log-structured streaming engine: streams over QUIC, durable on this machine's disk, landed in a data lake.
#[derive(Debug, Parser)]
#[command(name = "millstream", version, after_help = EXAMPLES, max_term_width = 110)]
pub struct Cli {
    #[command(flatten)]
    pub server: ServerFlags,
    /// Print results as JSON, one object or array in a line; errors and notes too, on stderr
    #[arg(long, global = true, help_heading = "Output")]
    pub json: bool,
    /// When to use colour
    #[arg(long, global = true, value_enum, default_value_t, value_name = "WHEN", help_heading = "Output")]
    pub color: ColourChoice,
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run a server
    Serve(Serve),
    /// Make, show and delete streams
    #[command(subcommand)]
    Stream(Stream),
    /// Send lines of a file or of stdin to a stream
    Produce(Produce),
    /// Print a stream's records
    Consume(Consume),
    /// Show, reset and delete consumer groups
    #[command(subcommand)]
    Group(Group),
    /// Make, use, watch and delete queues: messages that are worked on one by one
    #[command(subcommand)]
    Queue(Box<queue::Queue>),
    /// Look at dead letters: messages that no receiver could work on
    #[command(subcommand)]
    Dlq(dlq::Dlq),
    /// Land streams as files in a directory or bucket
    #[command(subcommand)]
    Lake(Box<lake::Lake>),
    /// Show what the server's last start had to do: read, replay, cut, report as damaged
    Recovery,
    /// Check every batch of a data directory that no server has open
    Verify {
        /// Take the damage that is found for granted, on the record: consumers then pass over the records lost
        #[arg(long)]
        accept_loss: bool,
    },
    /// Show everything at work on real data: send, read back, land, compare
    Demo(Demo),
    /// Print the completions for a shell
    Completions {
        /// Which shell
        shell: clap_complete::Shell,
    },
}

#[derive(Debug, Args)]
#[command(after_help = "\
Settings come from defaults, then the file, then MILLSTREAM_… in the environment, then flags; later ones win.
One line on stdout says when the server is ready; logs go to stderr (MILLSTREAM_LOG=debug for more).
SIGTERM or Ctrl-C stops it when everything in hand is answered; a second one at once.")]
pub struct Serve {
    /// Where QUIC listens; port 0 lets the system choose [default: 127.0.0.1:4650]
    #[arg(long, value_name = "ADDR")]
    pub listen: Option<String>,
    /// Where HTTP (/health, /metrics) listens, or off [default: 127.0.0.1:4651]
    #[arg(long, value_name = "ADDR|off")]
    pub http: Option<String>,
    /// The certificate chain, PEM; without one a self-signed one is made
    #[arg(long, value_name = "FILE", requires = "tls_key")]
    pub tls_certificate: Option<String>,
    /// The certificate's private key, PEM
    #[arg(long, value_name = "FILE", requires = "tls_certificate")]
    pub tls_key: Option<String>,
    /// A TOML file with settings
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Any setting of the file, for example --set memory_in_hand='256 MiB'
    #[arg(long = "set", value_name = "NAME=VALUE", value_parser = parse_setting)]
    pub settings: Vec<(String, String)>,
    /// Print the settings that would be in effect, as a file for --config, and end
    #[arg(long)]
    pub print_config: bool,
}

#[derive(Debug, Subcommand)]
pub enum Stream {
    /// Make a stream
    Create(StreamCreate),
    /// List all streams
    List,
    /// Show a stream's settings and partitions
    Describe {
        /// The stream
        name: String,
    },
    /// Delete a stream and its records; on a terminal it asks first
    Delete {
        /// The stream
        name: String,
        /// Do not ask
        #[arg(long, short)]
        yes: bool,
    },
    /// Delete a partition's records below an offset
    DeleteBefore {
        /// The stream
        name: String,
        /// The partition
        partition: u32,
        /// The first offset to keep
        offset: u64,
    },
}

#[derive(Debug, Args)]
pub struct StreamCreate {
    /// The stream: 1–128 of a-z 0-9 . _ -
    pub name: String,
    /// How many partitions
    #[arg(long, short, default_value_t = PARTITIONS_DEFAULT, value_name = "N")]
    pub partitions: u32,
    /// How long records are kept: a span such as 7d, or forever [default: 7d; forever with --interest]
    #[arg(long, value_name = "SPAN|forever", value_parser = parse_retention)]
    pub retention: Option<Limit<Duration>>,
    /// How many bytes of each partition are kept, or unlimited [default: unlimited]
    #[arg(long, value_name = "SIZE|unlimited", value_parser = parse_retention_bytes)]
    pub retention_bytes: Option<Limit<ByteSize>>,
    /// Delete records after consumption: once every queue and lake on the stream, and every group that reads it, is past
    /// them. Then nothing goes by age, unless --retention says so
    #[arg(long)]
    pub interest: bool,
    /// What an ack means: synced survives loss of power, written a crash of the server [default: synced]
    #[arg(long, value_enum)]
    pub durability: Option<DurabilityChoice>,
    /// What makes room: delete old segments, or compact to the latest record of each key (all need one) [default: delete]
    #[arg(long, value_enum)]
    pub cleanup: Option<CleanupChoice>,
    /// With --cleanup compact: how long a tombstone stays after it was cleaned [default: 24h]
    #[arg(long, value_name = "SPAN", value_parser = parse_span)]
    pub delete_retention: Option<Duration>,
    /// With --cleanup compact: how long every record stays, whatever its key [default: 0s]
    #[arg(long, value_name = "SPAN", value_parser = parse_span)]
    pub min_compaction_lag: Option<Duration>,
    /// How long a dedup id is remembered, from its first record: 1s to 24h [default: 5m]
    #[arg(long, value_name = "SPAN", value_parser = parse_span)]
    pub dedup_window: Option<Duration>,
    /// The longest delay that a message may ask for, up to 30 days [default: 7d]
    #[arg(long, value_name = "SPAN", value_parser = parse_span)]
    pub max_delay: Option<Duration>,
    /// How large a segment file gets [default: 256 MiB]
    #[arg(long, value_name = "SIZE")]
    pub segment_bytes: Option<ByteSize>,
    /// The largest record [default: 1 MiB]
    #[arg(long, value_name = "SIZE")]
    pub record_bytes_max: Option<ByteSize>,
}

/// How many partitions a stream gets unless that is said.
pub const PARTITIONS_DEFAULT: u32 = 4;

#[derive(Debug, Args)]
#[command(after_help = "\
A blank line is passed over (as `lines` it is an empty record). With --key, a record whose field is missing or null has
no key. A stream that is not there is made, with 4 partitions, and that is said.
--on-error stop: everything before the bad line is stored, then exit 10. --on-error skip: bad lines are counted and named
on stderr, exit 0.
Each record is stored once, whatever has to be sent again. A second run is another producer: with --dedup-id or --dedup
content the server remembers ids for the stream's dedup window (5 minutes unless it was made with --dedup-window), and what
was sent before is counted, not stored.")]
pub struct Produce {
    /// The stream
    pub stream: String,
    /// The file; - is stdin; zstd and gzip are read directly
    #[arg(default_value = "-")]
    pub file: PathBuf,
    /// The top-level field of each JSON object that is the record's key; equal keys keep their order
    #[arg(long, value_name = "FIELD")]
    pub key: Option<String>,
    /// ndjson checks that each line is a JSON object; lines sends them as they are
    #[arg(long, value_enum, default_value_t)]
    pub format: InputFormat,
    /// What to do at a line that cannot be a record
    #[arg(long, value_enum, default_value_t, value_name = "WHAT")]
    pub on_error: OnError,
    /// How many records to send in a second at most
    #[arg(long, value_name = "N")]
    pub rate: Option<Rate>,
    /// How many times to send the file
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..))]
    pub repeat: u64,
    /// How batches are compressed [default: the client's]
    #[arg(long, value_enum)]
    pub compression: Option<Compression>,
    /// How long a record waits for others to share its batch
    #[arg(long, value_name = "SPAN", value_parser = parse_span)]
    pub linger: Option<Duration>,
    /// How long to go on trying to deliver a record, for example while the server restarts
    #[arg(long, value_name = "SPAN", value_parser = parse_span)]
    pub delivery_timeout: Option<Duration>,
    /// A name for this producer: one of that name that still runs elsewhere is fenced, and stores nothing more
    #[arg(long, value_name = "NAME")]
    pub producer_name: Option<String>,
    /// Let a batch be stored twice rather than have the server remember what it has of this producer
    #[arg(long, conflicts_with = "producer_name")]
    pub no_idempotence: bool,
    /// The top-level field of each JSON object that is its dedup id: a second record of the id (and key) is not stored
    #[arg(long, value_name = "FIELD", conflicts_with = "dedup")]
    pub dedup_id: Option<String>,
    /// Derive dedup ids: content stores equal records (key and value) once
    #[arg(long, value_enum, value_name = "HOW")]
    pub dedup: Option<DedupChoice>,
    /// How many partitions a stream gets that is made on the way
    #[arg(long, value_name = "N", default_value_t = PARTITIONS_DEFAULT)]
    pub partitions: u32,
    /// Do not make a stream that is not there
    #[arg(long)]
    pub no_create: bool,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Without --follow it ends at the high watermark seen at the start; if that is less than --count, a note on stderr says so.
json: {\"partition\",\"offset\",\"timestamp\",\"append_time\",\"key\",\"headers\",\"value\"} in a line; a value that is JSON stands as it
is, other text as a string, other bytes as \"value_base64\"; a tombstone has \"tombstone\":true. value: the value and a line break.

With --group it shares the partitions with the group's other members and begins where the group was; it always follows. A
record is committed after it was written to stdout: whoever is killed has its last records printed again by another member.
Ctrl-C or SIGTERM: commits and leaves. json then has \"stream\" in front.")]
pub struct Consume {
    /// The stream
    #[arg(required_unless_present = "streams")]
    pub stream: Option<String>,
    /// Where to begin: earliest, latest, an offset, a time such as 2013-01-01T10:15:00Z, or a span ago such as -10m; with
    /// --group where nothing is committed
    #[arg(long, value_name = "WHERE", default_value = "earliest", allow_hyphen_values = true)]
    pub from: Begin,
    /// Only this partition; may be given several times
    #[arg(long, value_name = "N", value_delimiter = ',', conflicts_with = "group")]
    pub partition: Vec<u32>,
    /// Go on with what comes later
    #[arg(long, short)]
    pub follow: bool,
    /// End after so many records
    #[arg(long, short = 'n', value_name = "N")]
    pub count: Option<u64>,
    /// How records are printed
    #[arg(long, value_enum, default_value_t)]
    pub format: RecordFormat,
    #[command(flatten)]
    pub group: ConsumeGroup,
}

#[derive(Debug, Args)]
#[command(next_help_heading = "As a member of a group")]
pub struct ConsumeGroup {
    /// Consume as a member of this group; it is made if it is not there
    #[arg(long, value_name = "NAME")]
    pub group: Option<String>,
    /// A further stream to read; may be given several times
    #[arg(long = "stream", value_name = "STREAM", value_delimiter = ',', requires = "group")]
    pub streams: Vec<String>,
    /// Makes it a static member of that name: restarted within its session it gets its partitions back
    #[arg(long, value_name = "ID", requires = "group")]
    pub instance: Option<String>,
    /// How long after its last heartbeat it is taken for dead: 3s to 30m [default: 15s]
    #[arg(long, value_name = "SPAN", value_parser = parse_span, requires = "group")]
    pub session_timeout: Option<Duration>,
    /// auto commits what was printed; none leaves the group where it is
    #[arg(long, value_enum, default_value_t, value_name = "WHEN", requires = "group")]
    pub commit: CommitChoice,
    /// How often to commit while records come; when there are none for the moment it is done at once
    #[arg(long, value_name = "SPAN", value_parser = parse_span, default_value = "1s", requires = "group")]
    pub commit_interval: Duration,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub enum CommitChoice {
    /// What was printed
    #[default]
    Auto,
    /// Never
    None,
}

#[derive(Debug, Subcommand)]
pub enum Group {
    /// List all consumer groups with their lag
    List,
    /// Show a group's members, and how far it is in each partition
    Describe {
        /// The group
        name: String,
    },
    /// Move the offsets of a group without members
    Reset(GroupResetTo),
    /// Delete a group without members, or its offsets in one stream; on a terminal it asks first
    Delete {
        /// The group
        name: String,
        /// Only forget its offsets in this stream
        #[arg(long, value_name = "STREAM")]
        offsets_of: Option<String>,
        /// With --offsets-of: only in this partition; may be given several times
        #[arg(long, value_name = "N", value_delimiter = ',', requires = "offsets_of")]
        partition: Vec<u32>,
        /// Do not ask
        #[arg(long, short)]
        yes: bool,
    },
}

#[derive(Debug, Args)]
#[command(after_help = "\
earliest: the first record kept · latest: behind the last one · offset=N · time=2013-01-01T10:15:00Z: the first record appended
then or later · shift=-100, shift=+100: by so many offsets from where it is, cut to what the log holds")]
pub struct GroupResetTo {
    /// The group; it is made if it is not there
    pub name: String,
    /// The stream
    #[arg(long)]
    pub stream: String,
    /// Only this partition; may be given several times
    #[arg(long, value_name = "N", value_delimiter = ',')]
    pub partition: Vec<u32>,
    /// Where to: earliest, latest, offset=N, time=WHEN, shift=±N
    #[arg(long, value_name = "WHERE")]
    pub to: ResetPlace,
    /// Only show where it would go
    #[arg(long)]
    pub dry_run: bool,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Sends 5,000 real flights (New York, 2013; CC0) to a server of its own, on ports that the system chooses, reads them back,
lands them as Parquet, reads that back, and compares everything; then measures. Exit 50 if anything differs.")]
pub struct Demo {
    /// Keep the data here instead of in a new directory for temporary files
    #[arg(long, value_name = "DIR")]
    pub dir: Option<PathBuf>,
    /// How long to measure the rate of sending
    #[arg(long, value_name = "SPAN", default_value = "3s", value_parser = parse_span)]
    pub measure: Duration,
    /// Delete the data at the end
    #[arg(long)]
    pub remove: bool,
}

/// A limit that can be switched off.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Limit<T> {
    /// No limit.
    None,
    /// This much.
    Some(T),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum DurabilityChoice {
    /// On the disk before the ack
    Synced,
    /// In the page cache before the ack
    Written,
}

impl From<DurabilityChoice> for Durability {
    fn from(choice: DurabilityChoice) -> Self {
        match choice {
            DurabilityChoice::Synced => Durability::Synced,
            DurabilityChoice::Written => Durability::Written,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum CleanupChoice {
    /// Old segments go, by age and bytes
    Delete,
    /// The latest record of each key stays
    Compact,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub enum InputFormat {
    /// A JSON object a line
    #[default]
    Ndjson,
    /// Any line
    Lines,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub enum OnError {
    /// Store what came before, then end
    #[default]
    Stop,
    /// Go on with the next line
    Skip,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum DedupChoice {
    /// Of each record's key and value
    Content,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Compression {
    /// Not at all
    None,
    /// Fast
    Lz4,
    /// Small
    Zstd,
}

impl From<Compression> for Codec {
    fn from(choice: Compression) -> Self {
        match choice {
            Compression::None => Codec::None,
            Compression::Lz4 => Codec::Lz4,
            Compression::Zstd => Codec::Zstd,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub enum RecordFormat {
    /// An object a line
    #[default]
    Json,
    /// The value and a line break
    Value,
}

/// Records in a second: `5000` or `5000/s`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Rate(pub f64);

impl FromStr for Rate {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let number = text.trim().trim_end_matches("/s").trim_end();
        match number.parse::<f64>() {
            Ok(rate) if rate.is_finite() && rate > 0.0 => Ok(Self(rate)),
            _ => Err(format!("'{text}' is not a rate: write records per second, for example 5000")),
        }
    }
}

/// Where to begin reading.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Begin {
    /// At the first record kept.
    Earliest,
    /// Behind the last one.
    Latest,
    /// At an offset.
    Offset(u64),
    /// At the first record appended at or after a time.
    Time(Timestamp),
    /// At the first record appended at most so long ago.
    Ago(Duration),
}

impl FromStr for Begin {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "earliest" => return Ok(Begin::Earliest),
            "latest" => return Ok(Begin::Latest),
            _ => {}
        }
        if let Ok(offset) = text.parse() {
            return Ok(Begin::Offset(offset));
        }
        if let Some(span) = text.strip_prefix('-') {
            return parse_span(span).map(Begin::Ago);
        }
        parse_time(text).map(Begin::Time).ok_or_else(|| {
            format!("'{text}' is no place: write earliest, latest, an offset, 2013-01-01T10:15:00Z or -10m")
        })
    }
}

/// Where a reset goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ResetPlace(pub ResetTo);

impl FromStr for ResetPlace {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let place = match text.split_once('=') {
            None if text == "earliest" => Some(ResetTo::Earliest),
            None if text == "latest" => Some(ResetTo::Latest),
            Some(("offset", offset)) => offset.parse().ok().map(ResetTo::Offset),
            Some(("time", time)) => parse_time(time).map(|time| ResetTo::Time(time.0)),
            Some(("shift", by)) => by.parse().ok().map(ResetTo::Shift),
            _ => None,
        };
        place.map(Self).ok_or_else(|| {
            format!("'{text}' is no place: write earliest, latest, offset=17, time=2013-01-01T10:15:00Z or shift=-100")
        })
    }
}

fn parse_retention(text: &str) -> Result<Limit<Duration>, String> {
    if text == "forever" { Ok(Limit::None) } else { parse_span(text).map(Limit::Some) }
}

fn parse_retention_bytes(text: &str) -> Result<Limit<ByteSize>, String> {
    if text == "unlimited" { Ok(Limit::None) } else { text.parse().map(Limit::Some) }
}

fn parse_setting(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once('=').ok_or("write NAME=VALUE")?;
    Ok((name.trim().to_owned(), value.trim().to_owned()))
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    fn parse(line: &str) -> Result<Cli, clap::Error> {
        Cli::try_parse_from(line.split_whitespace())
    }

    #[test]
    fn the_definition_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn the_shapes_that_scripts_rely_on_parse() {
        for line in [
            "millstream serve --data-dir d --listen 127.0.0.1:0",
            "millstream serve --listen 127.0.0.1:0 --data-dir d --http off --print-config --set lanes=2 --json",
            "millstream stream create flights --partitions 4 --retention forever --retention-bytes 1GiB --durability written",
            "millstream stream create latest --cleanup compact --delete-retention 24h --min-compaction-lag 0s",
            "millstream stream list --json",
            "millstream --json stream describe flights",
            "millstream stream delete flights --yes",
            "millstream stream delete-before flights 0 17",
            "millstream produce flights",
            "millstream produce flights - --key tailnum --rate 5000/s",
            "millstream stream create flights --dedup-window 1h",
            "millstream produce flights --producer-name loader --dedup-id id",
            "millstream produce flights --no-idempotence --dedup content",
            "millstream produce flights f.ndjson.zst --repeat 20 --on-error skip --format lines --no-create",
            "millstream consume flights --from earliest --count 5 --format value",
            "millstream consume flights --from -10m --follow --partition 0 --partition 2,3",
            "millstream consume flights --group nyc --instance pod-3 --session-timeout 3s --commit none --count 5 --from latest",
            "millstream consume --group nyc --stream flights --stream rides,fares --commit-interval 100ms",
            "millstream group list --json",
            "millstream group describe nyc",
            "millstream group reset nyc --stream flights --partition 0 --partition 2,3 --to shift=-100 --dry-run",
            "millstream group delete nyc --yes",
            "millstream group delete nyc --offsets-of flights --partition 1",
            "millstream lake add nyc --stream flights --url file:///tmp/x --format parquet --roll-size 64MiB --roll-age 60s",
            "millstream lake add nyc --stream flights --url s3://b/p --layout carrier={carrier}/date={ts:%Y-%m-%d} --dry-run",
            "millstream lake add nyc --stream flights --url d --schema s.json --compression snappy --max-age 1h --open-files 9",
            "millstream lake add nyc --stream flights --url d --columns raw --delivery at-least-once --roll-rows 1000000",
            "millstream lake add nyc --stream flights --url d --format ndjson --compression gzip",
            "millstream lake status nyc --watch 1s",
            "millstream lake audit nyc --timeout 5m",
            "millstream lake retry-errors nyc",
            "millstream lake alter nyc --schema s.json",
            "millstream lake doctor s3://bucket/prefix --json",
            "millstream lake flush nyc --timeout 60s",
            "millstream lake status nyc --json",
            "millstream verify --data-dir d",
            "millstream demo",
            "millstream completions zsh",
        ] {
            parse(line).unwrap_or_else(|error| panic!("{line}: {error}"));
        }
    }

    #[test]
    fn what_cannot_be_meant_is_a_usage_error() {
        for line in [
            "millstream",
            "millstream stream create",
            "millstream stream create latest --cleanup both",
            "millstream stream create latest --delete-retention forever",
            "millstream produce flights --rate 0",
            "millstream produce flights --repeat 0",
            "millstream consume flights --from yesterday",
            "millstream consume flights --from -10",
            "millstream consume",
            "millstream consume --stream flights",
            "millstream consume flights --instance pod-3",
            "millstream consume flights --commit none",
            "millstream consume flights --group nyc --partition 0",
            "millstream consume flights --group nyc --commit sometimes",
            "millstream group reset nyc --to earliest",
            "millstream group reset nyc --stream flights",
            "millstream group reset nyc --stream flights --to 17",
            "millstream group reset nyc --stream flights --to offset=-1",
            "millstream group reset nyc --stream flights --to time=yesterday",
            "millstream group delete nyc --partition 1",
            "millstream lake add nyc --stream flights",
            "millstream lake add nyc --stream flights --url d --columns raw --schema s.json",
            "millstream lake add nyc --stream flights --url d --compression brotli",
            "millstream lake add nyc --stream flights --url d --delivery sometimes",
            "millstream lake alter nyc",
            "millstream lake status nyc --watch often",
            "millstream lake doctor",
            "millstream serve --set lanes",
            "millstream serve --tls-key k.pem",
        ] {
            assert_eq!(parse(line).expect_err(line).exit_code(), 2, "{line}");
        }
    }

    #[test]
    fn places_to_reset_to_are_told_apart() {
        for (text, to) in [
            ("earliest", ResetTo::Earliest),
            ("latest", ResetTo::Latest),
            ("offset=17", ResetTo::Offset(17)),
            ("time=1970-01-01T00:00:01Z", ResetTo::Time(1_000)),
            ("shift=-100", ResetTo::Shift(-100)),
            ("shift=+100", ResetTo::Shift(100)),
        ] {
            assert_eq!(text.parse(), Ok(ResetPlace(to)));
        }
    }

    #[test]
    fn places_to_begin_are_told_apart() {
        assert_eq!("17".parse(), Ok(Begin::Offset(17)));
        assert_eq!("-1h30m".parse(), Ok(Begin::Ago(Duration::from_secs(5_400))));
        assert_eq!("1970-01-01T00:00:01Z".parse(), Ok(Begin::Time(Timestamp(1_000))));
        assert_eq!("1970-01-02".parse(), Ok(Begin::Time(Timestamp(86_400_000))));
    }
}
