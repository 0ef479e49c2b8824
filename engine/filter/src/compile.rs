//! From a text to a compiled filter: scan, parse, lower.
//!
//! The parser is the crate `cel`'s; it recurses, in generated code with large frames, and so does dropping its tree. It works
//! on a thread of its own with a stack that no text of `scan`'s size can exhaust; its tree dies there too. The compiled
//! filter is small and may be dropped anywhere. Of 30,000 random texts
//! none took more than 5 ms, and the process, with the parser's tables that are kept for ever, grew to 5 MiB within the first
//! half and no further.

use std::thread;

use cel::{Env, ParseErrors};

use crate::error::FilterInvalid;
use crate::lower::{self, Roots};
use crate::node::Node;
use crate::scan;

/// Eight times what the deepest texts that `scan` lets through need as the tests are built, with little optimisation.
const STACK_BYTES: usize = 64 << 20;

/// Compiles `text`. Takes a thread for about a millisecond, the first time some more.
pub fn compile(text: &str) -> Result<(Node, Roots), FilterInvalid> {
    scan::scan(text)?;
    let owned = text.to_owned();
    let thread =
        thread::Builder::new().name("filter-compile".into()).stack_size(STACK_BYTES).spawn(move || build(&owned));
    match thread.map(thread::JoinHandle::join) {
        Ok(Ok(outcome)) => outcome,
        Ok(Err(_panic)) => Err(FilterInvalid::new(text, 0, "the CEL parser failed on this text: write it another way")),
        Err(error) => {
            let reason = format!("no thread could be started to compile it ({error}): try again");
            Err(FilterInvalid::new(text, 0, reason))
        }
    }
}

/// On the thread with the large stack.
fn build(text: &str) -> Result<(Node, Roots), FilterInvalid> {
    // Without the standard macros: they are lowered from the calls as written, which keeps their places in the text.
    let parser = Env::default().with_optional_support(false).parser();
    let (tree, source) = parser.parse_with_source_info(text).map_err(|errors| explain(text, &errors))?;
    lower::lower(text, &source, &tree)
}

/// The parser's first error, at its byte, in words.
fn explain(text: &str, errors: &ParseErrors) -> FilterInvalid {
    let Some(error) = errors.errors.first() else {
        return FilterInvalid::new(text, 0, "this is not CEL");
    };
    // Line and column from 1, in characters.
    let (line, column) = (usize::try_from(error.pos.0).unwrap_or(1), usize::try_from(error.pos.1).unwrap_or(1));
    let line_start: usize = text.split_inclusive('\n').take(line.saturating_sub(1)).map(str::len).sum();
    let in_line = text[line_start..].char_indices().nth(column.saturating_sub(1));
    let position = in_line.map_or(text.len(), |(byte, _)| line_start + byte);
    let message = error.msg.strip_prefix("Syntax error: ").unwrap_or(&error.msg);
    let message = message.split(" expecting ").next().unwrap_or(message);
    let reason = if message.contains("<EOF>") {
        "the text ends where more is due".to_owned()
    } else if let Some(token) = message.strip_prefix("mismatched input ").or(message.strip_prefix("extraneous input "))
    {
        format!("{token} is not expected here")
    } else if let Some(token) = message.strip_prefix("no viable alternative at input ") {
        format!("{token} makes no expression")
    } else {
        message.to_owned()
    };
    FilterInvalid::new(text, position, reason)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_deepest_texts_need_an_eighth_of_the_stack() {
        let deep = |open: &str, close: &str, levels: usize| format!("{}1{}", open.repeat(levels), close.repeat(levels));
        let texts = [
            deep("(", ")", 16),
            deep("[", "]", 16),
            deep("size(", ")", 16),
            deep("-(1-(1==1?1:", "))", 8),
            deep("[!(true?[1].all(x,", ")):1]", 5),
            format!("1{}", "+1".repeat(256)),
            format!("true{}", "&&true".repeat(168)),
            format!("{}1", "true?1:".repeat(128)),
            format!("{}1{}", "true?".repeat(128), ":1".repeat(128)),
            format!("value{}", ".a".repeat(256)),
            format!("value{}", "[0]".repeat(256)),
            format!("value{}", ".filter(x,true)".repeat(67)),
            format!("{}true", "!".repeat(256)),
            format!("1{}", " in[1]".repeat(128)),
        ];
        for text in texts {
            scan::scan(&text).unwrap_or_else(|error| panic!("{text}: {error}"));
            let thread = thread::Builder::new().stack_size(STACK_BYTES / 8).spawn(move || build(&text).map(|_| ()));
            // Overflown, the stack ends the process.
            let _refused_or_not = thread.expect("a thread").join().expect("no panic");
        }
    }
}
