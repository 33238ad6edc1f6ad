//! Incremental parser of the chunks of a body (RFC 9112 §7.1), which buffers nothing. The trailer section after the
//! last chunk is parsed elsewhere.

/// Maximum bytes of extensions for one chunk.
const MAX_ASIDE: u16 = 8 * 1024;
/// 15 hexadecimal digits fit any integer in which a server may store the size.
const MAX_DIGITS: u8 = 15;

/// Parser state within a chunked body.
#[derive(Debug)]
pub(super) struct Chunks {
    at: At,
    /// Bytes of the extension so far.
    aside: u16,
}

#[derive(Debug, Clone, Copy)]
enum At {
    Size { size: u64, digits: u8 },
    Extension(u64),
    SizeLf(u64),
    Data(u64),
    DataCr,
    DataLf,
}

const SIZE: At = At::Size { size: 0, digits: 0 };

impl Chunks {
    /// Starts at the first byte of a body.
    pub(super) fn new() -> Self {
        Self { at: SIZE, aside: 0 }
    }

    /// Bytes of data that need no parsing.
    pub(super) fn free(&self) -> u64 {
        if let At::Data(left) = self.at { left } else { 0 }
    }

    /// Records that at most [`Self::free`] bytes were forwarded without parsing.
    pub(super) fn passed(&mut self, bytes: u64) {
        if let At::Data(left) = &mut self.at {
            *left -= bytes;
            if *left == 0 {
                self.at = At::DataCr;
            }
        }
    }

    /// Parses on. Returns how many of the bytes belong to chunks, and true if the last chunk's line ends with them.
    pub(super) fn read(&mut self, bytes: &[u8]) -> Result<(usize, bool), &'static str> {
        let mut used = 0;
        while let Some(&byte) = bytes.get(used) {
            if let At::Data(left) = self.at {
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
    fn step(&mut self, byte: u8) -> Result<Option<At>, &'static str> {
        Ok(Some(match (self.at, byte) {
            (At::Size { size, digits }, byte) if byte.is_ascii_hexdigit() => {
                if digits == MAX_DIGITS {
                    return Err("a chunk size of too many digits");
                }
                let digit = char::from(byte).to_digit(16).unwrap_or_default();
                At::Size { size: size << 4 | u64::from(digit), digits: digits + 1 }
            }
            (At::Size { size, digits: 1.. }, b';') => {
                self.aside = 0;
                At::Extension(size)
            }
            (At::Size { size, digits: 1.. } | At::Extension(size), b'\r') => At::SizeLf(size),
            (At::Extension(size), byte) if self.is_aside(byte)? => At::Extension(size),
            (At::SizeLf(0), b'\n') => return Ok(None),
            (At::SizeLf(size), b'\n') => At::Data(size),
            (At::DataCr, b'\r') => At::DataLf,
            (At::DataLf, b'\n') => SIZE,
            (At::Size { .. }, _) => return Err("a chunk size that is not a number"),
            (At::DataCr | At::DataLf, _) => return Err("a chunk longer than its size"),
            (At::Extension(_) | At::SizeLf(_) | At::Data(_), _) => {
                return Err("a chunk's line with a control byte");
            }
        }))
    }

    /// True if a byte is valid in an extension; such bytes are counted.
    fn is_aside(&mut self, byte: u8) -> Result<bool, &'static str> {
        if byte.is_ascii_control() && byte != b'\t' {
            return Ok(false);
        }
        if self.aside == MAX_ASIDE {
            return Err("chunk extensions that are too long");
        }
        self.aside += 1;
        Ok(true)
    }
}
