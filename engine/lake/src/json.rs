//! Reads JSON into a tape of tokens: strictly (RFC 8259, valid Unicode), without recursion, in one pass.
//!
//! Everything a lake needs to know of a record is asked of this tape: whether it is a JSON object at all, what kinds
//! its values have ([`crate::schema`]), where a field lies. Numbers keep their text, which no general parser leaves us: an
//! integer of thirty digits must be told from a float.
//!
//! Records of one stream mostly name the same fields in the same order. So a parser keeps the keys it has seen, guesses each
//! next one ([`Keys`]), and compares where it would have to read; and who looks names up does so once for each key, not for each
//! record ([`Json::key`]).
//!
//! Proof: `the_same_texts_are_json_as_for_serde` below holds it against `serde_json`, and
//! `what_was_parsed_before_makes_no_difference` against itself.

use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};

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
    /// The token after this one and all that is in it. Behind a key there is its value: a key has its number there.
    next: u32,
}

/// Keys that are kept; what comes later, and what is longer, is read each time.
const KEYS_MAX: usize = 1_024;
const KEY_BYTES_MAX: usize = 64;
/// The number of a key that is not kept.
const NO_KEY: u32 = u32::MAX;

/// The keys that a parser has seen.
#[derive(Debug)]
struct Keys {
    /// Which parser's they are: no other has it.
    id: u64,
    list: Vec<Key>,
    by_text: HashMap<Box<[u8]>, u32>,
    /// The key that the last text began with.
    first: u32,
    /// The key that is expected now, and whose guess that is: the key before, or the text's beginning.
    expected: u32,
    before: u32,
}

#[derive(Debug)]
struct Key {
    /// With its quotes.
    text: Box<[u8]>,
    /// The first 16 bytes of that, and which of them count.
    head: u128,
    mask: u128,
    /// The key that came behind it last.
    next: u32,
}

impl Default for Keys {
    fn default() -> Keys {
        static IDS: AtomicU64 = AtomicU64::new(1);
        let id = IDS.fetch_add(1, Ordering::Relaxed);
        Keys { id, list: Vec::new(), by_text: HashMap::new(), first: NO_KEY, expected: NO_KEY, before: NO_KEY }
    }
}

impl Keys {
    fn begin(&mut self) {
        (self.expected, self.before) = (self.first, NO_KEY);
    }

    /// The length of the expected key, if it lies here.
    fn guess(&self, bytes: &[u8], at: usize) -> Option<usize> {
        let key = self.list.get(self.expected as usize)?;
        let found = match bytes.get(at..at + 16).map(<[u8; 16]>::try_from) {
            Some(Ok(head)) if u128::from_le_bytes(head) & key.mask != key.head => false,
            Some(_) if key.text.len() <= 16 => true,
            _ => bytes[at..].starts_with(&key.text),
        };
        found.then_some(key.text.len())
    }

    /// The expected key was there: its number.
    fn hit(&mut self) -> u32 {
        let number = self.expected;
        (self.before, self.expected) = (number, self.list[number as usize].next);
        number
    }

    /// Another key was there: its number, and a better guess for the next time.
    fn miss(&mut self, text: &[u8]) -> u32 {
        let number = match self.by_text.get(text) {
            Some(number) => *number,
            None if text.len() > KEY_BYTES_MAX || self.list.len() >= KEYS_MAX => return NO_KEY,
            None => {
                let number = self.list.len() as u32;
                let mut head = [0; 16];
                let length = text.len().min(16);
                head[..length].copy_from_slice(&text[..length]);
                let mask = u128::MAX >> (8 * (16 - length));
                self.list.push(Key { text: text.into(), head: u128::from_le_bytes(head), mask, next: NO_KEY });
                self.by_text.insert(text.into(), number);
                number
            }
        };
        match self.list.get_mut(self.before as usize) {
            Some(before) => before.next = number,
            None => self.first = number,
        }
        self.expected = number;
        self.hit()
    }
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
    /// Whose numbers its keys have.
    keys: u64,
}

/// A key's number, by which what is known of its name is found again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KeyNumber {
    /// The parser that gave it: numbers of different ones have nothing to do with each other.
    pub parser: u64,
    /// Counted from 0.
    pub number: usize,
}

/// Parses one text after the other, keeping its memory.
#[derive(Debug, Default)]
pub struct Parser {
    tokens: Vec<Token>,
    open: Vec<u32>,
    keys: Keys,
}

impl Parser {
    /// Parses one whole JSON text.
    pub fn parse<'a>(&'a mut self, bytes: &'a [u8]) -> Result<Json<'a>, NotJson> {
        let text = std::str::from_utf8(bytes)
            .map_err(|error| NotJson { what: "bytes that are not UTF-8", at: error.valid_up_to() })?;
        self.tokens.clear();
        self.open.clear();
        self.keys.begin();
        let mut cursor = Cursor { bytes, at: 0 };
        // What is being read: an object, an array, or nothing but the value itself.
        let mut inside = None;
        'value: loop {
            cursor.skip_space();
            let start = cursor.at;
            let scalar = match cursor.peek() {
                Some(b'"') => Some(cursor.string()?),
                Some(b'-' | b'0'..=b'9') => Some(cursor.number()?),
                Some(b'n') => Some(cursor.literal(b"null", TokenKind::Null)?),
                Some(b't') => Some(cursor.literal(b"true", TokenKind::Bool)?),
                Some(b'f') => Some(cursor.literal(b"false", TokenKind::Bool)?),
                Some(bracket @ (b'{' | b'[')) => {
                    let kind = if bracket == b'{' { TokenKind::Object } else { TokenKind::Array };
                    self.open.push(self.tokens.len() as u32);
                    self.push(kind, start, start);
                    inside = Some(kind);
                    cursor.at += 1;
                    cursor.skip_space();
                    // In ASCII a closing bracket comes two behind the opening one.
                    if cursor.peek() != Some(bracket + 2) {
                        self.key_if_object(kind, &mut cursor)?;
                        continue 'value;
                    }
                    cursor.at += 1;
                    inside = self.close(cursor.at);
                    None
                }
                Some(_) => return Err(cursor.error("a character that begins no value")),
                None => return Err(cursor.error("the end of the text instead of a value")),
            };
            if let Some(kind) = scalar {
                self.push(kind, start, cursor.at);
            }
            loop {
                cursor.skip_space();
                match (inside, cursor.peek()) {
                    (Some(kind), Some(b',')) => {
                        cursor.at += 1;
                        self.key_if_object(kind, &mut cursor)?;
                        continue 'value;
                    }
                    (Some(TokenKind::Object), Some(b'}')) | (Some(TokenKind::Array), Some(b']')) => {
                        cursor.at += 1;
                        inside = self.close(cursor.at);
                    }
                    (Some(_), Some(_)) => return Err(cursor.error("something instead of a comma or bracket")),
                    (Some(_), None) => return Err(cursor.error("the end of the text inside a bracket")),
                    (None, None) => return Ok(Json { text, tokens: &self.tokens, keys: self.keys.id }),
                    (None, Some(_)) => return Err(cursor.error("something after the value's end")),
                }
            }
        }
    }

    fn push(&mut self, kind: TokenKind, start: usize, end: usize) {
        let next = self.tokens.len() as u32 + 1;
        self.tokens.push(Token { kind, start: start as u32, end: end as u32, next });
    }

    /// Ends the innermost container; returns the kind of the one around it.
    fn close(&mut self, end: usize) -> Option<TokenKind> {
        let container = self.open.pop().expect("called while a bracket is open");
        let next = self.tokens.len() as u32;
        let token = &mut self.tokens[container as usize];
        token.end = end as u32;
        token.next = next;
        self.open.last().map(|around| self.tokens[*around as usize].kind)
    }

    fn key_if_object(&mut self, kind: TokenKind, cursor: &mut Cursor<'_>) -> Result<(), NotJson> {
        if kind != TokenKind::Object {
            return Ok(());
        }
        cursor.skip_space();
        let start = cursor.at;
        let (kind, number) = if let Some(length) = self.keys.guess(cursor.bytes, start) {
            cursor.at += length;
            (TokenKind::Plain, self.keys.hit())
        } else {
            if cursor.peek() != Some(b'"') {
                return Err(cursor.error("something instead of a field's name"));
            }
            let kind = cursor.string()?;
            let is_plain = kind == TokenKind::Plain;
            (kind, if is_plain { self.keys.miss(&cursor.bytes[start..cursor.at]) } else { NO_KEY })
        };
        self.tokens.push(Token { kind, start: start as u32, end: cursor.at as u32, next: number });
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

    /// The content of a plain string or key, which is UTF-8.
    pub fn plain(&self, token: Token) -> &'a [u8] {
        debug_assert_eq!(token.kind, TokenKind::Plain);
        &self.text.as_bytes()[token.start as usize + 1..token.end as usize - 1]
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

    /// The number of the key at that index, if its parser keeps it.
    pub fn key(&self, index: u32) -> Option<KeyNumber> {
        let number = self.tokens[index as usize].next;
        (number != NO_KEY).then_some(KeyNumber { parser: self.keys, number: number as usize })
    }

    /// The value of an integer, if it has 64 bits.
    pub fn integer(&self, token: Token) -> Option<i64> {
        let raw = self.raw(token);
        let digits = raw.len() - usize::from(raw.starts_with('-'));
        let end = token.end as usize;
        let word = end.checked_sub(8).and_then(|start| self.text.as_bytes()[start..end].try_into().ok());
        let (Some(word), true) = (word, digits <= 8) else { return raw.parse().ok() };
        let value = i64::from(eight_digits(u64::from_le_bytes(word), digits));
        Some(if digits < raw.len() { -value } else { value })
    }

    /// The token at that index.
    pub fn token(&self, index: u32) -> Token {
        self.tokens[index as usize]
    }
}

/// The number in the last bytes of a word, so many digits from 1 to 8; what lies before them does not count. Pairs, then fours, then
/// eights are put together, each with one multiplication (D. Lemire, "Quickly parsing eight digits").
fn eight_digits(word: u64, digits: usize) -> u32 {
    let shift = 8 * (8 - digits);
    let digits = (word ^ 0x3030_3030_3030_3030) >> shift << shift;
    let pairs = digits.wrapping_mul(10) + (digits >> 8);
    let low = (pairs & 0x0000_00ff_0000_00ff).wrapping_mul(0x000f_4240_0000_0064);
    let high = (pairs >> 16 & 0x0000_00ff_0000_00ff).wrapping_mul(0x0000_2710_0000_0001);
    (low.wrapping_add(high) >> 32) as u32
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
        while let Some(Ok(word)) = self.bytes.get(self.at..self.at + 8).map(<[u8; 8]>::try_from) {
            let values = u64::from_le_bytes(word) ^ 0x3030_3030_3030_3030;
            // A digit is at most 9: 0x76 more leaves its highest bit clear. The lowest bit set is exact.
            let others = (values.wrapping_add(0x7676_7676_7676_7676) | values) & 0x8080_8080_8080_8080;
            if others != 0 {
                self.at += others.trailing_zeros() as usize / 8;
                break;
            }
            self.at += 8;
        }
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
        for (text, value) in [("-0", Some(0)), ("9223372036854775807", Some(i64::MAX)), ("9223372036854775808", None)] {
            let mut parser = Parser::default();
            let json = parser.parse(text.as_bytes()).expect("json");
            assert_eq!(json.integer(json.root()), value);
        }
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

    #[test]
    fn a_key_has_one_number_wherever_it_stands() {
        let mut parser = Parser::default();
        let mut numbers = |text: &str| -> Vec<Option<usize>> {
            let json = parser.parse(text.as_bytes()).expect("json");
            json.field_indexes(0).map(|(key, _)| json.key(key).map(|key| key.number)).collect()
        };
        for _ in 0..3 {
            assert_eq!(numbers(r#"{"a":1,"a key of more than sixteen bytes":2,"c":3}"#), [Some(0), Some(1), Some(2)]);
            assert_eq!(numbers(r#"{ "c" : 3, "a key of more than sixteen letters" : 2 }"#), [Some(2), Some(3)]);
            assert_eq!(numbers(r#"{"\u0061":1,"a":1,"a":1}"#), [None, Some(0), Some(0)]);
            assert_eq!(numbers(&format!(r#"{{"{}":1,"c":1}}"#, "long".repeat(16))), [None, Some(2)]);
        }
        for other in 0..2 * KEYS_MAX {
            numbers(&format!(r#"{{"k{other}":1}}"#));
        }
        assert_eq!(numbers(r#"{"new":1,"c":1}"#), [None, Some(2)]);
    }

    proptest! {
        #[test]
        fn what_was_parsed_before_makes_no_difference(
            texts in prop::collection::vec(
                r#"\{ ?"(a|b|ab|abcdefghijklmno|abcdefghijklmnop|abcdefghijklmnopq|\\n)" ?:(1|"x"|\[\{"a":0,"b":-0\}\]|\{\})(,"(a|b|abcdefghijklmnop)":2)?[,}]?\}?"#,
                1..8,
            ),
        ) {
            let mut used = Parser::default();
            for text in texts {
                let (mut fresh, text) = (Parser::default(), text.as_bytes());
                match (used.parse(text), fresh.parse(text)) {
                    (Ok(one), Ok(other)) => {
                        let ends = |json: Json<'_>| -> Vec<_> {
                            json.tokens.iter().map(|token| (token.kind, token.start, token.end)).collect()
                        };
                        prop_assert_eq!(ends(one), ends(other));
                    }
                    (one, other) => prop_assert_eq!(one.err(), other.err()),
                }
            }
        }

        #[test]
        fn integers_are_read_as_the_standard_library_reads_them(
            value in prop_oneof![any::<i64>(), -100_000_000_i64..=100_000_000, -1_000_i64..1_000],
            before in " {0,9}",
        ) {
            let (text, mut parser) = (format!("{before}{value}"), Parser::default());
            let json = parser.parse(text.as_bytes()).expect("json");
            prop_assert_eq!(json.integer(json.root()), Some(value));
        }

        #[test]
        fn the_same_texts_are_json_as_for_serde(text in r#"[\[\]{}:,"\\ue0-9.\- atrfnlsE+\n]{0,24}"#) {
            let theirs = serde_json::from_str::<serde::de::IgnoredAny>(&text).is_ok();
            // serde checks surrogates only where it decodes the string.
            let theirs = theirs && (!text.contains("\\u") || serde_json::from_str::<serde_json::Value>(&text).is_ok());
            prop_assert_eq!(Parser::default().parse(text.as_bytes()).is_ok(), theirs);
        }
    }
}
