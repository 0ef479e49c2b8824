//! How a command ends: exit codes by class, and errors that say what was wrong and what to try next.
//!
//! | exit code | meaning |
//! | ---: | --- |
//! | 0 | done |
//! | 2 | the command line is wrong |
//! | 10 | the request is wrong: change it (codes 1xx) |
//! | 20 | not now: the same may succeed later (2xx) |
//! | 30 | the client is behind: refresh, then decide (3xx) |
//! | 40 | the outcome is unknown: ask before repeating (4xx) |
//! | 50 | stored data is damaged, or a bug (5xx) |
//! | 60 | the server is unreachable, or has another certificate than the pinned one |
//! | 70 | a file or port of this machine |
//! | 128 + n | ended by signal n |

use std::fmt::Write as _;
use std::io;

use millstream_protocol::Code;
use serde_json::json;

use crate::output::{Paint, printable};

/// Which exit code an error has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// Nobody reads the output any more (`| head`): the end, but no error.
    Quiet,
    /// The command line is wrong.
    Usage,
    /// An error of the system's list.
    Code(Code),
    /// No server there, or not the pinned one.
    Unreachable,
    /// A file or port of this machine.
    Local,
    /// Ended by a signal.
    Signal(u8),
}

impl Exit {
    /// The process's exit code.
    pub fn number(self) -> u8 {
        match self {
            Exit::Quiet => 0,
            Exit::Usage => 2,
            Exit::Code(code) => 10 * code.class().number(),
            Exit::Unreachable => 60,
            Exit::Local => 70,
            Exit::Signal(number) => 128 + number,
        }
    }
}

/// Why a command did not do what it should.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    exit: Exit,
    text: String,
    tries: Vec<String>,
}

impl Failure {
    /// An error with its text: what was wrong, with the values.
    pub fn new(exit: Exit, text: impl Into<String>) -> Self {
        Self { exit, text: text.into(), tries: Vec::new() }
    }

    /// A command line that cannot be right, found after parsing.
    pub fn usage(text: impl Into<String>) -> Self {
        Self::new(Exit::Usage, text)
    }

    /// A file or port of this machine.
    pub fn local(text: impl Into<String>) -> Self {
        Self::new(Exit::Local, text)
    }

    /// Adds a command to try next.
    #[must_use]
    pub fn or_try(mut self, command: impl Into<String>) -> Self {
        self.tries.push(command.into());
        self
    }

    /// Adds a further fact to the text.
    #[must_use]
    pub fn adding(mut self, fact: &str) -> Self {
        self.text += "; ";
        self.text += fact;
        self
    }

    /// The exit code.
    pub fn exit(&self) -> Exit {
        self.exit
    }

    /// What a person sees on stderr.
    pub fn for_people(&self, paint: Paint) -> String {
        let mut out = format!("{} {}", paint.red("error:"), printable(&self.text));
        for (index, command) in self.tries.iter().enumerate() {
            let lead = if index == 0 { "try:" } else { "    " };
            write!(out, "\n  {} {}", paint.dim(lead), printable(command)).expect("writing to a string succeeds");
        }
        out
    }

    /// What a program sees on stderr, in one line.
    pub fn for_machines(&self) -> String {
        let (code, name) = match self.exit {
            Exit::Code(code) => (Some(code.number()), Some(code.name())),
            _ => (None, None),
        };
        json!({ "error": { "exit": self.exit.number(), "code": code, "name": name, "text": self.text, "try": self.tries } })
            .to_string()
    }
}

/// Errors of writing to stdout: a reader that went away ends the command quietly.
impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::BrokenPipe => Self::new(Exit::Quiet, ""),
            _ => Self::local(format!("cannot write the output: {error}")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_exits_by_class() {
        let numbers =
            [Code::IllegalName, Code::DiskFull, Code::LogTruncated, Code::DurabilityUnknown, Code::RecordsLost]
                .map(|code| Exit::Code(code).number());
        assert_eq!(numbers, [10, 20, 30, 40, 50]);
        assert_eq!((Exit::Unreachable.number(), Exit::Local.number(), Exit::Signal(2).number()), (60, 70, 130));
    }

    #[test]
    fn an_error_names_the_next_command_for_people_and_for_machines() {
        let failure = Failure::new(Exit::Code(Code::UnknownStream), "unknown stream 'x'")
            .or_try("millstream stream list")
            .or_try("millstream stream create x");
        assert_eq!(
            failure.for_people(Paint::Plain),
            "error: unknown stream 'x'\n  try: millstream stream list\n       millstream stream create x"
        );
        let machine: serde_json::Value = serde_json::from_str(&failure.for_machines()).expect("it is JSON");
        assert_eq!(machine["error"]["exit"], 10);
        assert_eq!(machine["error"]["name"], "unknown stream");
    }

    #[test]
    fn what_a_server_says_cannot_steer_the_terminal() {
        let failure = Failure::local("a\u{1b}[2Jb\nc");
        assert_eq!(failure.for_people(Paint::Plain), "error: a\\u{1b}[2Jb\nc");
    }
}
