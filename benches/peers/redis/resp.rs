//! RESP, Redis' protocol, as far as streams need it.
//!
//! ```text
//! command  *<count>\r\n, then for each word: $<length>\r\n<bytes>\r\n
//! reply    +<text>\r\n · -<error>\r\n · :<integer>\r\n · $<length>\r\n<bytes>\r\n · *<count>\r\n, then as many replies
//! ```
//! A length or count of -1 is null. A reply is read token by token, an array's head being a token: nothing is allocated.

use std::fmt;

use super::super::Error;

/// The longest string that is taken for one: a length above it is not believed.
const STRING_BYTES_MAX: usize = 64 << 20;
/// The longest line.
const LINE_BYTES_MAX: usize = 64 << 10;

/// A part of a reply.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Token<'a> {
    /// A status.
    Text(&'a [u8]),
    /// An integer.
    Integer(i64),
    /// A string; `None` is null.
    String(Option<&'a [u8]>),
    /// The head of an array: so many replies follow; `None` is null.
    Array(Option<usize>),
}

impl fmt::Display for Token<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Token::Text(text) => write!(f, "+{}", String::from_utf8_lossy(text)),
            Token::Integer(number) => write!(f, "{number}"),
            Token::String(None) | Token::Array(None) => f.write_str("null"),
            Token::String(Some(string)) if string.len() <= 64 => write!(f, "{:?}", String::from_utf8_lossy(string)),
            Token::String(Some(string)) => write!(f, "a string of {} bytes", string.len()),
            Token::Array(Some(count)) => write!(f, "an array of {count}"),
        }
    }
}

/// Appends a command.
pub(super) fn put_command(out: &mut Vec<u8>, words: &[&[u8]]) {
    put_head(out, b'*', words.len());
    for word in words {
        put_head(out, b'$', word.len());
        out.extend_from_slice(word);
        out.extend_from_slice(b"\r\n");
    }
}

fn put_head(out: &mut Vec<u8>, kind: u8, number: usize) {
    out.push(kind);
    out.extend_from_slice(number.to_string().as_bytes());
    out.extend_from_slice(b"\r\n");
}

/// The token at the front, and how many bytes it takes; `None` if more must come first.
///
/// # Errors
/// [`Error::Refused`] with the server's words; [`Error::Malformed`].
pub(super) fn token(bytes: &[u8]) -> Result<Option<(Token<'_>, usize)>, Error> {
    let Some((line, length)) = line(bytes)? else { return Ok(None) };
    let Some((kind, rest)) = line.split_first() else { return Err(malformed(line)) };
    match kind {
        b'+' => Ok(Some((Token::Text(rest), length))),
        b'-' => Err(Error::Refused(String::from_utf8_lossy(rest).into_owned())),
        b':' => Ok(Some((Token::Integer(number(rest)?), length))),
        b'*' => Ok(Some((Token::Array(count(rest, usize::MAX)?), length))),
        b'$' => {
            let Some(size) = count(rest, STRING_BYTES_MAX)? else { return Ok(Some((Token::String(None), length))) };
            match bytes[length..].split_at_checked(size) {
                Some((string, [b'\r', b'\n', ..])) => Ok(Some((Token::String(Some(string)), length + size + 2))),
                Some((_, end)) if end.len() >= 2 => Err(malformed(&end[..2])),
                _ => Ok(None),
            }
        }
        _ => Err(malformed(line)),
    }
}

/// The line at the front without its end, and its length with it.
fn line(bytes: &[u8]) -> Result<Option<(&[u8], usize)>, Error> {
    match bytes.iter().take(LINE_BYTES_MAX).position(|byte| *byte == b'\n') {
        Some(end) => match bytes[..end].split_last() {
            Some((b'\r', line)) => Ok(Some((line, end + 1))),
            _ => Err(malformed(&bytes[..end])),
        },
        None if bytes.len() >= LINE_BYTES_MAX => Err(malformed(&bytes[..32])),
        None => Ok(None),
    }
}

fn number(digits: &[u8]) -> Result<i64, Error> {
    let parsed = std::str::from_utf8(digits).ok().and_then(|digits| digits.parse().ok());
    parsed.ok_or_else(|| malformed(digits))
}

fn count(digits: &[u8], most: usize) -> Result<Option<usize>, Error> {
    match number(digits)? {
        -1 => Ok(None),
        number => match usize::try_from(number) {
            Ok(count) if count <= most => Ok(Some(count)),
            _ => Err(malformed(digits)),
        },
    }
}

fn malformed(bytes: &[u8]) -> Error {
    Error::Malformed(format!("RESP cannot have {:?} here", String::from_utf8_lossy(bytes)))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// All tokens of the bytes.
    fn tokens(mut bytes: &[u8]) -> Vec<Token<'_>> {
        let mut found = Vec::new();
        while let Some((token, length)) = token(bytes).expect("well formed") {
            found.push(token);
            bytes = &bytes[length..];
        }
        assert_eq!(bytes, b"");
        found
    }

    #[test]
    fn a_command_counts_its_words_and_their_bytes() {
        let mut out = Vec::new();
        put_command(&mut out, &[b"XADD", b"s", b"*", b"v", b"\r\n"]);
        assert_eq!(out, b"*5\r\n$4\r\nXADD\r\n$1\r\ns\r\n$1\r\n*\r\n$1\r\nv\r\n$2\r\n\r\n\r\n");
    }

    #[test]
    fn replies_are_read_token_by_token() {
        use Token::{Array, Integer, String, Text};
        let replies = b"+OK\r\n:-3\r\n$4\r\na\r\nb\r\n$-1\r\n*-1\r\n*2\r\n$0\r\n\r\n:1\r\n";
        let expected = [
            Text(b"OK"),
            Integer(-3),
            String(Some(b"a\r\nb")),
            String(None),
            Array(None),
            Array(Some(2)),
            String(Some(b"")),
            Integer(1),
        ];
        assert_eq!(tokens(replies), expected);
    }

    #[test]
    fn a_token_that_is_cut_anywhere_waits_for_its_rest() {
        for whole in [&b"+OK\r\n"[..], b":12\r\n", b"$4\r\na\r\nb\r\n", b"*12\r\n", b"-ERR no\r\n"] {
            for cut in 0..whole.len() {
                assert!(matches!(token(&whole[..cut]), Ok(None)), "{:?}", String::from_utf8_lossy(&whole[..cut]));
            }
        }
    }

    #[test]
    fn an_error_is_the_servers_own_words() {
        let Err(Error::Refused(text)) = token(b"-NOGROUP No such key 's'\r\n+OK\r\n") else { panic!("it is an error") };
        assert_eq!(text, "NOGROUP No such key 's'");
    }

    #[test]
    fn what_is_not_resp_is_refused() {
        for bytes in [
            &b"HTTP/1.1 200 OK\r\n"[..],
            b"\r\n",
            b":x\r\n",
            b"$99999999999\r\n",
            b"$1\r\nabc\r\n",
            b"+OK\n",
            b"*-2\r\n",
        ] {
            assert!(matches!(token(bytes), Err(Error::Malformed(_))), "{:?}", String::from_utf8_lossy(bytes));
        }
    }
}
