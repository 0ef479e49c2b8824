//! A look at the text before any parser sees it: length, operators, brackets, strings that end.
//!
//! The parser recurses and backtracks; what passes here is small enough for it, whatever it says
//! (`tests/hostile.rs`). The common slips get a better error here than a grammar can give.

use millstream_protocol::limits::{FILTER_NESTING_MAX, FILTER_OPERATORS_MAX, FILTER_TEXT_BYTES_MAX};

use crate::error::FilterInvalid;

/// Refuses what the parser must not see.
pub fn scan(text: &str) -> Result<(), FilterInvalid> {
    if text.len() > FILTER_TEXT_BYTES_MAX {
        let reason = format!(
            "the text has {} bytes and may have {FILTER_TEXT_BYTES_MAX}: shorten it, or use several queues",
            text.len()
        );
        return Err(FilterInvalid::new(text, FILTER_TEXT_BYTES_MAX, reason));
    }
    let mut scanner = Scanner { text, bytes: text.as_bytes(), at: 0, operators: 0, open: Vec::new(), tokens: 0 };
    scanner.run()?;
    if scanner.tokens == 0 {
        return Err(FilterInvalid::new(text, 0, "the filter is empty: leave it out, or write true, for every record"));
    }
    if let Some((bracket, at)) = scanner.open.last() {
        return Err(FilterInvalid::new(text, *at, format!("`{}` is never closed", char::from(*bracket))));
    }
    Ok(())
}

struct Scanner<'a> {
    text: &'a str,
    bytes: &'a [u8],
    at: usize,
    operators: usize,
    open: Vec<(u8, usize)>,
    tokens: usize,
}

impl Scanner<'_> {
    fn run(&mut self) -> Result<(), FilterInvalid> {
        let mut after_name = false;
        while let Some(byte) = self.peek(0) {
            if matches!(byte, b' ' | b'\t' | b'\r' | b'\n' | 0x0c) {
                self.at += 1;
                continue;
            }
            if byte == b'/' && self.peek(1) == Some(b'/') {
                self.at += self.bytes[self.at..].iter().take_while(|b| **b != b'\n').count();
                continue;
            }
            self.tokens += 1;
            let is_name = byte.is_ascii_alphabetic() || byte == b'_';
            match byte {
                b'"' | b'\'' => self.string(Escapes::Yes)?,
                _ if is_name => self.name()?,
                b'0'..=b'9' => self.number(),
                b'.' if self.peek(1).is_some_and(|b| b.is_ascii_digit()) => self.number(),
                b'(' | b'[' | b'{' => {
                    if byte == b'[' || after_name {
                        self.operator(1)?;
                    } else {
                        self.at += 1;
                    }
                    self.open(byte)?;
                }
                b')' | b']' | b'}' => self.close(byte)?,
                b',' => self.at += 1,
                _ => self.symbol(byte)?,
            }
            after_name = is_name;
        }
        Ok(())
    }

    fn peek(&self, ahead: usize) -> Option<u8> {
        self.bytes.get(self.at + ahead).copied()
    }

    fn error(&self, at: usize, reason: impl Into<String>) -> FilterInvalid {
        FilterInvalid::new(self.text, at, reason)
    }

    fn operator(&mut self, length: usize) -> Result<(), FilterInvalid> {
        self.operators += 1;
        if self.operators > FILTER_OPERATORS_MAX {
            let reason =
                format!("this is the operator after the {FILTER_OPERATORS_MAX} that a filter may have: simplify it");
            return Err(self.error(self.at, reason));
        }
        self.at += length;
        Ok(())
    }

    /// Called behind the bracket.
    fn open(&mut self, bracket: u8) -> Result<(), FilterInvalid> {
        self.open.push((bracket, self.at - 1));
        if self.open.len() > FILTER_NESTING_MAX {
            let reason = format!("brackets are nested deeper than the {FILTER_NESTING_MAX} levels a filter may have");
            return Err(self.error(self.at - 1, reason));
        }
        Ok(())
    }

    fn close(&mut self, bracket: u8) -> Result<(), FilterInvalid> {
        let opening = match bracket {
            b')' => b'(',
            b']' => b'[',
            _ => b'{',
        };
        match self.open.pop() {
            Some((open, _)) if open == opening => {
                self.at += 1;
                Ok(())
            }
            Some((open, at)) => {
                let (bracket, open) = (char::from(bracket), char::from(open));
                Err(self.error(self.at, format!("`{bracket}` cannot close the `{open}` opened at byte {at}")))
            }
            None => Err(self.error(self.at, format!("`{}` closes nothing", char::from(bracket)))),
        }
    }

    fn symbol(&mut self, byte: u8) -> Result<(), FilterInvalid> {
        let next = self.peek(1);
        let doubled = next == Some(byte);
        match byte {
            b'&' | b'|' if doubled => self.operator(2),
            b'=' if doubled => self.operator(2),
            b'<' | b'>' | b'!' if next == Some(b'=') => self.operator(2),
            b'+' | b'-' | b'*' | b'/' | b'%' | b'<' | b'>' | b'!' | b'?' | b':' | b'.' => self.operator(1),
            b'=' => Err(self.error(self.at, "`=` is no operator: compare with ==")),
            b'&' | b'|' => {
                let sign = char::from(byte);
                Err(self.error(self.at, format!("`{sign}` is no operator: write {sign}{sign}")))
            }
            b'`' => Err(self.error(self.at, "backticks are not used: write odd names as value[\"a.b\"]")),
            _ => {
                let sign = self.text[self.at..].chars().next().unwrap_or_default();
                let reason = format!("`{}` has no meaning outside a string", sign.escape_debug());
                Err(self.error(self.at, reason))
            }
        }
    }

    /// A word, or the prefix of a string.
    fn name(&mut self) -> Result<(), FilterInvalid> {
        let start = self.at;
        while self.peek(0).is_some_and(|b| b.is_ascii_alphanumeric() || b == b'_') {
            self.at += 1;
        }
        let name = &self.text[start..self.at];
        if matches!(self.peek(0), Some(b'"' | b'\'')) {
            match name {
                "r" | "R" | "br" | "bR" | "Br" | "BR" => return self.string(Escapes::No),
                "b" | "B" => return self.string(Escapes::Yes),
                _ => {}
            }
        }
        if name == "in" {
            return self.operator(0);
        }
        Ok(())
    }

    fn number(&mut self) {
        let digits = |scanner: &mut Self| {
            while scanner.peek(0).is_some_and(|b| b.is_ascii_alphanumeric()) {
                let exponent = matches!(scanner.peek(0), Some(b'e' | b'E'));
                scanner.at += 1;
                if exponent && matches!(scanner.peek(0), Some(b'+' | b'-')) {
                    scanner.at += 1;
                }
            }
        };
        digits(self);
        if self.peek(0) == Some(b'.') && self.peek(1).is_some_and(|b| b.is_ascii_digit()) {
            self.at += 1;
            digits(self);
        }
    }

    /// Begins at the opening quote, ends behind the closing one.
    fn string(&mut self, escapes: Escapes) -> Result<(), FilterInvalid> {
        let start = self.at;
        let quote = self.bytes[start];
        let triple = self.bytes[start..].starts_with(&[quote; 3]);
        let closing: &[u8] = if triple { &[quote; 3] } else { &[quote] };
        self.at += closing.len();
        loop {
            let rest = &self.bytes[self.at..];
            if rest.starts_with(closing) {
                self.at += closing.len();
                return Ok(());
            }
            match rest.first() {
                Some(b'\\') if escapes == Escapes::Yes => self.at += 2.min(rest.len()),
                Some(b'\n' | b'\r') if !triple => {
                    return Err(self.error(start, "this string does not end in its line: close it, or write \\n"));
                }
                Some(_) => self.at += 1,
                None => return Err(self.error(start, "this string is never closed")),
            }
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Escapes {
    Yes,
    No,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slips_are_named_where_they_are() {
        for (text, position, reason) in [
            ("", 0, "empty"),
            (" \n// nothing", 0, "empty"),
            ("value.a = 1", 8, "=="),
            ("value.a == 1 & true", 13, "&&"),
            ("value.a == 1 | true", 13, "||"),
            ("(value.a", 0, "never closed"),
            ("value.a)", 7, "closes nothing"),
            ("[value.a)", 8, "cannot close the `["),
            ("value.a == \"x", 11, "never closed"),
            ("value.a == 'x\n'", 11, "does not end in its line"),
            ("value.`a`", 6, "backticks"),
            ("value.ä == 1", 6, "`ä`"),
            ("value.a == 1;", 12, "`;`"),
            ("true\0", 4, "`\\0`"),
        ] {
            let error = scan(text).expect_err(text);
            assert_eq!(error.position, position, "{text:?}: {error}");
            assert!(error.reason.contains(reason), "{text:?}: {error}");
        }
    }

    #[test]
    fn strings_hide_what_is_in_them() {
        for text in [
            r#"key == "(((" "#,
            r#"key == "\"(((" "#,
            r"key == r'\'",
            r#"key == """a"(
("b""""#,
            "key == b'\\'(('",
            "true // ((( '",
            "key == '' // '",
            r"key == br'\' && true",
        ] {
            assert_eq!(scan(text), Ok(()), "{text}");
        }
    }

    #[test]
    fn limits_are_exact() {
        let chain = |count: usize| format!("1{}", "+1".repeat(count));
        assert_eq!(scan(&chain(FILTER_OPERATORS_MAX)), Ok(()));
        assert_eq!(scan(&chain(FILTER_OPERATORS_MAX + 1)).map_err(|error| error.position), Err(513));
        let nested = |depth: usize| format!("{}1{}", "(".repeat(depth), ")".repeat(depth));
        assert_eq!(scan(&nested(FILTER_NESTING_MAX)), Ok(()));
        assert_eq!(scan(&nested(FILTER_NESTING_MAX + 1)).map_err(|error| error.position), Err(16));
        let long = |bytes: usize| format!("key == \"{}\"", "x".repeat(bytes - 9));
        assert_eq!(scan(&long(FILTER_TEXT_BYTES_MAX)), Ok(()));
        assert_eq!(scan(&long(FILTER_TEXT_BYTES_MAX + 1)).map_err(|error| error.position), Err(1024));
    }

    #[test]
    fn numbers_are_one_token_and_members_are_operators() {
        let count = |text: &str| {
            let mut scanner =
                Scanner { text, bytes: text.as_bytes(), at: 0, operators: 0, open: Vec::new(), tokens: 0 };
            scanner.run().expect(text);
            scanner.operators
        };
        for (text, operators) in [
            ("1.5e-3", 0),
            (".5", 0),
            ("0xfe", 0),
            ("a.b.c", 2),
            ("f(1)", 1),
            ("(1)", 0),
            ("a in [1,2]", 2),
            ("a ? b : c", 2),
        ] {
            assert_eq!(count(text), operators, "{text}");
        }
    }
}
