//! Consumer groups.

pub mod assign;
