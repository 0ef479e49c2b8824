//! Queues: message processing as a view over the log.
//!
//! One stored copy of a record, and on it any number of queues, each with its own state for every message: settled or not,
//! who has it, how often it was tried. The state of one queue on one partition is a machine, [`PartitionQueue`]; what of it
//! must outlive the process is its [`Ledger`], which is a state log's machine. Behaviour follows what users of SQS, RabbitMQ
//! and JetStream know, with exact counts and fences.
//!
//! | file | what it decides |
//! | --- | --- |
//! | `machine` | the deliveries of one partition: what is next, leases, verbs, ends |
//! | `ledger`, `event`, `encoding` | what is durable of it, and how it is stored |
//! | `leases` | who has which message, until when |
//! | `pending` | what of a pass is stored, in which order |
//! | `settled` | the ack floor, and the compressed set above it |
//! | `fresh` | what was never delivered, by when it may be |
//! | `groups` | FIFO groups: what waits in each, which are locked, whose turn it is |
//! | `timers` | deadlines and delays of millions of messages |
//! | `attempts` | what a receive got, for one that is made again |
//! | `receivers` | who receives, how much each may have, whose turn it is |
//! | `worker`, `running`, `part` | the shell: threads, one queue, one queue on one partition |
//! | `rules` | filters and delays, each from an offset on |
//! | `floors` | how far it is durably: what retention by interest asks |
//! | `feed`, `dead_letters` | the records that a queue reads; the letters that it writes |
//! | `letters`, `redrive` | dead letters read again; the tasks that bring their messages back |
//! | `peek`, `operators` | what operators see and do |
//! | `shell`, `types` | the in-process API |
//! | `recent` | which delivery settled what, for answers to acks that come twice |

mod attempts;
mod dead_letters;
mod encoding;
mod event;
mod feed;
mod floors;
mod fresh;
mod groups;
mod leases;
mod ledger;
mod letters;
mod machine;
mod operators;
mod part;
mod peek;
mod pending;
mod receivers;
mod recent;
mod redrive;
mod rules;
mod running;
mod settings;
mod settled;
mod shell;
mod timers;
mod types;
mod worker;

pub use event::{Adopted, Dying, Event, How, Mark, Pass, Reason};
pub use leases::ReceiverId;
pub use ledger::{Ledger, Tally};
pub use machine::{Adoption, Counts, Delivery, Glance, PartitionQueue, Receipt, Refusal, Standing, Verdict};
pub use settings::{Backoff, GROUP_BATCH_MAX, NACK_DELAY_MS_MAX, Now, Ordering, RELEASES_MAX, Settings};
pub(crate) use shell::QueueShell;
pub use shell::{QueueHandle, QueueReceiver};
pub use types::{
    Act, Delivered, Outlet, ParkedAt, PartState, Peeked, Pulling, QueueState, Receiving, RedriveCounts, RedriveOptions,
    RedriveState, RedriveStatus, RedriveTo, Unpark, Verb, VerbResult,
};
