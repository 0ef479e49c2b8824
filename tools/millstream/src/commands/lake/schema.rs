//! A schema file, as far as this side can judge it: that it can be read, is not too long, and is JSON.

use std::path::Path;

use millstream_protocol::limits::LAKE_SCHEMA_BYTES_MAX;
use millstream_protocol::{ByteSize, Code};
use serde::de::IgnoredAny;

use crate::exit::{Exit, Failure};

/// Reads a schema file.
///
/// # Errors
/// Exit 70: it cannot be read; 10: it is too long, or no JSON, with line and column.
pub(super) fn read(path: &Path) -> Result<String, Failure> {
    let bytes = std::fs::read(path)
        .map_err(|error| Failure::local(format!("cannot read the schema file {}: {error}", path.display())))?;
    let illegal = |reason: String| {
        Failure::new(Exit::Code(Code::IllegalLake), format!("the schema file {} {reason}", path.display()))
    };
    if bytes.len() > LAKE_SCHEMA_BYTES_MAX {
        let (size, limit) = (ByteSize(bytes.len() as u64), ByteSize(LAKE_SCHEMA_BYTES_MAX as u64));
        return Err(illegal(format!("has {size}, the limit is {limit}: shorten it")));
    }
    let text = String::from_utf8(bytes).map_err(|error| {
        illegal(format!("is not UTF-8 behind its first {} bytes: save it as UTF-8", error.utf8_error().valid_up_to()))
    })?;
    match serde_json::from_str::<IgnoredAny>(&text) {
        Ok(_) => Ok(text),
        Err(error) => {
            let words = error.to_string();
            let reason = words.split(" at line ").next().unwrap_or(&words);
            let (line, column) = (error.line(), error.column());
            Err(illegal(format!("does not parse: {reason} at line {line}, column {column}: mend it there")))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_does_not_parse_is_named_by_line_and_column() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("s.json");
        let refused = |bytes: &[u8]| {
            std::fs::write(&path, bytes).expect("written");
            let failure = read(&path).expect_err("refused");
            assert_eq!(failure.exit().number(), 10);
            failure.for_machines()
        };
        assert!(refused(b"{\n \"columns\": [1,]\n}").contains("at line 2, column 16"));
        assert!(refused(b"").contains("at line 1, column 0"));
        assert!(refused(b"\"\xff\"").contains("not UTF-8 behind its first 1 bytes"));
        assert!(refused(&vec![b' '; (256 << 10) + 1]).contains("the limit is 256 KiB"));
        std::fs::write(&path, "{}").expect("written");
        assert_eq!(read(&path), Ok("{}".to_owned()));
        assert_eq!(read(dir.path()).expect_err("a directory").exit().number(), 70);
    }
}
