//! The thread that reads and parses the input, so that a slow disk, a slow pipe or a slow decompressor never holds up
//! the sending. It runs at most a few blocks ahead of the sender.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use millstream_protocol::{Code, Record};
use tokio::sync::mpsc;

use super::parse::{Bad, Parsed, Rules};
use crate::cli::OnError;
use crate::input::Source;

/// Blocks read ahead: 256 KiB of text each.
const BLOCKS_AHEAD: usize = 8;

/// What the input gives, in its order.
#[derive(Debug)]
pub enum Item {
    Records(Vec<Record>),
    /// A line that is no record; with `stop` the last item.
    Bad(BadLine),
    /// The input cannot be read on: the last item.
    Broken(String),
}

/// A line that is no record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BadLine {
    pub line: u64,
    pub code: Code,
    pub reason: String,
}

/// What to read, and how.
pub struct Reader {
    pub source: Source,
    pub rules: Rules,
    pub repeat: u64,
    pub on_error: OnError,
    /// Bytes of the source, as stored, that have been read.
    pub consumed: Arc<AtomicU64>,
}

impl Reader {
    /// Starts reading; the items end with the input, or when nobody takes them any more.
    pub fn start(self) -> mpsc::Receiver<Item> {
        let (items, receiver) = mpsc::channel(BLOCKS_AHEAD);
        // Not a runtime's thread: it may wait for stdin for ever, and must not be waited for.
        let thread = std::thread::Builder::new().name("read input".into());
        let spawned = thread.spawn({
            let items = items.clone();
            move || self.run(&items)
        });
        if let Err(error) = spawned {
            let _ = items.try_send(Item::Broken(format!("cannot start a thread: {error}")));
        }
        receiver
    }

    /// `None` if nobody takes items any more, or there can be no more.
    fn run(&self, items: &mpsc::Sender<Item>) -> Option<()> {
        for _ in 0..self.repeat {
            self.pass(items)?;
        }
        Some(())
    }

    fn pass(&self, items: &mpsc::Sender<Item>) -> Option<()> {
        let name = self.source.name();
        let mut line = 0;
        let opened = self.source.open(Arc::clone(&self.consumed));
        let mut lines = match opened {
            Ok(lines) => lines,
            Err(error) => {
                let _ = items.blocking_send(Item::Broken(format!("cannot read {name}: {error}")));
                return None;
            }
        };
        loop {
            let block = match lines.next_block() {
                Ok(Some(block)) => block,
                Ok(None) => return Some(()),
                Err(error) => {
                    let text = format!("cannot read {name} beyond line {line}: {error}");
                    let _ = items.blocking_send(Item::Broken(text));
                    return None;
                }
            };
            let mut records = Vec::with_capacity(block.len());
            for text in block {
                line += 1;
                match self.rules.parse(text) {
                    Parsed::Record(record) => records.push(record),
                    Parsed::Blank => {}
                    Parsed::Bad(Bad { code, reason }) => {
                        send(items, std::mem::take(&mut records))?;
                        items.blocking_send(Item::Bad(BadLine { line, code, reason })).ok()?;
                        if self.on_error == OnError::Stop {
                            return None;
                        }
                    }
                }
            }
            send(items, records)?;
        }
    }
}

fn send(items: &mpsc::Sender<Item>, records: Vec<Record>) -> Option<()> {
    if records.is_empty() { Some(()) } else { items.blocking_send(Item::Records(records)).ok() }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;
    use crate::cli::InputFormat;

    fn read(text: &str, repeat: u64, on_error: OnError) -> Vec<String> {
        let mut file = tempfile::NamedTempFile::new().expect("a file");
        file.write_all(text.as_bytes()).expect("written");
        let rules = Rules { format: InputFormat::Ndjson, key: None, dedup_id: None, record_bytes_max: 1_000 };
        let source = Source::File(file.path().into());
        let mut items = Reader { source, rules, repeat, on_error, consumed: Arc::default() }.start();
        let mut seen = Vec::new();
        while let Some(item) = items.blocking_recv() {
            match item {
                Item::Records(records) => seen.extend(records.iter().map(|_| "record".to_owned())),
                Item::Bad(bad) => seen.push(format!("bad line {}", bad.line)),
                Item::Broken(reason) => seen.push(reason),
            }
        }
        seen
    }

    #[test]
    fn a_bad_line_comes_where_it_stands_and_stops_only_if_it_should() {
        let text = "{}\n\n{}\nno\n{}\n";
        assert_eq!(read(text, 2, OnError::Stop), ["record", "record", "bad line 4"]);
        assert_eq!(read(text, 1, OnError::Skip), ["record", "record", "bad line 4", "record"]);
        assert_eq!(read("{}\n", 3, OnError::Stop), ["record"; 3]);
    }

    #[test]
    fn an_input_that_is_not_there_is_named() {
        let rules = Rules { format: InputFormat::Lines, key: None, dedup_id: None, record_bytes_max: 1 };
        let source = Source::File("/nowhere/x.ndjson".into());
        let mut items = Reader { source, rules, repeat: 1, on_error: OnError::Stop, consumed: Arc::default() }.start();
        let Some(Item::Broken(reason)) = items.blocking_recv() else { panic!("it cannot be read") };
        assert!(reason.contains("/nowhere/x.ndjson"), "{reason}");
    }
}
