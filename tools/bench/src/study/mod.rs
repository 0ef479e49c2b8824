//! Studies of one question, each with figures of its own.

pub mod commits;
pub mod groups;
mod members;
mod times;
