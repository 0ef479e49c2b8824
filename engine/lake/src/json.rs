//! Reads JSON into a tape of tokens: strictly (RFC 8259, valid Unicode), without recursion, in one pass.
//!
//! Everything a lake needs to know of a record is asked of this tape: whether it is a JSON object at all, what kinds
//! its values have ([`crate::schema`]), where a field lies. Numbers keep their text, which no general parser leaves us: an
//! integer of thirty digits must be told from a float.
//!
//! Proof: `the_same_texts_are_json_as_for_serde` below holds it against `serde_json`.

use std::borrow::Cow;

/// What a token is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TokenKind {
    /// `{…}`: its keys and values follow, in turn.
    Object,
    /// `[…]`: its elements follow.
    Array,
    /// A string without escapes.
    Plain,
    /// A string with escapes.
    Escaped,
    /// A number without fraction and exponent.
    Integer,
    /// Any other number.
    Float,
    /// `true` or `false`.
    Bool,
    /// `null`.
    Null,
}

/// One value (or key) of the text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Token {
    /// What it is.
    pub kind: TokenKind,
    /// Where its text begins, quotes and brackets included.
    start: u32,
    /// Where its text ends.
    end: u32,
    /// The token after this one and all that is in it.
    next: u32,
}

/// Why a text is not JSON.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not JSON: {what} at byte {at}")]
pub struct NotJson {
    /// What was found or missed.
    what: &'static str,
    /// Where.
    at: usize,
}

/// A parsed text.
#[derive(Debug, Clone, Copy)]
pub struct Json<'a> {
    text: &'a str,
    tokens: &'a [Token],
}

/// Parses one text after the other, keeping its memory.
#[derive(Debug, Default)]
pub struct Parser {
    tokens: Vec<Token>,
    open: Vec<u32>,
}

impl Parser {
    /// Parses one whole JSON text.
    pub fn parse<'a>(&'a mut self, bytes: &'a [u8]) -> Result<Json<'a>, NotJson> {
        let text = std::str::from_utf8(bytes)
            .map_err(|error| NotJson { what: "bytes that are not UTF-8", at: error.valid_up_to() })?;
        self.tokens.clear();
        self.open.clear();
        let mut cursor = Cursor { bytes, at: 0 };
        'value: loop {
            cursor.skip_space();
            let start = cursor.at;
            let kind = match cursor.peek() {
                Some(b'{') => TokenKind::Object,
                Some(b'[') => TokenKind::Array,
                Some(b'"') => cursor.string()?,
                Some(b'-' | b'0'..=b'9') => cursor.number()?,
                Some(b't') => cursor.literal(b"true", TokenKind::Bool)?,
                Some(b'f') => cursor.literal(b"false", TokenKind::Bool)?,
                Some(b'n') => cursor.literal(b"null", TokenKind::Null)?,
                Some(_) => return Err(cursor.error("a character that begins no value")),
                None => return Err(cursor.error("the end of the text instead of a value")),
            };
            self.push(kind, start, cursor.at);
            if matches!(kind, TokenKind::Object | TokenKind::Array) {
                self.open.push(self.tokens.len() as u32 - 1);
                cursor.at += 1;
                cursor.skip_space();
                let closing = if kind == TokenKind::Object { b'}' } else { b']' };
                if cursor.peek() == Some(closing) {
                    cursor.at += 1;
                    self.close(cursor.at);
                } else {
                    self.key_if_object(kind, &mut cursor)?;
                    continue 'value;
                }
            }
            loop {
                cursor.skip_space();
                let Some(container) = self.open.last() else {
                    return match cursor.peek() {
                        None => Ok(Json { text, tokens: &self.tokens }),
                        Some(_) => Err(cursor.error("something after the value's end")),
                    };
                };
                let kind = self.tokens[*container as usize].kind;
                match (kind, cursor.peek()) {
                    (_, Some(b',')) => {
                        cursor.at += 1;
                        self.key_if_object(kind, &mut cursor)?;
                        continue 'value;
                    }
                    (TokenKind::Object, Some(b'}')) | (TokenKind::Array, Some(b']')) => {
                        cursor.at += 1;
                        self.close(cursor.at);
                    }
                    (_, Some(_)) => return Err(cursor.error("something instead of a comma or bracket")),
                    (_, None) => return Err(cursor.error("the end of the text inside a bracket")),
                }
            }
        }
    }

    fn push(&mut self, kind: TokenKind, start: usize, end: usize) {
        let next = self.tokens.len() as u32 + 1;
        self.tokens.push(Token { kind, start: start as u32, end: end as u32, next });
    }

    fn close(&mut self, end: usize) {
        let container = self.open.pop().expect("called while a bracket is open");
        let next = self.tokens.len() as u32;
        let token = &mut self.tokens[container as usize];
        token.end = end as u32;
        token.next = next;
    }

    fn key_if_object(&mut self, kind: TokenKind, cursor: &mut Cursor<'_>) -> Result<(), NotJson> {
        if kind != TokenKind::Object {
            return Ok(());
        }
        cursor.skip_space();
        let start = cursor.at;
        if cursor.peek() != Some(b'"') {
            return Err(cursor.error("something instead of a field's name"));
        }
        let kind = cursor.string()?;
        self.push(kind, start, cursor.at);
        cursor.skip_space();
        if cursor.peek() != Some(b':') {
            return Err(cursor.error("something instead of a colon"));
        }
        cursor.at += 1;
        Ok(())
    }
}

impl<'a> Json<'a> {
    /// The outermost value.
    pub fn root(&self) -> Token {
        self.tokens[0]
    }

    /// The text of a value as it stands there.
    pub fn raw(&self, token: Token) -> &'a str {
        &self.text[token.start as usize..token.end as usize]
    }

    /// The content of a string or key.
    pub fn string(&self, token: Token) -> Cow<'a, str> {
        let raw = self.raw(token);
        if token.kind == TokenKind::Escaped {
            let content = serde_json::from_str(raw).expect("the string was checked when it was parsed");
            Cow::Owned(content)
        } else {
            Cow::Borrowed(&raw[1..raw.len() - 1])
        }
    }

    /// The keys and values of the outermost value, which is an object.
    pub fn fields(&self) -> impl Iterator<Item = (Token, Token)> + use<'a> {
        let tokens = self.tokens;
        self.field_indexes(0).map(move |(key, value)| (tokens[key as usize], tokens[value as usize]))
    }

    /// The indexes of the keys and values of the object at that index.
    pub fn field_indexes(&self, object: u32) -> impl Iterator<Item = (u32, u32)> + use<'a> {
        let tokens = self.tokens;
        let end = tokens[object as usize].next;
        let mut at = object + 1;
        std::iter::from_fn(move || {
            let key = at;
            (key < end).then(|| {
                at = tokens[key as usize + 1].next;
                (key, key + 1)
            })
        })
    }

    /// The indexes of the elements of the array at that index.
    pub fn element_indexes(&self, array: u32) -> impl Iterator<Item = u32> + use<'a> {
        let tokens = self.tokens;
        let end = tokens[array as usize].next;
        let mut at = array + 1;
        std::iter::from_fn(move || {
            let element = at;
            (element < end).then(|| {
                at = tokens[element as usize].next;
                element
            })
        })
    }

    /// The token at that index.
    pub fn token(&self, index: u32) -> Token {
        self.tokens[index as usize]
    }
}

/// Appends valid JSON without the white space between its tokens.
pub fn compact(json: &str, out: &mut String) {
    let mut in_string = false;
    let mut escaped = false;
    let mut copied = 0;
    for (at, byte) in json.bytes().enumerate() {
        if in_string {
            in_string = escaped || byte != b'"';
            escaped = !escaped && byte == b'\\';
        } else if byte == b'"' {
            in_string = true;
        } else if is_space(byte) {
            out.push_str(&json[copied..at]);
            copied = at + 1;
        }
    }
    out.push_str(&json[copied..]);
}

fn is_space(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t' | b'\n' | b'\r')
}

struct Cursor<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl Cursor<'_> {
    fn peek(&self) -> Option<u8> {
        self.bytes.get(self.at).copied()
    }

    fn error(&self, what: &'static str) -> NotJson {
        NotJson { what, at: self.at }
    }

    fn skip_space(&mut self) {
        while self.peek().is_some_and(is_space) {
            self.at += 1;
        }
    }

    fn literal(&mut self, text: &[u8], kind: TokenKind) -> Result<TokenKind, NotJson> {
        if !self.bytes[self.at..].starts_with(text) {
            return Err(self.error("a word that is not true, false or null"));
        }
        self.at += text.len();
        Ok(kind)
    }

    fn digits(&mut self) -> Result<(), NotJson> {
        let before = self.at;
        while self.peek().is_some_and(|b| b.is_ascii_digit()) {
            self.at += 1;
        }
        if self.at == before { Err(self.error("a number without digits")) } else { Ok(()) }
    }

    fn number(&mut self) -> Result<TokenKind, NotJson> {
        if self.peek() == Some(b'-') {
            self.at += 1;
        }
        let zero = self.peek() == Some(b'0');
        let before = self.at;
        self.digits()?;
        if zero && self.at > before + 1 {
            return Err(NotJson { what: "a number that begins with 0", at: before });
        }
        let mut kind = TokenKind::Integer;
        if self.peek() == Some(b'.') {
            self.at += 1;
            self.digits()?;
            kind = TokenKind::Float;
        }
        if matches!(self.peek(), Some(b'e' | b'E')) {
            self.at += 1;
            if matches!(self.peek(), Some(b'+' | b'-')) {
                self.at += 1;
            }
            self.digits()?;
            kind = TokenKind::Float;
        }
        Ok(kind)
    }

    /// Begins at the opening quote, ends after the closing one.
    fn string(&mut self) -> Result<TokenKind, NotJson> {
        self.at += 1;
        let mut kind = TokenKind::Plain;
        loop {
            self.skip_plain();
            match self.peek() {
                Some(b'"') => {
                    self.at += 1;
                    return Ok(kind);
                }
                Some(b'\\') => {
                    kind = TokenKind::Escaped;
                    self.escape()?;
                }
                Some(0..=0x1f) => return Err(self.error("a control character in a string")),
                Some(_) => self.at += 1,
                None => return Err(self.error("the end of the text in a string")),
            }
        }
    }

    /// Goes on to the next byte that is a quote, a backslash or a control character; eight at a time, which is most of what
    /// reading JSON is (S. E. Anderson, "Bit Twiddling Hacks", "Determine if a word has a zero byte").
    fn skip_plain(&mut self) {
        const ONES: u64 = u64::from_ne_bytes([1; 8]);
        const HIGH: u64 = u64::from_ne_bytes([0x80; 8]);
        while let Some(Ok(word)) = self.bytes.get(self.at..self.at + 8).map(<[u8; 8]>::try_from) {
            let word = u64::from_le_bytes(word);
            let (quotes, backslashes) = (word ^ (ONES * u64::from(b'"')), word ^ (ONES * u64::from(b'\\')));
            // The lowest bit set is exact; those above it may be set by its borrow.
            let found = (quotes.wrapping_sub(ONES) & !quotes)
                | (backslashes.wrapping_sub(ONES) & !backslashes)
                | (word.wrapping_sub(ONES * 0x20) & !word);
            if found & HIGH != 0 {
                self.at += (found & HIGH).trailing_zeros() as usize / 8;
                return;
            }
            self.at += 8;
        }
    }

    fn escape(&mut self) -> Result<(), NotJson> {
        self.at += 1;
        match self.peek() {
            Some(b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't') => self.at += 1,
            Some(b'u') => {
                let high = self.hex()?;
                if (0xdc00..0xe000).contains(&high) {
                    return Err(self.error("half a surrogate pair"));
                }
                if (0xd800..0xdc00).contains(&high) {
                    if !self.bytes[self.at..].starts_with(b"\\u") {
                        return Err(self.error("half a surrogate pair"));
                    }
                    self.at += 1;
                    if !(0xdc00..0xe000).contains(&self.hex()?) {
                        return Err(self.error("half a surrogate pair"));
                    }
                }
            }
            _ => return Err(self.error("an unknown escape")),
        }
        Ok(())
    }

    /// Begins at the `u`, ends after its four digits.
    fn hex(&mut self) -> Result<u32, NotJson> {
        self.at += 1;
        let digits = self.bytes.get(self.at..self.at + 4).ok_or(self.error("a cut escape"))?;
        let value = digits.iter().try_fold(0, |sum, b| char::from(*b).to_digit(16).map(|digit| sum * 16 + digit));
        let value = value.ok_or(self.error("an escape that is not hexadecimal"))?;
        self.at += 4;
        Ok(value)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn fields_and_elements_are_found_with_their_text() {
        let text = br#" {"a": [1, {"b":null}, "x"], "c\u0061" : -1.5e3 ,"d":{}} "#;
        let mut parser = Parser::default();
        let json = parser.parse(text).expect("json");
        let fields: Vec<_> =
            json.fields().map(|(key, value)| (json.string(key).into_owned(), json.raw(value))).collect();
        let expected = [("a", r#"[1, {"b":null}, "x"]"#), ("ca", "-1.5e3"), ("d", "{}")];
        assert_eq!(fields, expected.map(|(name, value)| (name.to_owned(), value)));
        let elements: Vec<_> = json.element_indexes(2).map(|at| json.raw(json.token(at))).collect();
        assert_eq!(elements, ["1", r#"{"b":null}"#, r#""x""#]);
        let mut out = String::new();
        compact(std::str::from_utf8(text).expect("text"), &mut out);
        assert_eq!(out, r#"{"a":[1,{"b":null},"x"],"c\u0061":-1.5e3,"d":{}}"#);
    }

    #[test]
    fn white_space_and_quotes_inside_strings_survive_compaction() {
        let mut out = String::new();
        compact("{ \"a b\" :\n\"c \\\" d \\\\\" , \"e\": 1 }", &mut out);
        assert_eq!(out, r#"{"a b":"c \" d \\","e":1}"#);
    }

    #[test]
    fn deep_nesting_needs_no_stack() {
        let deep = [vec![b'['; 1 << 20], vec![b']'; 1 << 20]].concat();
        assert!(Parser::default().parse(&deep).is_ok());
    }

    #[test]
    fn broken_texts_are_refused() {
        for text in [
            "",
            " ",
            "{",
            "}",
            "[1,]",
            "[,1]",
            "{\"a\"}",
            "{\"a\":}",
            "{\"a\":1,}",
            "{a:1}",
            "01",
            "-",
            "1.",
            ".5",
            "1e",
            "+1",
            "tru",
            "nul",
            "\"a",
            "\"\\x\"",
            "\"\\u12\"",
            "\"\\ud800\"",
            "\"\\udc00\"",
            "\"\\ud800\\u0041\"",
            "\"\n\"",
            "1 2",
            "{} {}",
            "NaN",
            "[1 2]",
            "{\"a\" 1}",
            "[}",
            "{]",
        ] {
            assert!(Parser::default().parse(text.as_bytes()).is_err(), "{text:?}");
        }
        assert!(Parser::default().parse(b"\"\xff\"").is_err());
    }

    proptest! {
        #[test]
        fn the_same_texts_are_json_as_for_serde(text in r#"[\[\]{}:,"\\ue0-9.\- atrfnlsE+\n]{0,24}"#) {
            let theirs = serde_json::from_str::<serde::de::IgnoredAny>(&text).is_ok();
            // serde checks surrogates only where it decodes the string.
            let theirs = theirs && (!text.contains("\\u") || serde_json::from_str::<serde_json::Value>(&text).is_ok());
            prop_assert_eq!(Parser::default().parse(text.as_bytes()).is_ok(), theirs);
        }
    }
}
