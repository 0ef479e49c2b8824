//! A file on a local disk, without a name: it goes with the process. Not synced: it can be made again from the log.

use std::fs::File;
use std::io::{self, BufWriter, Read, Seek, SeekFrom, Write};
use std::path::Path;

use bytes::Bytes;

/// Hundreds of files may be open, and each holds as much.
const BUFFER_BYTES: usize = 64 << 10;

/// A finished spool file.
#[derive(Debug)]
pub struct Spool {
    file: File,
    size: u64,
}

/// A spool file being written.
#[derive(Debug)]
pub struct SpoolWriter {
    file: BufWriter<File>,
    size: u64,
}

impl SpoolWriter {
    /// An empty one in `directory`, which is made if it is missing.
    pub fn create(directory: &Path) -> io::Result<Self> {
        std::fs::create_dir_all(directory)?;
        let file = tempfile::tempfile_in(directory)?;
        Ok(Self { file: BufWriter::with_capacity(BUFFER_BYTES, file), size: 0 })
    }

    /// Bytes written so far.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Ends it.
    pub fn finish(self) -> io::Result<Spool> {
        let file = self.file.into_inner().map_err(io::IntoInnerError::into_error)?;
        Ok(Spool { file, size: self.size })
    }
}

impl Write for SpoolWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.file.write(bytes)?;
        self.size += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

impl Spool {
    /// How large it is.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// All of it. Blocks.
    pub fn read(&self) -> io::Result<Bytes> {
        let mut file = &self.file;
        file.seek(SeekFrom::Start(0))?;
        let mut out = Vec::with_capacity(self.size as usize);
        file.read_to_end(&mut out)?;
        if out.len() as u64 != self.size {
            return Err(io::Error::other(format!("the spool has {} of {} bytes", out.len(), self.size)));
        }
        Ok(out.into())
    }
}
