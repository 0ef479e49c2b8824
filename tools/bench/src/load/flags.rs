//! A load's settings as flags: each that is given replaces the scenario's or workload's.

use clap::Args;
use clap::builder::RangedU64ValueParser;
use millstream_client::ByteSize;

use super::duration::Time;
use super::keys::Keys;
use super::payload::Payload;
use super::{Acks, Compression, Load, Scenario};

fn range<T: TryFrom<u64> + Clone + Send + Sync + 'static>(from: u64, to: u64) -> RangedU64ValueParser<T>
where
    <T as TryFrom<u64>>::Error: Send + Sync + 'static + std::error::Error,
{
    RangedU64ValueParser::<T>::new().range(from..=to)
}

fn rate(text: &str) -> Result<f64, String> {
    let (number, factor) = match text.strip_suffix(['k', 'K']) {
        Some(number) => (number, 1e3),
        None => text.strip_suffix(['m', 'M']).map_or((text, 1.0), |number| (number, 1e6)),
    };
    match number.replace('_', "").parse::<f64>() {
        Ok(rate) if (0.01..=1e9).contains(&(rate * factor)) => Ok(rate * factor),
        _ => Err("use 0.01 to 1000000000 records a second".to_owned()),
    }
}

/// What a run is told on the command line.
#[derive(Debug, Clone, Default, Args)]
pub struct LoadFlags {
    /// The stream; made if it is not there [default: one of the run's own, deleted at the end]
    #[arg(long, value_name = "NAME", help_heading = "Stream")]
    pub stream: Option<String>,
    /// How many partitions it is made with
    #[arg(long, value_name = "N", value_parser = range::<u32>(1, 10_000), help_heading = "Stream")]
    pub partitions: Option<u32>,
    /// What an ack means, if it is made: on the disk, or in the page cache
    #[arg(long, value_enum, help_heading = "Stream")]
    pub durability: Option<Acks>,
    /// Delete nothing at the end
    #[arg(long, help_heading = "Stream")]
    pub keep: bool,

    /// How many producers send
    #[arg(long, value_name = "N", value_parser = range::<u32>(1, 10_000), help_heading = "Who")]
    pub producers: Option<u32>,
    /// How many consumers share the partitions; of a queue, how many work on it; of a group, how many are in it. Several
    /// values: a run for each
    #[arg(long, value_name = "N,…", value_delimiter = ',', value_parser = range::<u32>(1, 10_000), help_heading = "Who")]
    pub consumers: Vec<u32>,
    /// How many subscribers read everything, each with that many consumers
    #[arg(long, value_name = "N", value_parser = range::<u32>(0, 1_000), help_heading = "Who")]
    pub subscribers: Option<u32>,
    /// How many members the group has
    #[arg(long, value_name = "N", value_parser = range::<u32>(1, 1_000), help_heading = "Who")]
    pub members: Option<u32>,
    /// How many queues are on the stream
    #[arg(long, value_name = "N", value_parser = range::<u32>(0, 1_000), help_heading = "Who")]
    pub queues: Option<u32>,
    /// How many work on each queue
    #[arg(long, value_name = "N", value_parser = range::<u32>(1, 10_000), help_heading = "Who")]
    pub workers: Option<u32>,
    /// Over how many connections they come; producers and consumers are spread over them [default: one each]
    #[arg(long, value_name = "N", value_parser = range::<u32>(1, 10_000), help_heading = "Who")]
    pub connections: Option<u32>,

    /// Send at this rate, over all producers, whatever the server does; latencies run from the time when each record was to be
    /// sent. `max`: as fast as they are taken
    #[arg(long, value_name = "RECORDS/S", value_parser = RateParser, help_heading = "How much")]
    pub rate: Option<Rate>,
    /// How long it runs before anything is counted
    #[arg(long, value_name = "TIME", help_heading = "How much")]
    pub warm_up: Option<Time>,
    /// How long it is counted [default: 10s, without --records]
    #[arg(long, value_name = "TIME", help_heading = "How much")]
    pub duration: Option<Time>,
    /// How many records are counted, over all producers
    #[arg(long, value_name = "N", value_parser = range::<u64>(1, 1 << 50), help_heading = "How much")]
    pub records: Option<u64>,
    /// Send so many records before anyone reads
    #[arg(long, value_name = "RECORDS", value_parser = range::<u64>(1, 1 << 50), help_heading = "How much")]
    pub backlog: Option<u64>,
    /// Producers wait while so many records are not yet read by all
    #[arg(long, value_name = "RECORDS", value_parser = range::<u32>(256, 100_000_000), help_heading = "How much")]
    pub outstanding: Option<u32>,

    /// The size of a record's value; from 32 bytes on it says who sent it, and when
    #[arg(long, value_name = "SIZE", help_heading = "Records")]
    pub record_size: Option<ByteSize>,
    /// What values are made of: random, compressible (to about a half), or file:PATH, whose lines are sent
    #[arg(long, value_name = "KIND", help_heading = "Records")]
    pub payload: Option<Payload>,
    /// Which keys records have: none, uniform:N, zipf:N[:EXPONENT], hot:N:SHARE
    #[arg(long, value_name = "KEYS", help_heading = "Records")]
    pub keys: Option<Keys>,
    /// Where random numbers begin
    #[arg(long, value_name = "N", help_heading = "Records")]
    pub seed: Option<u64>,

    /// When a batch is full [default: the client's, 256 KiB]
    #[arg(long, value_name = "SIZE", help_heading = "Producers")]
    pub batch_size: Option<ByteSize>,
    /// How long a record waits for others [default: the client's, 5ms]
    #[arg(long, value_name = "TIME", help_heading = "Producers")]
    pub linger: Option<Time>,
    /// How many batches may wait for their acks [default: the client's, 64]
    #[arg(long, value_name = "N", value_parser = range::<u32>(1, 4_096), help_heading = "Producers")]
    pub in_flight: Option<u32>,
    /// How batches are compressed
    #[arg(long, value_enum, help_heading = "Producers")]
    pub compression: Option<Compression>,
    /// Send the next record when the last is acknowledged
    #[arg(long, help_heading = "Producers")]
    pub one_at_a_time: bool,

    /// Queues keep the order of each key
    #[arg(long, help_heading = "Readers")]
    pub fifo: bool,
    /// The same, with so many keys: --fifo --keys uniform:N
    #[arg(long, value_name = "N", value_parser = range::<u64>(1, 1 << 40), conflicts_with_all = ["keys", "fifo"], help_heading = "Readers")]
    pub groups: Option<u64>,
    /// Messages that a queue's worker may have unsettled
    #[arg(long, value_name = "N", value_parser = range::<u32>(1, 10_000), help_heading = "Readers")]
    pub window: Option<u32>,
    /// How old the records of a lake's file may be
    #[arg(long, value_name = "TIME", help_heading = "Readers")]
    pub roll_age: Option<Time>,
    /// Where the lake lands: file:///DIR, s3://BUCKET/PREFIX, … [default: a directory of the run's own, deleted at the end]
    #[arg(long, value_name = "URL", help_heading = "Readers")]
    pub lake_url: Option<String>,
    /// Count what is read, and look at it no further
    #[arg(long, help_heading = "Readers")]
    pub no_verify: bool,
    /// How long readers may take for what was sent, after the last was
    #[arg(long, value_name = "TIME", help_heading = "Readers")]
    pub drain_timeout: Option<Time>,
}

/// A rate, or none.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Rate(pub Option<f64>);

/// Reads `1000`, `50k`, `1.5M`, `max`.
#[derive(Debug, Clone, Copy)]
pub struct RateParser;

impl RateParser {
    /// Reads one.
    pub fn read(text: &str) -> Result<Rate, String> {
        if text == "max" { Ok(Rate(None)) } else { rate(text).map(|rate| Rate(Some(rate))) }
    }
}

impl clap::builder::TypedValueParser for RateParser {
    type Value = Rate;

    fn parse_ref(
        &self,
        command: &clap::Command,
        arg: Option<&clap::Arg>,
        value: &std::ffi::OsStr,
    ) -> Result<Rate, clap::Error> {
        clap::builder::StringValueParser::new().try_map(|text| Self::read(&text)).parse_ref(command, arg, value)
    }
}

impl LoadFlags {
    /// Puts what was given over a load. Of several `--consumers` the first.
    pub fn apply(&self, load: &mut Load) {
        macro_rules! replace {
            ($($name:ident),*) => { $(if let Some(value) = &self.$name { load.$name = value.clone(); })* };
        }
        macro_rules! replace_option {
            ($($name:ident),*) => { $(if let Some(value) = self.$name { load.$name = Some(value); })* };
        }
        replace!(
            durability,
            producers,
            subscribers,
            members,
            queues,
            workers,
            connections,
            warm_up,
            payload,
            keys,
            seed,
            compression,
            window,
            roll_age,
            drain_timeout
        );
        replace_option!(partitions, backlog, outstanding, linger, in_flight);
        if let Some(count) = self.consumers.first() {
            Self::set_consumers(load, *count);
        }
        if let Some(Rate(rate)) = self.rate {
            load.rate = rate;
            // At a set rate nobody waits for readers, unless that is asked for.
            load.outstanding = load.outstanding.filter(|_| rate.is_none() || self.outstanding.is_some());
        }
        match (self.records, self.duration) {
            (None, None) => {}
            (records, duration) => (load.records, load.duration) = (records, duration),
        }
        if load.scenario == Scenario::Consume && self.stream.is_some() && self.backlog.is_none() {
            load.backlog = None;
        }
        if let Some(groups) = self.groups {
            (load.fifo, load.keys) = (true, Keys::Uniform(groups));
        }
        for (flag, setting) in [(&self.stream, &mut load.stream), (&self.lake_url, &mut load.lake_url)] {
            if flag.is_some() {
                setting.clone_from(flag);
            }
        }
        if let Some(size) = self.record_size {
            load.record_size = size.bytes();
        }
        if let Some(size) = self.batch_size {
            load.batch_size = Some(size.bytes());
        }
        load.keep |= self.keep;
        load.fifo |= self.fifo;
        load.one_at_a_time |= self.one_at_a_time;
        load.verify &= !self.no_verify;
    }

    /// Who is meant by consumers depends on who reads.
    pub fn set_consumers(load: &mut Load, count: u32) {
        match load.scenario {
            Scenario::Queue => load.workers = count,
            Scenario::Group => load.members = count,
            _ => load.consumers = count,
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::{CommandFactory, Parser};

    use super::*;

    #[derive(Debug, Parser)]
    struct Only {
        #[command(flatten)]
        flags: LoadFlags,
    }

    fn load(scenario: Scenario, flags: &[&str]) -> Load {
        let parsed = Only::try_parse_from(std::iter::once(&"x").chain(flags)).expect("legal flags");
        let mut load = Load::of(scenario);
        parsed.flags.apply(&mut load);
        load
    }

    #[test]
    fn the_definition_is_consistent() {
        Only::command().debug_assert();
    }

    #[test]
    fn a_flag_replaces_what_the_scenario_says_and_nothing_else() {
        let mut expected = Load::of(Scenario::Queue);
        (expected.workers, expected.fifo, expected.keys) = (16, true, Keys::Uniform(100));
        (expected.records, expected.duration) = (Some(5), None);
        assert_eq!(load(Scenario::Queue, &["--consumers", "16,4", "--groups", "100", "--records", "5"]), expected);
        assert_eq!(load(Scenario::Mixed, &[]), Load::of(Scenario::Mixed));
    }

    #[test]
    fn a_rate_is_open_loop_and_waits_for_no_reader() {
        let at_rate = load(Scenario::Queue, &["--rate", "50k"]);
        assert_eq!((at_rate.rate, at_rate.outstanding), (Some(50_000.0), None));
        assert_eq!(load(Scenario::Lake, &["--rate", "max"]).rate, None);
        let both = load(Scenario::Queue, &["--rate", "1", "--outstanding", "300"]);
        assert_eq!(both.outstanding, Some(300));
    }

    #[test]
    fn a_value_out_of_range_is_refused() {
        for flags in
            [["--partitions", "0"], ["--rate", "-1"], ["--keys", "zipf"], ["--duration", "x"], ["--in-flight", "5000"]]
        {
            assert!(Only::try_parse_from(["x"].iter().chain(&flags)).is_err(), "{flags:?}");
        }
    }
}
