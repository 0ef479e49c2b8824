//! What a request asks for, as far as faults are concerned: which operation, on which key.

use hyper::http::request::Parts;
use hyper::{Method, header};
use percent_encoding::percent_decode_str;

/// The kinds of operation that can be made to fail. Operations on buckets are none of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Operation {
    /// PutObject.
    Put,
    /// GetObject, of a range or the whole.
    Get,
    /// HeadObject.
    Head,
    /// DeleteObject, and DeleteObjects: that one has no key of its own.
    Delete,
    /// ListObjectsV2: its key is the prefix that is listed.
    List,
}

impl Operation {
    /// All of them.
    pub const ALL: [Operation; 5] =
        [Operation::Put, Operation::Get, Operation::Head, Operation::Delete, Operation::List];
}

/// What a request asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Asked {
    /// The operation.
    pub operation: Operation,
    /// Its bucket.
    pub bucket: String,
    /// The object's key; a list's prefix.
    pub key: String,
    /// Whether it is done under a condition only: others are never told of a conflict, by chance.
    pub is_conditional: bool,
}

impl Asked {
    /// Reads a path-style request; `None` for what is asked of a bucket, or is no S3.
    pub fn parse(request: &Parts) -> Option<Asked> {
        let Parts { method, uri, headers, .. } = request;
        let path = percent_decode_str(uri.path().strip_prefix('/')?).decode_utf8().ok()?;
        let (bucket, key) = path.split_once('/').unwrap_or((&path, ""));
        let query = || url::form_urlencoded::parse(uri.query().unwrap_or_default().as_bytes());
        let operation = match (method, key.is_empty()) {
            (&Method::PUT, false) => Operation::Put,
            (&Method::GET, false) => Operation::Get,
            (&Method::HEAD, false) => Operation::Head,
            (&Method::DELETE, false) => Operation::Delete,
            (&Method::POST, true) if query().any(|(name, _)| name == "delete") => Operation::Delete,
            (&Method::GET, true) if query().any(|(name, value)| name == "list-type" && value == "2") => Operation::List,
            _ => return None,
        };
        let prefix = || query().find(|(name, _)| name == "prefix").map(|(_, value)| value.into_owned());
        let key = if operation == Operation::List { prefix().unwrap_or_default() } else { key.to_owned() };
        let is_conditional = headers.contains_key(header::IF_NONE_MATCH) || headers.contains_key(header::IF_MATCH);
        Some(Asked { operation, bucket: bucket.to_owned(), key, is_conditional })
    }

    /// A request without a condition.
    #[cfg(test)]
    pub fn plain(operation: Operation, bucket: &str, key: &str) -> Asked {
        Asked { operation, bucket: bucket.to_owned(), key: key.to_owned(), is_conditional: false }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(method: Method, uri: &str) -> Option<(Operation, String)> {
        let request = hyper::Request::builder().method(method).uri(uri).header("If-None-Match", "*").body(());
        let asked = Asked::parse(&request.expect("a request").into_parts().0)?;
        assert_eq!((asked.bucket.as_str(), asked.is_conditional), ("b", true));
        Some((asked.operation, asked.key))
    }

    #[test]
    fn operations_are_told_apart_and_keys_decoded() {
        let is = |operation, key: &str| Some((operation, key.to_owned()));
        assert_eq!(asked(Method::PUT, "/b/dir/day%3D1/x+y.parquet"), is(Operation::Put, "dir/day=1/x+y.parquet"));
        assert_eq!(asked(Method::GET, "/b/a"), is(Operation::Get, "a"));
        assert_eq!(asked(Method::HEAD, "/b/a"), is(Operation::Head, "a"));
        assert_eq!(asked(Method::DELETE, "/b/a"), is(Operation::Delete, "a"));
        assert_eq!(asked(Method::POST, "/b?delete"), is(Operation::Delete, ""));
        assert_eq!(asked(Method::GET, "/b?list-type=2&prefix=day%3D1%2F"), is(Operation::List, "day=1/"));
        for (method, uri) in [(Method::PUT, "/b"), (Method::HEAD, "/b/"), (Method::POST, "/b?x"), (Method::GET, "/")] {
            assert_eq!(asked(method, uri), None);
        }
    }
}
