//! One page of a list: pure, over the keys in order.

use std::collections::BTreeMap;
use std::ops::Bound;

/// S3's own bound of a page.
pub const PAGE_MAX: usize = 1_000;

/// What is listed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Listing {
    /// Only keys that begin so.
    pub prefix: String,
    /// Keys that share what comes before this, behind the prefix, are one common prefix; empty: none do.
    pub delimiter: String,
    /// Only what comes behind.
    pub after: After,
    /// Keys and common prefixes on a page, at most [`PAGE_MAX`].
    pub count_max: usize,
}

/// Where a page begins.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum After {
    /// Behind this key; "" is the beginning.
    Key(String),
    /// Behind all keys of this common prefix.
    Prefix(String),
}

impl Default for After {
    fn default() -> Self {
        After::Key(String::new())
    }
}

impl After {
    /// As a continuation token.
    pub fn encode(&self) -> String {
        match self {
            After::Key(key) => format!("k{key}"),
            After::Prefix(prefix) => format!("p{prefix}"),
        }
    }

    /// Reads a continuation token; `None` if it is not one of ours.
    pub fn decode(token: &str) -> Option<After> {
        match token.split_at_checked(1)? {
            ("k", key) => Some(After::Key(key.to_owned())),
            ("p", prefix) => Some(After::Prefix(prefix.to_owned())),
            _ => None,
        }
    }
}

/// One page.
#[derive(Debug, PartialEq, Eq)]
pub struct Page<'a, T> {
    /// What has these keys.
    pub items: Vec<(&'a str, &'a T)>,
    /// Common prefixes.
    pub prefixes: Vec<String>,
    /// Where the next page begins, if there is one.
    pub next: Option<After>,
}

/// One page of a list over the keys that are shown.
pub fn page<'a, T>(keys: &'a BTreeMap<String, T>, listing: &Listing, shown: impl Fn(&str) -> bool) -> Page<'a, T> {
    let count_max = listing.count_max.min(PAGE_MAX);
    let mut page = Page { items: Vec::new(), prefixes: Vec::new(), next: None };
    let mut last = listing.after.clone();
    let mut begin = begin(&last);
    if begin_key(&begin) < listing.prefix.as_str() {
        begin = Bound::Included(listing.prefix.clone());
    }
    while let Some((key, item)) = keys.range::<str, _>((as_ref(&begin), Bound::Unbounded)).next() {
        if !key.starts_with(&listing.prefix) {
            break;
        }
        begin = Bound::Excluded(key.clone());
        let is_behind = matches!(&last, After::Prefix(prefix) if key.starts_with(prefix.as_str()));
        if is_behind || !shown(key) {
            continue;
        }
        if page.items.len() + page.prefixes.len() == count_max {
            // A page of none has no next: asked with `max-keys=0`.
            page.next = (count_max > 0).then_some(last);
            break;
        }
        let rest = &key[listing.prefix.len()..];
        match rest.find(&listing.delimiter).filter(|_| !listing.delimiter.is_empty()) {
            Some(at) => {
                let common = &key[..listing.prefix.len() + at + listing.delimiter.len()];
                page.prefixes.push(common.to_owned());
                last = After::Prefix(common.to_owned());
            }
            None => {
                page.items.push((key, item));
                last = After::Key(key.clone());
            }
        }
    }
    page
}

fn begin(after: &After) -> Bound<String> {
    match after {
        After::Key(key) => Bound::Excluded(key.clone()),
        After::Prefix(prefix) => Bound::Included(prefix.clone()),
    }
}

fn begin_key(bound: &Bound<String>) -> &str {
    match bound {
        Bound::Included(key) | Bound::Excluded(key) => key,
        Bound::Unbounded => "",
    }
}

fn as_ref(bound: &Bound<String>) -> Bound<&str> {
    match bound {
        Bound::Included(key) => Bound::Included(key),
        Bound::Excluded(key) => Bound::Excluded(key),
        Bound::Unbounded => Bound::Unbounded,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys() -> BTreeMap<String, usize> {
        let names = ["a", "d=1/x", "d=1/y", "d=1/z/1", "d=2/x", "d=2/y", "e/x", "f"];
        names.iter().enumerate().map(|(number, name)| ((*name).to_owned(), number)).collect()
    }

    /// All pages, one behind the other: keys, and prefixes in brackets.
    fn all(listing: &Listing) -> String {
        let (keys, mut listing, mut out) = (keys(), listing.clone(), Vec::new());
        loop {
            let page = page(&keys, &listing, |key| key != "e/x");
            assert!(page.items.len() + page.prefixes.len() <= listing.count_max);
            let mut of_page: Vec<(String, String)> =
                page.items.iter().map(|(key, _)| (key.to_string(), key.to_string())).collect();
            of_page.extend(page.prefixes.iter().map(|prefix| (prefix.clone(), format!("[{prefix}]"))));
            of_page.sort();
            out.extend(of_page.into_iter().map(|(_, text)| text));
            match page.next {
                Some(next) => listing.after = After::decode(&next.encode()).expect("our own"),
                None => return out.join(" "),
            }
        }
    }

    #[test]
    fn pages_of_any_size_say_the_same() {
        for count_max in 1..9 {
            let listing = |prefix: &str, delimiter: &str, after: &str| Listing {
                prefix: prefix.into(),
                delimiter: delimiter.into(),
                after: After::Key(after.into()),
                count_max,
            };
            assert_eq!(all(&listing("", "", "")), "a d=1/x d=1/y d=1/z/1 d=2/x d=2/y f");
            assert_eq!(all(&listing("", "/", "")), "a [d=1/] [d=2/] f");
            assert_eq!(all(&listing("d=1/", "/", "")), "d=1/x d=1/y [d=1/z/]");
            assert_eq!(all(&listing("d=", "", "d=1/y")), "d=1/z/1 d=2/x d=2/y");
            assert_eq!(all(&listing("d=", "/", "d=1/y")), "[d=1/] [d=2/]");
            assert_eq!(all(&listing("x", "", "")), "");
            assert_eq!(all(&listing("", "", "zzz")), "");
        }
        let none = page(&keys(), &Listing::default(), |_| true).next;
        assert_eq!(none, None, "a page of no keys is the last");
    }
}
