//! `millstream queue …`.

use std::time::Duration;

use clap::{Args, Subcommand, ValueEnum};
use millstream_client::MessageReceipt;

use super::{Begin, Limit};
use crate::time::parse_span;

#[derive(Debug, Subcommand)]
pub enum Queue {
    /// Make a queue on a stream
    Create(QueueCreate),
    /// Give a queue other settings; a changed filter or delay holds for records stored from now on
    Update(QueueUpdate),
    /// List all queues
    List,
    /// Show a queue's settings and how it stands on each partition
    Describe {
        /// The queue
        name: String,
    },
    /// Print messages, with the receipts to acknowledge them by
    Receive(QueueReceive),
    /// Acknowledge deliveries: their messages are done, for ever
    Ack {
        #[command(flatten)]
        of: Receipts,
    },
    /// Say that deliveries failed: their messages come again
    Nack {
        #[command(flatten)]
        of: Receipts,
        /// After this time [default: the queue's backoff]
        #[arg(long, value_name = "SPAN", value_parser = parse_span)]
        delay: Option<Duration>,
        /// Why; it stands in the dead letter if this was the last delivery
        #[arg(long, value_name = "TEXT", default_value = "")]
        error: String,
    },
    /// Give deliveries back that were not tried: uncounted
    Release {
        #[command(flatten)]
        of: Receipts,
    },
    /// Keep deliveries longer: their leases end this time from now
    Extend {
        #[command(flatten)]
        of: Receipts,
        /// How long, up to 12h
        #[arg(long, value_name = "SPAN", value_parser = parse_span)]
        visibility: Duration,
    },
    /// Send hopeless messages to the dead letters
    Reject {
        #[command(flatten)]
        of: Receipts,
        /// Why
        #[arg(long, value_name = "TEXT", default_value = "")]
        error: String,
    },
    /// Show unsettled messages without taking them
    Peek(QueuePeek),
    /// Decide about a parked message, or all of a parked group
    Unpark {
        /// The queue
        name: String,
        /// The partition
        #[arg(long, value_name = "N")]
        partition: u32,
        /// The message
        #[arg(long, value_name = "OFFSET", required_unless_present = "key", conflicts_with = "key")]
        offset: Option<u64>,
        /// The group
        #[arg(long, value_name = "KEY")]
        key: Option<String>,
        /// Send it to the dead letters, instead of trying it again from the first
        #[arg(long)]
        skip: bool,
    },
    /// Bring dead messages back, to their queue alone, or as copies to a stream
    Redrive(QueueRedrive),
    /// Settle all that a queue holds now, in flight and delayed too; on a terminal it asks first
    Purge {
        /// The queue
        name: String,
        /// Do not ask
        #[arg(long, short)]
        yes: bool,
    },
    /// Let a queue begin anew elsewhere: all leases end, what lies above is delivered (again)
    Seek {
        /// The queue
        name: String,
        /// Where: earliest, latest, an offset, a time such as 2013-01-01T10:15:00Z, or a span ago such as -10m
        #[arg(long, value_name = "WHERE", allow_hyphen_values = true)]
        to: Begin,
    },
    /// Deliver nothing more; acks, extensions and deadlines go on
    Pause {
        /// The queue
        name: String,
    },
    /// Deliver again
    Resume {
        /// The queue
        name: String,
    },
    /// Delete a queue; its stream stays as it is. On a terminal it asks first
    Delete {
        /// The queue
        name: String,
        /// Do not ask
        #[arg(long, short)]
        yes: bool,
    },
}

#[derive(Debug, Args)]
pub struct Receipts {
    /// The queue
    pub name: String,
    /// Receipts, as `queue receive` prints them
    #[arg(required = true, value_name = "RECEIPT", value_parser = receipt)]
    pub receipts: Vec<MessageReceipt>,
}

fn receipt(text: &str) -> Result<MessageReceipt, String> {
    text.parse().map_err(|error| format!("'{text}' is no receipt ({error}): take it from `millstream queue receive`"))
}

#[derive(Debug, Args)]
pub struct QueueCreate {
    /// Its name
    pub name: String,
    /// The stream that it is on
    #[arg(long)]
    pub stream: String,
    /// Where it begins: earliest, latest, an offset, a time such as 2013-01-01T10:15:00Z, or a span ago such as -10m
    #[arg(long, value_name = "WHERE", default_value = "latest", allow_hyphen_values = true)]
    pub from: Begin,
    /// Messages of one key strictly in order, one delivery at a time; needs --dead-letter, for records without a key
    #[arg(long, requires = "dead_letter")]
    pub fifo: bool,
    /// With --fifo: how many of a key one receive may take, in order; 1 to 100
    #[arg(long, value_name = "N", default_value_t = 1, requires = "fifo")]
    pub group_batch: u16,
    /// With --fifo: when a message would die its group goes on, or stands still until an operator decides
    #[arg(long, value_enum, default_value_t, requires = "fifo")]
    pub on_dead: OnDeadChoice,
    #[command(flatten)]
    pub settings: QueueSettings,
}

#[derive(Debug, Args)]
pub struct QueueUpdate {
    /// The queue
    pub name: String,
    #[command(flatten)]
    pub settings: QueueSettings,
}

/// What is not given stays as it is, or as it is by default.
#[derive(Debug, Args)]
#[command(after_help = "\
A filter is CEL over key, headers, timestamp and value (JSON): 'value.distance >= 2000.0 && headers[\"kind\"] == \"ride\"'.
It is asked once for each record; one that it fails on does not match, and is counted.")]
pub struct QueueSettings {
    /// Which messages it holds, in CEL; empty: all
    #[arg(long, value_name = "CEL")]
    pub filter: Option<String>,
    /// How long a receiver has a message for itself: 0s to 12h [default: 30s]
    #[arg(long, value_name = "SPAN", value_parser = parse_span)]
    pub visibility: Option<Duration>,
    /// Deliveries after which a message goes to the dead letters: 1 to 1000, or none [default: 5 with --dead-letter]
    #[arg(long, value_name = "N", value_parser = number_or_none)]
    pub max_receives: Option<Limit<u16>>,
    /// The stream that dead messages go to; made if it is not there, with 14 days of retention
    #[arg(long, value_name = "STREAM")]
    pub dead_letter: Option<String>,
    /// How long after its append a message is delivered: 0s to 15m [default: 0s]
    #[arg(long, value_name = "SPAN", value_parser = parse_span)]
    pub delay: Option<Duration>,
    /// How long a message waits after its first failure [default: 1s]; it doubles with each further one
    #[arg(long, value_name = "SPAN", value_parser = parse_span)]
    pub retry_min: Option<Duration>,
    /// How long it waits at most [default: 5m]
    #[arg(long, value_name = "SPAN", value_parser = parse_span)]
    pub retry_max: Option<Duration>,
    /// How long a receiver whose connection was lost keeps what it has, or none: until the deadlines [default: 5s]
    #[arg(long, value_name = "SPAN", value_parser = span_or_none)]
    pub disconnect_grace: Option<Limit<Duration>>,
    /// How long after its append a message may be delivered, or none
    #[arg(long, value_name = "SPAN", value_parser = span_or_none)]
    pub ttl: Option<Limit<Duration>>,
    /// Messages whose time has passed go to the dead letters
    #[arg(long)]
    pub keep_expired: Option<bool>,
    /// Messages out at one time, over all receivers [default: 1000000]
    #[arg(long, value_name = "N")]
    pub in_flight: Option<u32>,
}

fn span_or_none(text: &str) -> Result<Limit<Duration>, String> {
    if text == "none" { Ok(Limit::None) } else { parse_span(text).map(Limit::Some) }
}

fn number_or_none(text: &str) -> Result<Limit<u16>, String> {
    match text {
        "none" => Ok(Limit::None),
        text => text.parse().map(Limit::Some).map_err(|_| format!("'{text}' is no number: write 1 to 1000, or none")),
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub enum OnDeadChoice {
    /// It goes to the dead letters, and its group goes on
    #[default]
    Skip,
    /// It stands still, and its group with it
    Park,
}

#[derive(Debug, Args)]
#[command(after_help = "\
A message in a line: {\"receipt\",\"receives\",\"redriven\",\"first_received\",\"partition\",\"offset\",…} as `consume` prints records.
Without --ack each message comes again when its lease ends, unless its receipt is acknowledged before.")]
pub struct QueueReceive {
    /// The queue
    pub name: String,
    /// How many at most
    #[arg(long, short = 'n', value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=1_000))]
    pub count: u32,
    /// How long to wait for the first: up to 60s
    #[arg(long, value_name = "SPAN", default_value = "0s", value_parser = parse_span)]
    pub wait: Duration,
    /// How long they are this receiver's own [default: the queue's]
    #[arg(long, value_name = "SPAN", value_parser = parse_span)]
    pub visibility: Option<Duration>,
    /// Acknowledge each when it is printed
    #[arg(long)]
    pub ack: bool,
    /// Print the values alone
    #[arg(long)]
    pub values: bool,
}

#[derive(Debug, Args)]
pub struct QueuePeek {
    /// The queue
    pub name: String,
    /// How many at most; fewer come if they are large
    #[arg(long, short = 'n', value_name = "N", default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=100))]
    pub count: u32,
    /// Only of this partition
    #[arg(long, value_name = "N")]
    pub partition: Option<u32>,
    /// In each partition from this offset on
    #[arg(long, value_name = "OFFSET")]
    pub from: Option<u64>,
    /// Only those that stand parked
    #[arg(long)]
    pub parked: bool,
}

#[derive(Debug, Args)]
#[command(after_help = "\
A redrive takes what lies in the dead-letter stream when it begins, and goes on by itself, over restarts of the server. Each
letter brings its message back once. Back in its queue a message has a fresh count, and no other queue sees it.")]
pub struct QueueRedrive {
    /// The queue whose dead messages come back
    pub name: String,
    /// Which, in CEL over the letter: 'headers["ms-dl-reason"] == "rejected"'
    #[arg(long, value_name = "CEL", default_value = "")]
    pub filter: String,
    /// How many at most
    #[arg(long, value_name = "N")]
    pub limit: Option<u64>,
    /// How many a second at most
    #[arg(long, value_name = "N")]
    pub rate: Option<u32>,
    /// Copy them to this stream instead
    #[arg(long, value_name = "STREAM")]
    pub to: Option<String>,
    /// Do not wait until it is done
    #[arg(long)]
    pub detach: bool,
    /// Begin none: show how the newest one stands
    #[arg(long, conflicts_with_all = ["cancel", "filter", "limit", "rate", "to"])]
    pub status: bool,
    /// Begin none: end the one that runs
    #[arg(long, conflicts_with_all = ["filter", "limit", "rate", "to"])]
    pub cancel: bool,
}
