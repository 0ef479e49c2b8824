//! `millstream verify`: reads every batch of a data directory that no server has open, and says what it found.

use std::path::Path;

use millstream_log::{Damage, Identity, InternalLog, Kind, LogError, PartitionReport};
use millstream_protocol::{ByteSize, Code, Offset, StreamId};
use serde::Serialize;

use crate::context::serve_command;
use crate::exit::{Exit, Failure};
use crate::output::{Align, Output, Table, count, counted};

#[derive(Serialize)]
struct PartitionView {
    #[serde(skip)]
    identity: Identity,
    stream: u64,
    partition: u32,
    what: &'static str,
    segments: u64,
    batches: u64,
    records: u64,
    bytes: u64,
    first_offset: u64,
    next_offset: u64,
    damage: Vec<DamageView>,
}

#[derive(Serialize)]
struct DamageView {
    file: String,
    position: u64,
    from: u64,
    resume: Option<u64>,
    reason: String,
    accepted: bool,
}

#[derive(Serialize)]
struct View {
    data_dir: String,
    batches: u64,
    records: u64,
    bytes: u64,
    damaged_places: u64,
    accepted_places: u64,
    partitions: Vec<PartitionView>,
}

/// Verifies the directory; with `accept_loss` it then records that what is damaged is to be passed over.
///
/// # Errors
/// Exit 50: damage that nobody has accepted; 70: the directory cannot be read, is not ours, or is in use.
pub fn run(data_dir: &Path, accept_loss: bool, output: Output) -> Result<(), Failure> {
    let whole = verify(data_dir)?;
    if !accept_loss || whole.damaged_places == 0 {
        return report(&whole, output);
    }
    let losses: Vec<_> = whole.losses().collect();
    if losses.is_empty() {
        return Err(damage_failure(&whole).or_try("only damaged records can be accepted as lost"));
    }
    millstream_log::accept_losses(data_dir, &losses).map_err(|error| failure(data_dir, &error))?;
    for (identity, from, resume) in &losses {
        output.note(&format!(
            "accepted: stream {}, partition {}, the records {from}..{resume} are lost",
            identity.stream, identity.partition
        ));
    }
    report(&verify(data_dir)?, output)
}

fn verify(data_dir: &Path) -> Result<View, Failure> {
    let mut partitions = Vec::new();
    let verified = millstream_log::verify(data_dir, &mut |report| partitions.push(view(report)));
    verified.map_err(|error| failure(data_dir, &error))?;
    let sum = |of: fn(&PartitionView) -> u64| partitions.iter().map(of).sum::<u64>();
    Ok(View {
        data_dir: data_dir.display().to_string(),
        batches: sum(|p| p.batches),
        records: sum(|p| p.records),
        bytes: sum(|p| p.bytes),
        damaged_places: sum(|p| p.damage.iter().filter(|damage| !damage.accepted).count() as u64),
        accepted_places: sum(|p| p.damage.iter().filter(|damage| damage.accepted).count() as u64),
        partitions,
    })
}

impl View {
    /// Damaged records whose offsets are known: what can be accepted as lost.
    fn losses(&self) -> impl Iterator<Item = (Identity, Offset, Offset)> {
        let records = self.partitions.iter().filter(|partition| partition.identity.kind == Kind::Records);
        records.flat_map(|partition| {
            let open = partition.damage.iter().filter(|damage| !damage.accepted);
            open.filter_map(|damage| {
                let resume = damage.resume.filter(|resume| *resume > damage.from)?;
                Some((partition.identity, Offset(damage.from), Offset(resume)))
            })
        })
    }
}

fn report(whole: &View, output: Output) -> Result<(), Failure> {
    output.result(whole, |paint| {
        let verdict = match whole.damaged_places {
            0 if whole.accepted_places > 0 => paint.green(&format!(
                "every batch is whole but for {} accepted as lost",
                counted(whole.accepted_places, "place")
            )),
            0 => paint.green("every batch is whole"),
            n => paint.red(&format!("{} damaged", counted(n, "place"))),
        };
        let (batches, size) = (counted(whole.batches, "batch"), ByteSize(whole.bytes));
        format!("{}\n\n{}: {verdict} ({batches}, {size})", table(whole).render(paint), whole.data_dir)
    })?;
    if whole.damaged_places == 0 {
        return Ok(());
    }
    Err(damage_failure(whole))
}

fn table(whole: &View) -> Table {
    let mut table = Table::new(&[
        ("STREAM", Align::Right),
        ("PARTITION", Align::Right),
        ("WHAT", Align::Left),
        ("SEGMENTS", Align::Right),
        ("BATCHES", Align::Right),
        ("RECORDS", Align::Right),
        ("SIZE", Align::Right),
        ("OFFSETS", Align::Right),
        ("DAMAGE", Align::Right),
    ]);
    for partition in &whole.partitions {
        table.row([
            partition.stream.to_string(),
            partition.partition.to_string(),
            partition.what.into(),
            count(partition.segments),
            count(partition.batches),
            count(partition.records),
            ByteSize(partition.bytes).to_string(),
            format!("{}..{}", partition.first_offset, partition.next_offset),
            match partition.damage.len() {
                0 => "none".into(),
                n => counted(n as u64, "place"),
            },
        ]);
    }
    table
}

fn damage_failure(whole: &View) -> Failure {
    let mut text = format!("{} damaged:", counted(whole.damaged_places, "place"));
    for partition in &whole.partitions {
        for damage in partition.damage.iter().filter(|damage| !damage.accepted) {
            let upto = damage.resume.map_or("the end".into(), |resume| format!("offset {resume}"));
            text += &format!(
                "\n  stream {}, partition {}, from offset {} to {upto}: {} ({} at byte {})",
                partition.stream, partition.partition, damage.from, damage.reason, damage.file, damage.position
            );
        }
    }
    Failure::new(Exit::Code(Code::RecordsLost), text).or_try(
        "restore the directory from a backup; a server serves what is whole and names what is lost; \
                 `millstream verify --accept-loss` lets consumers pass over it",
    )
}

fn failure(data_dir: &Path, error: &LogError) -> Failure {
    match error {
        LogError::NotADataDirectory { .. } => {
            let text = format!("{} is not a Millstream data directory", data_dir.display());
            Failure::local(text).or_try(serve_command(data_dir))
        }
        LogError::RecordsLost { .. } | LogError::StateDamaged { .. } => {
            Failure::new(Exit::Code(error.code()), error.to_string())
        }
        other => Failure::local(other.to_string()),
    }
}

fn view(report: PartitionReport) -> PartitionView {
    let what = match (report.stream, report.is_state) {
        (StreamId(0), _) => {
            let internal = InternalLog::ALL.into_iter().find(|log| log.partition() == report.partition);
            internal.map_or("internal", InternalLog::name)
        }
        (_, true) => "state",
        (_, false) => "records",
    };
    let damage = |damage: Damage| DamageView {
        file: damage.file,
        position: damage.position,
        from: damage.from.0,
        resume: damage.resume.map(|offset| offset.0),
        reason: damage.reason,
        accepted: damage.is_accepted,
    };
    PartitionView {
        identity: Identity {
            stream: report.stream,
            partition: report.partition,
            incarnation: report.incarnation,
            kind: if report.is_state { Kind::State } else { Kind::Records },
        },
        stream: report.stream.0,
        partition: report.partition.0,
        what,
        segments: report.segments,
        batches: report.batches,
        records: report.records,
        bytes: report.bytes,
        first_offset: report.offsets.0.0,
        next_offset: report.offsets.1.0,
        damage: report.damage.into_iter().map(damage).collect(),
    }
}
