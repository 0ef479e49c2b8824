//! A lake under torture: what its producers send, where it lands, and whether all of that is there when others read it.
//!
//! Everything about a record follows from its number: its bytes, its time, whether it can land, its directory. So a
//! row, found anywhere, is judged without knowing who sent it when.

mod layout;
mod producers;
mod read;
mod records;
mod store;

pub use layout::Layout;
pub use producers::{Pace, Producers, Sent};
pub use read::{Findings, Landed, Truth, read_back, truth};
pub use records::Maker;
pub use store::{Asked, LakeStore, Reading};
