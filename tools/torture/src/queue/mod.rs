//! Queues under torture: what they are and promise, what is sent, receivers that can be killed, who asks and meddles, and
//! what lies in the dead-letter streams in the end.
//!
//! - `plan`: the queues, as the server makes them and as the history knows them. `orders`: the messages.
//! - `receiver`: a process with a receiver of each queue. `work`: what it does with messages. `book`: its history.
//! - `watcher`: asks how queues stand. `operator`: pauses and redrives. `letters`: reads dead letters.

mod book;
pub mod letters;
pub mod operator;
pub mod orders;
pub mod plan;
pub mod receiver;
pub mod watcher;
mod work;
