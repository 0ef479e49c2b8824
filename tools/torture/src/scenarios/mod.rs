//! What is done to a server, one scenario per file. Each gives a report or says why there is none.

pub mod kill;
pub mod sim;
