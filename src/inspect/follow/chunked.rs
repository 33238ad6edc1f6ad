//! Incremental parser of the chunks of a body (RFC 9112 §7.1), which buffers nothing. The trailer section after the
//! last chunk is parsed elsewhere.
//!
//! Chunks of requests are read strictly. Those of answers are read as clients read them, because that alone decides
//! whether a client takes its answer for whole.

/// Maximum bytes of extensions and padding for one chunk.
const MAX_ASIDE: u16 = 8 * 1024;
/// 15 hexadecimal digits fit any integer in which a server may store the size.
const MAX_DIGITS: u8 = 15;

/// Parser state within a chunked body.
#[derive(Debug)]
pub(super) struct Chunks {
    at: ChunkPosition,
    /// Bytes of the extension, or of more zeros than [`MAX_DIGITS`], so far.
    aside: u16,
    is_answer: bool,
    /// False once something was read that a request may not have.
    is_strict: bool,
}

#[derive(Debug, Clone, Copy)]
enum ChunkPosition {
    Size { size: u64, digits: u8 },
    Extension(u64),
    SizeLf(u64),
    Data(u64),
    DataCr,
    DataLf,
}

const SIZE: ChunkPosition = ChunkPosition::Size { size: 0, digits: 0 };

impl Chunks {
    /// Starts at the first byte of a request's body.
    pub(super) fn of_request() -> Self {
        Self { at: SIZE, aside: 0, is_answer: false, is_strict: true }
    }

    /// Starts at the first byte of an answer's body.
    pub(super) fn of_answer() -> Self {
        Self { is_answer: true, ..Self::of_request() }
    }

    /// True if the chunks so far might be those of a request.
    pub(super) fn is_strict(&self) -> bool {
        self.is_strict
    }

    /// Bytes of data that need no parsing.
    pub(super) fn free(&self) -> u64 {
        if let ChunkPosition::Data(left) = self.at { left } else { 0 }
    }

    /// Records that at most [`Self::free`] bytes were forwarded without parsing.
    pub(super) fn passed(&mut self, bytes: u64) {
        if let ChunkPosition::Data(left) = &mut self.at {
            *left -= bytes;
            if *left == 0 {
                self.at = ChunkPosition::DataCr;
            }
        }
    }

    /// Parses on. Returns how many of the bytes belong to chunks, and true if the last chunk's line ends with them.
    pub(super) fn read(&mut self, bytes: &[u8]) -> Result<(usize, bool), &'static str> {
        let mut used = 0;
        while let Some(&byte) = bytes.get(used) {
            if let ChunkPosition::Data(left) = self.at {
                let here = usize::try_from(left).unwrap_or(usize::MAX).min(bytes.len() - used);
                self.passed(here as u64);
                used += here;
                continue;
            }
            match self.step(byte) {
                Ok(Some(next)) => self.at = next,
                Ok(None) => return Ok((used + 1, true)),
                // Valid bytes before the error pass first, as they do if the input is split there.
                Err(_) if used > 0 => break,
                Err(why) => return Err(why),
            }
            used += 1;
        }
        Ok((used, false))
    }

    /// Returns the state after `byte`; `None` after the last chunk's line.
    fn step(&mut self, byte: u8) -> Result<Option<ChunkPosition>, &'static str> {
        let strictly = self.strict(byte);
        if strictly.is_ok() || !self.is_answer {
            return strictly;
        }
        self.is_strict = false;
        self.as_clients_do(byte)
    }

    /// Like [`Self::strict`] for a byte that it refuses.
    fn as_clients_do(&mut self, byte: u8) -> Result<Option<ChunkPosition>, &'static str> {
        Ok(Some(match (self.at, byte) {
            (ChunkPosition::Size { size, digits: MAX_DIGITS }, digit)
                if digit.is_ascii_hexdigit() && size < 1 << (4 * (MAX_DIGITS - 1)) =>
            {
                self.count_aside()?;
                ChunkPosition::Size { size: with_digit(size, digit), digits: MAX_DIGITS }
            }
            (ChunkPosition::Size { size: 0, digits: 1.. } | ChunkPosition::Extension(0), b'\n') => {
                return Ok(None);
            }
            (ChunkPosition::Size { size, digits: 1.. } | ChunkPosition::Extension(size), b'\n') => {
                ChunkPosition::Data(size)
            }
            (ChunkPosition::Size { size, digits: 1.. }, b' ' | b'\t') => ChunkPosition::Extension(size),
            (ChunkPosition::Extension(size), 1..) => {
                self.count_aside()?;
                ChunkPosition::Extension(size)
            }
            (ChunkPosition::DataCr, b'\n') => self.next(),
            _ => return Err("a chunk that no client takes"),
        }))
    }

    /// Starts the next chunk.
    fn next(&mut self) -> ChunkPosition {
        self.aside = 0;
        SIZE
    }

    fn strict(&mut self, byte: u8) -> Result<Option<ChunkPosition>, &'static str> {
        Ok(Some(match (self.at, byte) {
            (ChunkPosition::Size { size, digits }, byte) if byte.is_ascii_hexdigit() => {
                if digits == MAX_DIGITS {
                    return Err("a chunk size of too many digits");
                }
                ChunkPosition::Size { size: with_digit(size, byte), digits: digits + 1 }
            }
            (ChunkPosition::Size { size, digits: 1.. }, b';') => ChunkPosition::Extension(size),
            (ChunkPosition::Size { size, digits: 1.. } | ChunkPosition::Extension(size), b'\r') => {
                ChunkPosition::SizeLf(size)
            }
            (ChunkPosition::Extension(size), byte) if self.is_aside(byte)? => ChunkPosition::Extension(size),
            (ChunkPosition::SizeLf(0), b'\n') => return Ok(None),
            (ChunkPosition::SizeLf(size), b'\n') => ChunkPosition::Data(size),
            (ChunkPosition::DataCr, b'\r') => ChunkPosition::DataLf,
            (ChunkPosition::DataLf, b'\n') => self.next(),
            (ChunkPosition::Size { .. }, _) => return Err("a chunk size that is not a number"),
            (ChunkPosition::DataCr | ChunkPosition::DataLf, _) => return Err("a chunk longer than its size"),
            (ChunkPosition::Extension(_) | ChunkPosition::SizeLf(_) | ChunkPosition::Data(_), _) => {
                return Err("a chunk's line with a control byte");
            }
        }))
    }

    /// True if a byte is valid in an extension; such bytes are counted.
    fn is_aside(&mut self, byte: u8) -> Result<bool, &'static str> {
        if byte.is_ascii_control() && byte != b'\t' {
            return Ok(false);
        }
        self.count_aside()?;
        Ok(true)
    }

    fn count_aside(&mut self) -> Result<(), &'static str> {
        if self.aside == MAX_ASIDE {
            return Err("chunk extensions that are too long");
        }
        self.aside += 1;
        Ok(())
    }
}

/// Appends a hexadecimal digit.
fn with_digit(size: u64, digit: u8) -> u64 {
    size << 4 | u64::from(char::from(digit).to_digit(16).unwrap_or_default())
}
