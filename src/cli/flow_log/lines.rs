//! Reads a log line by line, in bounded memory.

use super::LogError;
use super::files::LogFile;
use super::progress::ReadProgress;
use flate2::bufread::MultiGzDecoder;
use std::io::{self, BufRead, BufReader, Read};
use std::ops::ControlFlow;

/// Most bytes kept of a line; no record is longer.
const LONGEST: usize = 16 << 10;
const GZIP: [u8; 2] = [0x1f, 0x8b];
/// Lines between two looks at the clock.
const BETWEEN_LOOKS: u32 = 4096;

/// Calls `each` for every line of a file, plain or gzip by its first bytes, until it breaks. Blank lines are skipped, longer
/// lines cut at 16 KiB. False if the compressed data is damaged, after a message; the lines before the damage count.
pub(in crate::cli) fn read(
    file: &LogFile,
    progress: &mut ReadProgress,
    each: &mut dyn FnMut(&[u8]) -> ControlFlow<()>,
) -> Result<bool, LogError> {
    let failed = |error| LogError::Read(file.to_string(), error);
    let mut raw = BufReader::with_capacity(256 << 10, progress.count(file.open().map_err(failed)?));
    if raw.fill_buf().map_err(failed)?.starts_with(&GZIP) {
        let mut plain = BufReader::with_capacity(256 << 10, MultiGzDecoder::new(raw));
        match each_line(&mut plain, progress, each) {
            Err(error) if is_damage(&error) => {
                let command = progress.command();
                eprintln!("egret {command}: {file} is damaged: {error}; using the lines before the damage");
                return Ok(false);
            }
            done => done,
        }
    } else {
        each_line(&mut raw, progress, each)
    }
    .map_err(failed)?;
    Ok(true)
}

fn is_damage(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::UnexpectedEof | io::ErrorKind::InvalidData | io::ErrorKind::InvalidInput
    )
}

fn each_line(
    from: &mut dyn BufRead,
    progress: &mut ReadProgress,
    each: &mut dyn FnMut(&[u8]) -> ControlFlow<()>,
) -> io::Result<()> {
    let mut line = Vec::with_capacity(LONGEST);
    let mut count = 0_u32;
    while next_line(from, &mut line)? {
        count = count.wrapping_add(1);
        if count.is_multiple_of(BETWEEN_LOOKS) {
            progress.tell();
        }
        let text = line.trim_ascii();
        if !text.is_empty() && each(text).is_break() {
            break;
        }
    }
    Ok(())
}

/// The next line, at most [`LONGEST`] bytes of it; false at the end.
fn next_line(from: &mut dyn BufRead, line: &mut Vec<u8>) -> io::Result<bool> {
    line.clear();
    if from.take(LONGEST as u64).read_until(b'\n', line)? == 0 {
        return Ok(false);
    }
    let mut whole = line.ends_with(b"\n") || line.len() < LONGEST;
    while !whole {
        let more = from.fill_buf()?;
        let end = more.iter().position(|&b| b == b'\n');
        whole = end.is_some() || more.is_empty();
        let taken = end.map_or(more.len(), |end| end + 1);
        from.consume(taken);
    }
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_lines_are_bounded() {
        let long = "x".repeat(3 * LONGEST);
        let text = format!("a\n{long}\nb\n\nc");
        let mut from = text.as_bytes();
        let (mut line, mut lengths) = (Vec::new(), Vec::new());
        while next_line(&mut from, &mut line).unwrap() {
            lengths.push(line.len());
            assert!(line.capacity() <= 4 * LONGEST);
        }
        assert_eq!(lengths, [2, LONGEST, 2, 1, 1]);
    }
}
