//! What a stream, group, queue or lake may be called. Names are never paths: directories are made of numbers.

use crate::limits::NAME_BYTES_MAX;

/// Why a name is not legal; `Display` says what to do.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IllegalName {
    /// The name is empty.
    #[error("the name is empty: use 1–{NAME_BYTES_MAX} of a-z 0-9 . _ -")]
    Empty,
    /// The name is too long.
    #[error("the name has {0} bytes, the limit is {NAME_BYTES_MAX}: shorten it")]
    TooLong(usize),
    /// The name begins with `.` or `_`, which are kept for the system.
    #[error("the name {0:?} begins with '.' or '_': begin it with a letter or digit")]
    Reserved(String),
    /// A character outside the set.
    #[error("the name {name:?} has {found:?} in it: use only a-z 0-9 . _ -")]
    Character {
        /// The name, cut to the limit.
        name: String,
        /// The first character that is not allowed.
        found: char,
    },
}

/// Checks a name that a client gave: 1–128 bytes of `[a-z0-9._-]`, not beginning with `.` or `_`.
///
/// # Errors
/// [`IllegalName`], which becomes [`crate::Code::IllegalName`].
pub fn check_name(name: &str) -> Result<(), IllegalName> {
    if name.is_empty() {
        return Err(IllegalName::Empty);
    }
    if name.len() > NAME_BYTES_MAX {
        return Err(IllegalName::TooLong(name.len()));
    }
    if name.starts_with(['.', '_']) {
        return Err(IllegalName::Reserved(name.to_owned()));
    }
    let allowed = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '.' | '_' | '-');
    match name.chars().find(|c| !allowed(*c)) {
        Some(found) => Err(IllegalName::Character { name: name.to_owned(), found }),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_controls_and_long_names_are_refused() {
        let long = "a".repeat(300);
        for bad in ["", "../x", "a/b", "a\0b", "A", "_x", ".x", "ä", "a b", "\u{202e}x", long.as_str()] {
            assert!(check_name(bad).is_err(), "{bad:?}");
        }
        for good in ["flights", "a", "rides.eu-1_v2", "0", "-x", &"a".repeat(128)] {
            assert!(check_name(good).is_ok(), "{good:?}");
        }
    }
}
