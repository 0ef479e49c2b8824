//! Filters: CEL over a record's key, headers, timestamp and JSON value. Compiled once, evaluated in bounded time and memory.
//!
//! ```
//! use millstream_filter::{Candidate, Filter};
//! # use millstream_protocol::batch::{BatchBuilder, BatchView, Codec};
//! # use millstream_protocol::Record;
//! # let mut builder = BatchBuilder::new(Codec::None);
//! # builder.push(&Record::new(r#"{"distance": 2475, "carrier": "UA"}"#)).unwrap();
//! # let mut records = BatchView::parse(&builder.finish().unwrap()).unwrap().records().unwrap();
//! # let record = records.next_ref().unwrap().unwrap();
//! let far = Filter::compile(r#"value.distance >= 2000.0 && value.carrier == "UA""#)?;
//! let candidate = Candidate::new(&record);             // one for all filters of a record: the value is parsed once
//! assert_eq!(far.matches(&candidate), Ok(true));
//!
//! let error = Filter::compile("value.distance => 2000").unwrap_err();
//! assert_eq!(error.to_string(), "filter, byte 15: `=` is no operator: compare with ==");
//! # Ok::<(), millstream_filter::FilterInvalid>(())
//! ```
//!
//! **What a filter reads.** `key`: text, or bytes if it is not UTF-8, null if absent. `headers`: a map of name to text, or
//! bytes; the last of a repeated name; null for a header without a value. `timestamp`: the record's, in UTC. `value`: JSON
//! ([`Reason::NotJson`] if it is not), null for a tombstone.
//!
//! **The language** is CEL's: literals, lists, `== != < <= > >= in + - * / % ! && || ?:`, members and indexes, `has`, the macros `all`,
//! `exists`, `exists_one`, `filter` and `map`, one inside none other; the functions of `functions.rs`, of which `like`, `in_cidr`
//! and `subject` are ours. Not here: maps and messages as literals, unsigned numbers, regular expressions, time zones.
//!
//! **Two kinds of errors.** [`FilterInvalid`] at creation, with the place: syntax, unknown names and functions, what could
//! never be true. [`FilterError`] on a record: a missing member, null compared, not JSON; such a record does not match,
//! and the caller counts it. `||` and `&&` outweigh an error on one side if the other decides.
//!
//! **Bounds**, in `millstream_protocol::limits`: 1 KiB of text, 256 operators, 16 brackets deep; 262,144 steps an evaluation; JSON of 64
//! levels and 262,144 values.
//!
//! **What it costs** (`examples/speed.rs` at opt-level 3, on two busy cores, 2026-11-26, several runs; the example above on the
//! flights sample, 258 bytes a record): reading the JSON 0.9 to 1.6 µs, once for all filters of a record; an evaluation 0.11 to
//! 0.15 µs, or 0.2 to 0.5 µs on a record that is in no cache. The worst: 25 to 80 ms to read a record of as many JSON values as may
//! be, and 5 to 18 ms for the greediest filter on it (`x in value.l` for each `x` in `value.l` ends after 8). Compiling takes 0.15 to
//! 2 ms, most of it the thread's start. An evaluation needs less than 512 KiB of stack.
//!
//! **Why an interpreter of our own.** The crate `cel` parses; its interpreter has no bound on work (a macro over a list in a
//! large record, `+` on long strings, errors that copy their operands), and takes 0.4 to 0.8 µs for the same filter in the same
//! runs, three to five times ours, which twenty queues on one stream would pay twenty times. `tests/differential.rs` holds ours
//! against it: the same answers on what both do.
//!
//! **Not done**: reading only the members that filters name. Walking over the rest while still checking it as strictly (so that
//! no filter's answer depends on which others there are) took 0.6 µs where reading all took 1.4, so at most half could be saved.
//!
//! Proof: `tests/operators.rs` (every operator of SNS and EventBridge, each error), `tests/hostile.rs` (no text and no record
//! aborts, panics or stalls), `tests/differential.rs`; `examples/speed.rs` prints what it costs.
#![forbid(unsafe_code)]
#![deny(missing_docs)]

mod budget;
mod candidate;
mod compile;
mod error;
mod evaluate;
mod functions;
mod json;
mod lower;
mod node;
mod scan;
mod text;
mod time;
mod value;

use std::fmt;
use std::sync::Arc;

pub use candidate::Candidate;
pub use error::{FilterError, FilterInvalid, Reason, ValueType};

use crate::evaluate::Evaluation;
use crate::lower::Roots;
use crate::node::{Kind, Node};
use crate::value::Value;

/// A compiled filter. A clone shares it.
#[derive(Clone)]
pub struct Filter {
    compiled: Arc<Compiled>,
}

struct Compiled {
    text: Box<str>,
    root: Node,
    roots: Roots,
}

impl Filter {
    /// Compiles a text. Waits about a millisecond, for a thread on which the parser may recurse.
    ///
    /// # Errors
    /// [`FilterInvalid`]: the text is not CEL, too large, names or calls what there is not, or could never be true.
    pub fn compile(text: &str) -> Result<Self, FilterInvalid> {
        let (root, roots) = compile::compile(text)?;
        Ok(Self { compiled: Arc::new(Compiled { text: text.into(), root, roots }) })
    }

    /// The text it was compiled from.
    pub fn text(&self) -> &str {
        &self.compiled.text
    }

    /// Whether it names `value`, so that records must be parsed as JSON.
    pub fn needs_value(&self) -> bool {
        self.compiled.roots.value
    }

    /// Whether it names `headers`.
    pub fn needs_headers(&self) -> bool {
        self.compiled.roots.headers
    }

    /// Whether it matches every record, so that none needs to be asked.
    pub fn is_always_true(&self) -> bool {
        matches!(self.compiled.root.kind, Kind::Constant(Value::Bool(true)))
    }

    /// Whether the record matches. Never blocks; bounded in time and memory (see the crate's first page).
    ///
    /// # Errors
    /// [`FilterError`]: the filter has no answer for this record. It does not match; count it.
    pub fn matches(&self, candidate: &Candidate<'_>) -> Result<bool, FilterError> {
        Evaluation::of(candidate).truth(&self.compiled.root)
    }
}

impl fmt::Debug for Filter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Filter").field(&self.text()).finish()
    }
}

impl PartialEq for Filter {
    fn eq(&self, other: &Self) -> bool {
        self.text() == other.text()
    }
}

impl Eq for Filter {}

const _: () = {
    const fn is_send_and_sync<T: Send + Sync>() {}
    is_send_and_sync::<Filter>();
};
