//! A ledger's passes and snapshots as bytes: rkyv archives under a version byte.

use millstream_log::Machine;
use rkyv::{Archive, Deserialize, Serialize, rancor};

use super::event::{Adopted, Dying, Mark, Pass};
use super::ledger::{First, Ledger, Tally};
use super::settled::{Settled, decode_set, encode_set};

const VERSION: u8 = 1;

#[derive(Archive, Serialize, Deserialize)]
struct FirstImage {
    base: u64,
    fence: u64,
    at_ms: u64,
    len: u32,
    left: u32,
}

#[derive(Archive, Serialize, Deserialize)]
struct MarkImage {
    offset: u64,
    mark: Mark,
}

#[derive(Archive, Serialize, Deserialize)]
struct DyingImage {
    dying: Dying,
    /// Whether its message is settled by its arrival: not if it was settled otherwise meanwhile, or has come back since.
    is_open: bool,
}

#[derive(Archive, Serialize, Deserialize)]
struct Image {
    epoch: u32,
    judged: u64,
    fence: u64,
    floor: u64,
    /// See [`Settled::encode`].
    settled: Vec<u8>,
    marks: Vec<MarkImage>,
    delayed: Vec<(u64, u64)>,
    firsts: Vec<FirstImage>,
    dying: Vec<DyingImage>,
    adopted: Vec<(u64, Adopted)>,
    /// Sets of offsets as [`Settled::encode`] has them.
    letters: Vec<(u64, Vec<u8>)>,
    sequences: Vec<(u32, u64)>,
    /// In the order of [`Tally`]'s fields.
    tally: [u64; 8],
}

impl Machine for Ledger {
    type Event = Pass;

    fn apply(&mut self, event: &Pass) {
        self.apply_pass(event);
    }

    fn encode_event(event: &Pass) -> Vec<u8> {
        let archive = rkyv::to_bytes::<rancor::Error>(event).expect("flat types always archive");
        [&[VERSION], archive.as_slice()].concat()
    }

    fn decode_event(bytes: &[u8]) -> Result<Pass, String> {
        rkyv::from_bytes::<Pass, rancor::Error>(body(bytes)?).map_err(|error| error.to_string())
    }

    fn encode_snapshot(&self) -> Vec<u8> {
        let Tally { acked, filtered, dead, expired, expired_by_retention, removed, lost, purged } = self.tally;
        let first = |(base, first): (&u64, &First)| FirstImage {
            base: *base,
            fence: first.fence,
            at_ms: first.at_ms,
            len: first.len,
            left: first.left,
        };
        let dying = |(way, dying): (&(u32, u64), &Dying)| DyingImage {
            dying: dying.clone(),
            is_open: self.dying_at.get(&dying.offset) == Some(way),
        };
        let image = Image {
            epoch: self.epoch,
            judged: self.judged,
            fence: self.fence,
            floor: self.settled.floor(),
            settled: self.settled.encode(),
            marks: self.marks.iter().map(|(offset, mark)| MarkImage { offset: *offset, mark: *mark }).collect(),
            delayed: self.delayed.iter().map(|(offset, due_ms)| (*offset, *due_ms)).collect(),
            firsts: self.firsts.iter().map(first).collect(),
            dying: self.dying.iter().map(dying).collect(),
            adopted: self.adopted.iter().map(|(offset, adopted)| (*offset, *adopted)).collect(),
            letters: self.letters.iter().map(|(incarnation, letters)| (*incarnation, encode_set(letters))).collect(),
            sequences: self.sequences.iter().map(|(target, next)| (*target, *next)).collect(),
            tally: [acked, filtered, dead, expired, expired_by_retention, removed, lost, purged],
        };
        let archive = rkyv::to_bytes::<rancor::Error>(&image).expect("flat types always archive");
        [&[VERSION], archive.as_slice()].concat()
    }

    fn decode_snapshot(bytes: &[u8]) -> Result<Self, String> {
        let image = rkyv::from_bytes::<Image, rancor::Error>(body(bytes)?).map_err(|error| error.to_string())?;
        let [acked, filtered, dead, expired, expired_by_retention, removed, lost, purged] = image.tally;
        let first = |image: FirstImage| {
            let FirstImage { base, fence, at_ms, len, left } = image;
            (base, First { fence, at_ms, len, left })
        };
        let letters = image.letters.iter().map(|(incarnation, bytes)| Ok((*incarnation, decode_set(bytes)?)));
        let way = |dying: &Dying| (dying.target, dying.sequence);
        let open = image.dying.iter().filter(|image| image.is_open).map(|image| &image.dying);
        Ok(Self {
            epoch: image.epoch,
            judged: image.judged,
            fence: image.fence,
            settled: Settled::decode(image.floor, &image.settled)?,
            marks: image.marks.into_iter().map(|image| (image.offset, image.mark)).collect(),
            delayed: image.delayed.into_iter().collect(),
            firsts: image.firsts.into_iter().map(first).collect(),
            dying_at: open.map(|dying| (dying.offset, way(dying))).collect(),
            dying: image.dying.into_iter().map(|image| (way(&image.dying), image.dying)).collect(),
            adopted: image.adopted.into_iter().collect(),
            letters: letters.collect::<Result<_, String>>()?,
            sequences: image.sequences.into_iter().collect(),
            tally: Tally { acked, filtered, dead, expired, expired_by_retention, removed, lost, purged },
        })
    }
}

fn body(bytes: &[u8]) -> Result<&[u8], String> {
    match bytes.split_first() {
        Some((&VERSION, archive)) => Ok(archive),
        other => Err(format!("unknown version {:?}", other.map(|(version, _)| version))),
    }
}
