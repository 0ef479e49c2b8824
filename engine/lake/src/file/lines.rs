//! NDJSON: each record's value as it is, one a line.

use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use flate2::write::GzEncoder;
use millstream_protocol::frame::control::LakeCompression;

use super::BuildError;
use super::spool::{Spool, SpoolWriter};
use crate::json::compact;

/// What a compressor may keep to itself, about.
const COMPRESSOR_BYTES: usize = 1 << 20;

/// An NDJSON file under construction.
pub(crate) struct LinesFile {
    spool_dir: PathBuf,
    writer: LinesWriter,
}

enum LinesWriter {
    Plain(SpoolWriter),
    Zstd(zstd::stream::write::Encoder<'static, SpoolWriter>),
    Gzip(GzEncoder<SpoolWriter>),
}

impl LinesFile {
    /// An empty one.
    pub fn create(spool_dir: &Path, compression: LakeCompression) -> Result<LinesFile, BuildError> {
        let create = || {
            let spool = SpoolWriter::create(spool_dir)?;
            Ok(match compression {
                LakeCompression::Zstd => LinesWriter::Zstd(zstd::stream::write::Encoder::new(spool, 3)?),
                LakeCompression::Gzip => LinesWriter::Gzip(GzEncoder::new(spool, flate2::Compression::new(6))),
                _ => LinesWriter::Plain(spool),
            })
        };
        Ok(LinesFile { spool_dir: spool_dir.to_owned(), writer: create().map_err(BuildError::spool(spool_dir))? })
    }

    /// Takes a value, which is valid JSON.
    pub fn push(&mut self, value: &[u8]) -> Result<(), BuildError> {
        self.write(value).map_err(BuildError::spool(&self.spool_dir))
    }

    fn write(&mut self, value: &[u8]) -> io::Result<()> {
        let writer: &mut dyn Write = match &mut self.writer {
            LinesWriter::Plain(writer) => writer,
            LinesWriter::Zstd(writer) => writer,
            LinesWriter::Gzip(writer) => writer,
        };
        match std::str::from_utf8(value) {
            Ok(text) if memchr::memchr2(b'\n', b'\r', value).is_some() => {
                let mut line = String::with_capacity(text.len());
                compact(text, &mut line);
                writer.write_all(line.as_bytes())?;
            }
            _ => writer.write_all(value)?,
        }
        writer.write_all(b"\n")
    }

    /// About how large the file is by now.
    pub fn written(&self) -> u64 {
        match &self.writer {
            LinesWriter::Plain(writer) => writer.size(),
            LinesWriter::Zstd(writer) => writer.get_ref().size(),
            LinesWriter::Gzip(writer) => writer.get_ref().size(),
        }
    }

    /// About how much memory it holds.
    pub fn memory(&self) -> usize {
        match &self.writer {
            LinesWriter::Plain(_) => 0,
            _ => COMPRESSOR_BYTES,
        }
    }

    /// Completes the file.
    pub fn finish(self) -> Result<Spool, BuildError> {
        let finished = match self.writer {
            LinesWriter::Plain(writer) => Ok(writer),
            LinesWriter::Zstd(writer) => writer.finish(),
            LinesWriter::Gzip(writer) => writer.finish(),
        };
        finished.and_then(SpoolWriter::finish).map_err(BuildError::spool(&self.spool_dir))
    }
}

/// Reads an NDJSON file's text by the ending of its name.
pub(crate) fn line_reader<'a>(name: &str, bytes: &'a [u8]) -> io::Result<Box<dyn Read + Send + 'a>> {
    Ok(if name.ends_with(".zst") {
        Box::new(zstd::stream::read::Decoder::with_buffer(bytes)?)
    } else if name.ends_with(".gz") {
        Box::new(flate2::read::MultiGzDecoder::new(bytes))
    } else {
        Box::new(bytes)
    })
}
