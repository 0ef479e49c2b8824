//! NATS' text protocol, as far as JetStream needs it.
//!
//! ```text
//! server  INFO <json> · PING · PONG · +OK · -ERR '<text>'
//!         MSG <subject> <sid> [<reply>] <bytes>\r\n<payload>
//!         HMSG <subject> <sid> [<reply>] <header bytes> <bytes>\r\n<headers><payload>
//! client  CONNECT <json> · SUB <subject> <sid> · PUB <subject> [<reply>] <bytes>\r\n<payload> · PING · PONG
//! ```
//! Each ends with `\r\n`. Headers begin with `NATS/1.0`, and a status if the server speaks for itself: `NATS/1.0 503`.

use super::super::Error;

/// The longest message: a length above it is not believed.
const MESSAGE_BYTES_MAX: usize = 64 << 20;
/// The longest line; `INFO` is one.
const LINE_BYTES_MAX: usize = 64 << 10;

/// What the server says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Said<'a> {
    /// Something of a subscription.
    Message(Message<'a>),
    /// It wants a `PONG`.
    Ping,
    /// It has seen all that was sent before our `PING`.
    Pong,
    /// About itself, or that it agrees.
    Else,
}

/// A message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Message<'a> {
    /// Where an answer is expected; empty if nowhere.
    pub reply: &'a [u8],
    /// Headers; empty if there are none.
    pub headers: &'a [u8],
    /// What was sent.
    pub payload: &'a [u8],
}

/// Appends a message, with a subject for its answers if `reply` is not empty.
pub(super) fn put_message(out: &mut Vec<u8>, subject: &[u8], reply: &[u8], payload: &[u8]) {
    out.extend_from_slice(b"PUB ");
    out.extend_from_slice(subject);
    out.push(b' ');
    if !reply.is_empty() {
        out.extend_from_slice(reply);
        out.push(b' ');
    }
    out.extend_from_slice(payload.len().to_string().as_bytes());
    out.extend_from_slice(b"\r\n");
    out.extend_from_slice(payload);
    out.extend_from_slice(b"\r\n");
}

/// What stands at the front, and how many bytes it takes; `None` if more must come first.
///
/// # Errors
/// [`Error::Refused`] with the server's words; [`Error::Malformed`].
pub(super) fn said(bytes: &[u8]) -> Result<Option<(Said<'_>, usize)>, Error> {
    let Some(end) = bytes.iter().take(LINE_BYTES_MAX).position(|byte| *byte == b'\n') else {
        return if bytes.len() < LINE_BYTES_MAX { Ok(None) } else { Err(malformed(&bytes[..32])) };
    };
    let Some((b'\r', line)) = bytes[..end].split_last() else { return Err(malformed(&bytes[..end])) };
    let length = end + 1;
    let mut words = line.split(|byte| *byte == b' ').filter(|word| !word.is_empty());
    let said = match words.next() {
        Some(b"MSG") => return message(words, line, false, &bytes[length..], length),
        Some(b"HMSG") => return message(words, line, true, &bytes[length..], length),
        Some(b"PING") => Said::Ping,
        Some(b"PONG") => Said::Pong,
        Some(b"INFO" | b"+OK") => Said::Else,
        Some(b"-ERR") => return Err(Error::Refused(String::from_utf8_lossy(&line[4..]).trim().to_owned())),
        _ => return Err(malformed(line)),
    };
    Ok(Some((said, length)))
}

fn message<'a>(
    words: impl Iterator<Item = &'a [u8]>,
    line: &[u8],
    has_headers: bool,
    rest: &'a [u8],
    before: usize,
) -> Result<Option<(Said<'a>, usize)>, Error> {
    let mut found: [&[u8]; 5] = [b""; 5];
    let mut count = 0;
    for word in words {
        *found.get_mut(count).ok_or_else(|| malformed(line))? = word;
        count += 1;
    }
    let (reply, header_bytes, bytes) = match (has_headers, &found[..count]) {
        (false, [_, _, bytes]) => (&b""[..], 0, number(bytes)),
        (false, [_, _, reply, bytes]) => (*reply, 0, number(bytes)),
        (true, [_, _, headers, bytes]) => (&b""[..], number(headers), number(bytes)),
        (true, [_, _, reply, headers, bytes]) => (*reply, number(headers), number(bytes)),
        _ => return Err(malformed(line)),
    };
    if bytes > MESSAGE_BYTES_MAX || header_bytes > bytes {
        return Err(malformed(line));
    }
    match rest.split_at_checked(bytes) {
        Some((body, [b'\r', b'\n', ..])) => {
            let (headers, payload) = body.split_at(header_bytes);
            Ok(Some((Said::Message(Message { reply, headers, payload }), before + bytes + 2)))
        }
        Some((_, end)) if end.len() >= 2 => Err(malformed(&end[..2])),
        _ => Ok(None),
    }
}

/// A number; what is none is too large for one.
fn number(digits: &[u8]) -> usize {
    std::str::from_utf8(digits).ok().and_then(|digits| digits.parse().ok()).unwrap_or(usize::MAX)
}

fn malformed(bytes: &[u8]) -> Error {
    Error::Malformed(format!("the NATS protocol cannot have {:?} here", String::from_utf8_lossy(bytes)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn only(bytes: &[u8]) -> Said<'_> {
        let (found, length) = said(bytes).expect("well formed").expect("whole");
        assert_eq!(length, bytes.len());
        found
    }

    #[test]
    fn a_message_has_a_reply_subject_only_if_it_wants_an_answer() {
        let mut out = Vec::new();
        put_message(&mut out, b"jobs", b"_INBOX.1", b"abc");
        put_message(&mut out, b"$JS.ACK.x", b"", b"+ACK");
        assert_eq!(out, b"PUB jobs _INBOX.1 3\r\nabc\r\nPUB $JS.ACK.x 4\r\n+ACK\r\n");
    }

    #[test]
    fn messages_are_read_with_and_without_reply_and_headers() {
        let message = |reply, headers, payload| Said::Message(Message { reply, headers, payload });
        assert_eq!(only(b"MSG a 1 3\r\nx\r\n\r\n"), message(b"", b"", b"x\r\n"));
        assert_eq!(only(b"MSG a 1 $JS.ACK.s.c.1.1.1.0.0 1\r\nx\r\n"), message(b"$JS.ACK.s.c.1.1.1.0.0", b"", b"x"));
        assert_eq!(only(b"HMSG a 1 12 13\r\nNATS/1.0\r\n\r\nx\r\n"), message(b"", b"NATS/1.0\r\n\r\n", b"x"));
        assert_eq!(only(b"HMSG a 1 r 12 12\r\nNATS/1.0\r\n\r\n\r\n"), message(b"r", b"NATS/1.0\r\n\r\n", b""));
    }

    #[test]
    fn the_rest_of_what_a_server_says_is_one_word() {
        assert_eq!(only(b"INFO {\"server_id\":\"x y\"} \r\n"), Said::Else);
        assert_eq!(only(b"+OK\r\n"), Said::Else);
        assert_eq!(only(b"PING\r\n"), Said::Ping);
        assert_eq!(only(b"PONG\r\n"), Said::Pong);
    }

    #[test]
    fn what_is_cut_anywhere_waits_for_its_rest() {
        for whole in [&b"MSG a 1 r 3\r\nx\r\n\r\n"[..], b"HMSG a 1 12 13\r\nNATS/1.0\r\n\r\nx\r\n", b"-ERR 'x'\r\n"] {
            for cut in 0..whole.len() {
                assert!(matches!(said(&whole[..cut]), Ok(None)), "{:?}", String::from_utf8_lossy(&whole[..cut]));
            }
        }
    }

    #[test]
    fn an_error_is_the_servers_own_words() {
        let Err(Error::Refused(text)) = said(b"-ERR 'Unknown Protocol Operation'\r\nPING\r\n") else {
            panic!("it is an error")
        };
        assert_eq!(text, "'Unknown Protocol Operation'");
    }

    #[test]
    fn what_is_not_nats_is_refused() {
        for bytes in [
            &b"HTTP/1.1 200 OK\r\n"[..],
            b"\r\n",
            b"PING\n",
            b"MSG a 1\r\n",
            b"MSG a 1 r x 1 1\r\n",
            b"MSG a 1 many\r\n",
            b"MSG a 1 99999999999\r\n",
            b"HMSG a 1 4 3\r\n",
            b"MSG a 1 1\r\nabc\r\n",
        ] {
            assert!(matches!(said(bytes), Err(Error::Malformed(_))), "{:?}", String::from_utf8_lossy(bytes));
        }
    }
}
