//! What a person sees and what a program reads: tables, figures, colour, notes, bars, JSON.
//!
//! Results go to stdout, everything else to stderr. Colour and bars only on a terminal, and never with `NO_COLOR`.
//! Text that comes from a server or a record is printed without its control characters.

use std::io::{self, IsTerminal, Write};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde::Serialize;

use crate::exit::Failure;

/// Whether text is coloured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Paint {
    /// With colour.
    Colour,
    /// Without.
    Plain,
}

impl Paint {
    fn with(self, code: &str, text: &str) -> String {
        match self {
            Paint::Colour => format!("\u{1b}[{code}m{text}\u{1b}[0m"),
            Paint::Plain => text.to_owned(),
        }
    }

    /// Bold.
    pub fn bold(self, text: &str) -> String {
        self.with("1", text)
    }
    /// In the background.
    pub fn dim(self, text: &str) -> String {
        self.with("2", text)
    }
    /// Wrong.
    pub fn red(self, text: &str) -> String {
        self.with("1;31", text)
    }
    /// Right.
    pub fn green(self, text: &str) -> String {
        self.with("32", text)
    }
    /// Worth a look.
    pub fn yellow(self, text: &str) -> String {
        self.with("33", text)
    }
    /// A figure.
    pub fn cyan(self, text: &str) -> String {
        self.with("36", text)
    }
}

/// When to colour.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
pub enum ColourChoice {
    /// On a terminal.
    #[default]
    Auto,
    /// Always.
    Always,
    /// Never.
    Never,
}

/// Where and how a command writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Output {
    /// Machines read it.
    pub json: bool,
    /// How stdout is painted.
    pub out: Paint,
    /// How stderr is painted.
    pub err: Paint,
    stderr_is_terminal: bool,
    stdout_is_terminal: bool,
}

impl Output {
    /// For this process's stdout and stderr.
    pub fn new(json: bool, colour: ColourChoice) -> Self {
        let plain = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty())
            || std::env::var_os("TERM").is_some_and(|value| value == "dumb");
        let paint = |is_terminal: bool| match colour {
            ColourChoice::Always => Paint::Colour,
            ColourChoice::Auto if is_terminal && !plain => Paint::Colour,
            _ => Paint::Plain,
        };
        let (stderr_is_terminal, stdout_is_terminal) = (io::stderr().is_terminal(), io::stdout().is_terminal());
        let (out, err) = (paint(stdout_is_terminal), paint(stderr_is_terminal));
        Self { json, out, err, stderr_is_terminal, stdout_is_terminal }
    }

    /// A result: for machines as one line of JSON, for people as `text` makes it.
    ///
    /// # Errors
    /// Stdout cannot be written; a reader that went away ends the command quietly.
    pub fn result<T: Serialize>(&self, value: &T, text: impl FnOnce(Paint) -> String) -> Result<(), Failure> {
        if self.json { self.line(&to_json(value)) } else { self.line(&text(self.out)) }
    }

    /// A line on stdout, flushed.
    ///
    /// # Errors
    /// As [`result`](Self::result).
    pub fn line(&self, line: &str) -> Result<(), Failure> {
        let mut out = io::stdout().lock();
        out.write_all(line.as_bytes())?;
        out.write_all(b"\n")?;
        out.flush()?;
        Ok(())
    }

    /// A line of results that is written over, cut to the terminal's width; `None` where results do not go to a terminal.
    pub fn live_line(&self) -> Option<ProgressBar> {
        if self.json || !self.stdout_is_terminal {
            return None;
        }
        let line = ProgressBar::with_draw_target(None, ProgressDrawTarget::stdout());
        line.set_style(ProgressStyle::with_template("{wide_msg}").expect("the template is legal"));
        Some(line)
    }

    /// Something worth knowing that is no result, on stderr.
    pub fn note(&self, text: &str) {
        self.say("note", self.err.cyan("note:"), text);
    }

    /// Something that may be wrong, on stderr.
    pub fn warn(&self, text: &str) {
        self.say("warning", self.err.yellow("warning:"), text);
    }

    /// The error a command ends with, on stderr.
    pub fn failure(&self, failure: &Failure) {
        let text = if self.json { failure.for_machines() } else { failure.for_people(self.err) };
        // If stderr is gone too, nobody is left to be told.
        let _ = writeln!(io::stderr(), "{text}");
    }

    fn say(&self, kind: &str, label: String, text: &str) {
        let line = if self.json {
            serde_json::json!({ kind: text }).to_string()
        } else {
            format!("{label} {}", printable(text))
        };
        let _ = writeln!(io::stderr(), "{line}");
    }

    /// A bar over `length` bytes, or a spinner if the length is not known; nothing where no person looks.
    pub fn bar(&self, length: Option<u64>) -> ProgressBar {
        if self.json || !self.stderr_is_terminal {
            return ProgressBar::hidden();
        }
        let (bar, template) = match length {
            Some(length) => (ProgressBar::new(length), "{bar:28} {percent:>3}%  {msg}  {eta} left"),
            None => (ProgressBar::new_spinner(), "{spinner} {msg}"),
        };
        bar.set_draw_target(ProgressDrawTarget::stderr_with_hz(8));
        bar.set_style(ProgressStyle::with_template(template).expect("the template is legal").progress_chars("━╸ "));
        bar
    }
}

/// A value as one line of JSON.
pub fn to_json<T: Serialize>(value: &T) -> String {
    serde_json::to_string(value).expect("plain structs with text keys always serialize")
}

/// On which side of its column a cell stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Align {
    /// Text.
    Left,
    /// Numbers.
    Right,
}

/// Rows under headings, in columns as wide as they must be.
#[derive(Debug, Default)]
pub struct Table {
    columns: Vec<(&'static str, Align)>,
    rows: Vec<Vec<String>>,
}

impl Table {
    /// A table with these columns.
    pub fn new(columns: &[(&'static str, Align)]) -> Self {
        Self { columns: columns.to_vec(), rows: Vec::new() }
    }

    /// Adds a row: a cell for each column.
    pub fn row(&mut self, cells: impl IntoIterator<Item = String>) {
        self.rows.push(cells.into_iter().map(|cell| printable(&cell)).collect());
    }

    /// The text, without a line break at its end.
    pub fn render(&self, paint: Paint) -> String {
        let width_of = |index: usize| {
            let cells = self.rows.iter().filter_map(|row| row.get(index)).map(|cell| cell.chars().count());
            cells.chain([self.columns[index].0.len()]).max().unwrap_or(0)
        };
        let widths: Vec<usize> = (0..self.columns.len()).map(width_of).collect();
        let line = |cells: &[String]| {
            let cells = cells.iter().zip(&widths).zip(&self.columns).map(|((cell, width), (_, align))| match align {
                Align::Left => format!("{cell:<width$}"),
                Align::Right => format!("{cell:>width$}"),
            });
            cells.collect::<Vec<_>>().join("  ").trim_end().to_owned()
        };
        let heading: Vec<String> = self.columns.iter().map(|(name, _)| (*name).to_owned()).collect();
        let mut lines = vec![paint.dim(&line(&heading))];
        lines.extend(self.rows.iter().map(|row| line(row)));
        lines.join("\n")
    }
}

/// Names and their values, a line each, the values aligned.
pub fn facts(paint: Paint, facts: &[(&str, String)]) -> String {
    let width = facts.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
    let lines =
        facts.iter().map(|(name, value)| format!("{}  {}", paint.dim(&format!("{name:<width$}")), printable(value)));
    lines.collect::<Vec<_>>().join("\n")
}

/// Text without control characters, which could steer the terminal; line breaks stay.
pub fn printable(text: &str) -> String {
    let is_hostile = |c: char| c.is_control() && c != '\n';
    if !text.chars().any(is_hostile) {
        return text.to_owned();
    }
    text.chars().fold(String::new(), |mut out, c| {
        if is_hostile(c) {
            out.extend(c.escape_default())
        } else {
            out.push(c)
        }
        out
    })
}

/// A count, in groups of three: `336,776`.
pub fn count(n: u64) -> String {
    let digits = n.to_string();
    let mut out = String::with_capacity(digits.len() + digits.len() / 3);
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

/// A count and its noun: `1 record`, `2 records`.
pub fn counted(n: u64, noun: &str) -> String {
    let s = match noun {
        _ if n == 1 => "",
        noun if noun.ends_with("ch") => "es",
        _ => "s",
    };
    format!("{} {noun}{s}", count(n))
}

/// Bytes in decimal units, as rates are: `87.8 MB`.
pub fn bytes(n: u64) -> String {
    const UNITS: [(&str, f64); 4] = [("TB", 1e12), ("GB", 1e9), ("MB", 1e6), ("kB", 1e3)];
    match UNITS.into_iter().find(|(_, size)| n as f64 >= *size) {
        Some((unit, size)) => format!("{} {unit}", three_digits(n as f64 / size)),
        None => format!("{n} B"),
    }
}

/// How many in a second; 0 if no time has passed.
pub fn per_second(n: u64, elapsed: Duration) -> f64 {
    let seconds = elapsed.as_secs_f64();
    if seconds > 0.0 { n as f64 / seconds } else { 0.0 }
}

/// A number with the digits that mean something: `1.29`, `87.8`, `413`.
pub fn three_digits(n: f64) -> String {
    match n {
        n if n >= 99.95 => count(n.round() as u64),
        n if n >= 9.995 => format!("{n:.1}"),
        n => format!("{n:.2}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_read_well() {
        assert_eq!(
            [0, 7, 999, 1_000, 336_776, 56_708_868_700].map(count).join(" "),
            "0 7 999 1,000 336,776 56,708,868,700"
        );
        assert_eq!(
            [17, 1_292_836, 87_808_435, 999_999_999].map(bytes).join(" · "),
            "17 B · 1.29 MB · 87.8 MB · 1,000 MB"
        );
        assert_eq!([0.4249, 13.14, 99.96, 2_500.4].map(three_digits).join(" · "), "0.42 · 13.1 · 100 · 2,500");
        assert_eq!((counted(1, "record"), counted(2, "record")), ("1 record".into(), "2 records".into()));
        assert_eq!(per_second(10, Duration::ZERO), 0.0);
    }

    #[test]
    fn tables_align_and_end_without_blanks() {
        let mut table = Table::new(&[("name", Align::Left), ("records", Align::Right), ("note", Align::Left)]);
        table.row(["flights".into(), "336,776".into(), String::new()]);
        table.row(["w".into(), "5".into(), "x\u{7}".into()]);
        assert_eq!(table.render(Paint::Plain), "name     records  note\nflights  336,776\nw              5  x\\u{7}");
    }
}
