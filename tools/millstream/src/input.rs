//! Lines from a file or stdin, compressed or not, a block at a time.
//!
//! Zstandard and gzip are recognised by their first bytes, not by the name, so `-` works for them too. Each line is a
//! slice of the block it was read in: nothing is copied, and memory is bounded by the block and the longest legal line.
//! A block ends where a read ends, so lines that trickle in from a pipe are handed on as they come.
//! Not here: what a line means (`commands::produce::parse`).

use std::fs::File;
use std::io::{self, Cursor, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::{Bytes, BytesMut};
use flate2::read::MultiGzDecoder;
use memchr::{memchr, memchr_iter};
use millstream_protocol::limits::RECORD_BYTES_MAX;

/// How much is read at once.
const BLOCK_BYTES: usize = 256 << 10;
/// A longer line is passed over: no stream takes it.
pub const LINE_BYTES_MAX: usize = RECORD_BYTES_MAX + 2;

const ZSTD_MAGIC: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];
const GZIP_MAGIC: [u8; 2] = [0x1f, 0x8b];
const BYTE_ORDER_MARK: [u8; 3] = [0xef, 0xbb, 0xbf];

/// Where lines come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// This process's stdin.
    Stdin,
    /// A file.
    File(PathBuf),
}

impl Source {
    /// What a command line names: `-` is stdin.
    pub fn named(name: &Path) -> Self {
        if name == Path::new("-") { Source::Stdin } else { Source::File(name.to_owned()) }
    }

    /// What errors call it.
    pub fn name(&self) -> String {
        match self {
            Source::Stdin => "stdin".into(),
            Source::File(path) => path.display().to_string(),
        }
    }

    /// Its size as stored, if it is a plain file.
    pub fn length(&self) -> Option<u64> {
        match self {
            Source::Stdin => None,
            Source::File(path) => std::fs::metadata(path).ok().filter(|file| file.is_file()).map(|file| file.len()),
        }
    }

    /// Opens it; `consumed` counts its stored bytes as they are read.
    ///
    /// # Errors
    /// It cannot be opened or its beginning not be read.
    pub fn open(&self, consumed: Arc<AtomicU64>) -> io::Result<Lines> {
        match self {
            Source::Stdin => Lines::new(Counted { inner: io::stdin(), consumed }),
            Source::File(path) => {
                // Reading a directory fails later and says less.
                if path.is_dir() {
                    return Err(io::Error::new(io::ErrorKind::IsADirectory, "it is a directory"));
                }
                Lines::new(Counted { inner: File::open(path)?, consumed })
            }
        }
    }
}

/// One line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Line {
    /// Its bytes, without the line break.
    Whole(Bytes),
    /// Longer than [`LINE_BYTES_MAX`]: how many bytes it has.
    TooLong(u64),
}

/// The lines of an input, in blocks.
pub struct Lines {
    reader: Box<dyn Read + Send>,
    /// Read but not yet handed out: the beginning of a line.
    rest: BytesMut,
    /// How much of `rest` has been searched for a line break.
    searched: usize,
    /// The length so far of a line that is being passed over.
    passing: Option<u64>,
    is_first: bool,
    is_done: bool,
}

impl Lines {
    /// Finds out how the input is compressed and reads it accordingly.
    ///
    /// # Errors
    /// Its beginning cannot be read.
    pub fn new(mut raw: impl Read + Send + 'static) -> io::Result<Self> {
        let mut head = Vec::with_capacity(ZSTD_MAGIC.len());
        raw.by_ref().take(ZSTD_MAGIC.len() as u64).read_to_end(&mut head)?;
        let compression = match head.as_slice() {
            head if head == ZSTD_MAGIC => Compression::Zstd,
            head if head.starts_with(&GZIP_MAGIC) => Compression::Gzip,
            _ => Compression::None,
        };
        let whole = Cursor::new(head).chain(raw);
        let reader: Box<dyn Read + Send> = match compression {
            Compression::None => Box::new(whole),
            Compression::Zstd => Box::new(zstd::stream::read::Decoder::new(whole)?),
            Compression::Gzip => Box::new(MultiGzDecoder::new(io::BufReader::with_capacity(64 << 10, whole))),
        };
        Ok(Self { reader, rest: BytesMut::new(), searched: 0, passing: None, is_first: true, is_done: false })
    }

    /// The next lines, at least one; `None` at the end.
    ///
    /// # Errors
    /// The input cannot be read, or is damaged.
    pub fn next_block(&mut self) -> io::Result<Option<Vec<Line>>> {
        let mut lines = Vec::new();
        while lines.is_empty() {
            if self.is_done {
                return Ok(None);
            }
            if self.read()? == 0 {
                self.is_done = true;
                self.finish(&mut lines);
            } else {
                self.split(&mut lines);
            }
        }
        Ok(Some(lines))
    }

    fn read(&mut self) -> io::Result<usize> {
        let have = self.rest.len();
        self.rest.resize(have + BLOCK_BYTES, 0);
        let read = loop {
            match self.reader.read(&mut self.rest[have..]) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                other => break other,
            }
        };
        self.rest.truncate(have + *read.as_ref().unwrap_or(&0));
        let read = read?;
        if self.is_first && self.rest.len() >= BYTE_ORDER_MARK.len() {
            self.is_first = false;
            if self.rest.starts_with(&BYTE_ORDER_MARK) {
                let _ = self.rest.split_to(BYTE_ORDER_MARK.len());
            }
        }
        Ok(read)
    }

    fn split(&mut self, lines: &mut Vec<Line>) {
        if let Some(passed) = self.passing {
            let Some(end) = memchr(b'\n', &self.rest) else {
                self.passing = Some(passed + self.rest.len() as u64);
                self.rest.clear();
                return;
            };
            lines.push(Line::TooLong(passed + end as u64));
            let _ = self.rest.split_to(end + 1);
            (self.passing, self.searched) = (None, 0);
        }
        let from = self.searched.min(self.rest.len());
        let Some(last) = memchr::memrchr(b'\n', &self.rest[from..]).map(|at| from + at) else {
            self.searched = self.rest.len();
            if self.rest.len() > LINE_BYTES_MAX {
                self.passing = Some(self.rest.len() as u64);
                self.rest.clear();
            }
            return;
        };
        let block = self.rest.split_to(last + 1).freeze();
        self.searched = 0;
        let mut start = 0;
        for end in memchr_iter(b'\n', &block) {
            lines.push(line(block.slice(start..end)));
            start = end + 1;
        }
        // What is left begins a line that is searched from its start: `split` ended at the last line break.
        self.searched = self.rest.len();
    }

    fn finish(&mut self, lines: &mut Vec<Line>) {
        match self.passing.take() {
            Some(passed) => lines.push(Line::TooLong(passed + self.rest.len() as u64)),
            None if self.rest.is_empty() => {}
            None => lines.push(line(self.rest.split().freeze())),
        }
    }
}

#[derive(Debug, Clone, Copy)]
enum Compression {
    None,
    Zstd,
    Gzip,
}

fn line(bytes: Bytes) -> Line {
    let bytes = if bytes.last() == Some(&b'\r') { bytes.slice(..bytes.len() - 1) } else { bytes };
    if bytes.len() > LINE_BYTES_MAX { Line::TooLong(bytes.len() as u64) } else { Line::Whole(bytes) }
}

struct Counted<R> {
    inner: R,
    consumed: Arc<AtomicU64>,
}

impl<R: Read> Read for Counted<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(buffer)?;
        self.consumed.fetch_add(read as u64, Ordering::Relaxed);
        Ok(read)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    /// Hands out a few bytes at a time, as a pipe may.
    struct Trickle(Cursor<Vec<u8>>, usize);

    impl Read for Trickle {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            let end = buffer.len().min(self.1);
            self.0.read(&mut buffer[..end])
        }
    }

    fn read(bytes: &[u8], at_once: usize) -> Vec<Line> {
        let mut lines = Lines::new(Trickle(Cursor::new(bytes.to_vec()), at_once)).expect("it opens");
        let mut all = Vec::new();
        while let Some(block) = lines.next_block().expect("it reads") {
            assert!(!block.is_empty());
            all.extend(block);
        }
        all
    }

    fn whole(lines: &[&str]) -> Vec<Line> {
        lines.iter().map(|line| Line::Whole(Bytes::copy_from_slice(line.as_bytes()))).collect()
    }

    #[test]
    fn lines_are_the_same_however_the_input_is_cut_and_packed() {
        let text = b"\xef\xbb\xbfone\n\ntwo\r\nthree, longer than the rest\nlast";
        let expected = whole(&["one", "", "two", "three, longer than the rest", "last"]);
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        gzip.write_all(text).expect("in memory");
        let gzip = gzip.finish().expect("in memory");
        let zstd = zstd::encode_all(&text[..], 3).expect("in memory");
        for packed in [text.to_vec(), gzip, zstd] {
            for at_once in [1, 2, 3, 5, 7, 1 << 20] {
                assert_eq!(read(&packed, at_once), expected, "{at_once} bytes at once");
            }
        }
    }

    #[test]
    fn several_packed_parts_in_a_row_are_one_input() {
        let parts = [&b"a\nb"[..], &b"c\nd\n"[..]];
        let zstd: Vec<u8> = parts.iter().flat_map(|part| zstd::encode_all(*part, 3).expect("in memory")).collect();
        assert_eq!(read(&zstd, 1 << 20), whole(&["a", "bc", "d"]));
    }

    #[test]
    fn an_empty_input_has_no_line_and_a_break_alone_has_one() {
        assert_eq!(read(b"", 9), []);
        assert_eq!(read(b"\n", 9), whole(&[""]));
    }

    #[test]
    fn a_line_that_no_stream_takes_is_passed_over_in_bounded_memory() {
        let mut text = b"before\n".to_vec();
        text.extend(std::iter::repeat_n(b'x', 3 * LINE_BYTES_MAX));
        text.extend(b"\nafter\n");
        text.extend(std::iter::repeat_n(b'y', 2 * LINE_BYTES_MAX));
        let lines = read(&text, 1 << 20);
        let [before, long, after, last] = lines.as_slice() else { panic!("{} lines", lines.len()) };
        assert_eq!([before, after], [&whole(&["before"])[0], &whole(&["after"])[0]]);
        assert_eq!(*long, Line::TooLong(3 * LINE_BYTES_MAX as u64));
        assert_eq!(*last, Line::TooLong(2 * LINE_BYTES_MAX as u64));
    }

    #[test]
    fn a_damaged_input_is_an_error_not_an_end() {
        let mut packed = zstd::encode_all(&[b'x'; 100_000][..], 3).expect("in memory");
        packed.truncate(packed.len() - 3);
        let mut lines = Lines::new(Cursor::new(packed)).expect("the beginning is whole");
        let end = std::iter::from_fn(|| lines.next_block().transpose()).find_map(Result::err);
        assert!(end.is_some());
    }
}
