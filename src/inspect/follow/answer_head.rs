//! Incremental parser of response heads and trailers. It keeps only the fields that determine the framing, so an
//! endless head takes no memory.

use crate::inspect::framing::{Declared, declares};
use crate::inspect::protocol_detect::is_token;

/// Maximum number of headers in one response.
const MAX_FIELDS: u16 = 256;
/// Bytes kept of a line: the field name, or the value of a framing field.
const MAX_KEPT: usize = 64;

const VERSION: &[u8] = b"HTTP/1.";
/// Length of version and status.
const START: usize = VERSION.len() + "1 200".len();

type AnswerHeadResult<T, E = &'static str> = Result<T, E>;

/// Parser state within a head or trailer section.
#[derive(Debug)]
pub(super) struct AnswerHead {
    at: HeadPosition,
    /// Bytes read so far.
    length: usize,
    /// True if lines end in LF alone. Set by the first line; the others must match, as those of such servers do.
    lf_alone: Option<bool>,
    fields: u16,
    status: u16,
    declared: AnswerHeadResult<Declared>,
    kept: [u8; MAX_KEPT],
    /// Number of valid bytes in `kept`: the name, then the value.
    named: usize,
    valued: usize,
}

#[derive(Debug, Clone, Copy)]
enum HeadPosition {
    /// Number of bytes read of the first line.
    Start(usize),
    /// LF of an empty line before the first line.
    BlankLf,
    Name,
    /// Value of a framing field.
    Value,
    /// Value of another field, or the reason phrase.
    Skip,
    ValueLf,
    EndLf,
}

/// A section that was read to its end.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum HeadSection {
    /// An empty line before a response: some servers end a body with one that no length counts.
    Blank,
    /// Head of a response, or a trailer section, which has no status.
    Head { status: u16, declared: AnswerHeadResult<Declared> },
}

impl AnswerHead {
    /// Starts at the first byte of a response.
    pub(super) fn new() -> Self {
        Self {
            at: HeadPosition::Start(0),
            length: 0,
            lf_alone: None,
            fields: 0,
            status: 0,
            declared: Ok(Declared::Nothing),
            kept: [0; MAX_KEPT],
            named: 0,
            valued: 0,
        }
    }

    /// Starts at the first byte of a trailer section.
    pub(super) fn trailers() -> Self {
        Self { at: HeadPosition::Name, lf_alone: Some(false), ..Self::new() }
    }

    /// True if no byte has been read.
    pub(super) fn is_at_start(&self) -> bool {
        self.length == 0
    }

    /// Reads on. Returns how many of the bytes, at most `max`, belong to the section, and the section if it ends with
    /// them.
    pub(super) fn read(
        &mut self,
        bytes: &[u8],
        max: usize,
    ) -> AnswerHeadResult<(usize, Option<HeadSection>)> {
        let mut used = 0;
        while let Some(&byte) = bytes.get(used) {
            let run = if matches!(self.at, HeadPosition::Skip) {
                bytes[used..].iter().position(|&b| is_control(b)).unwrap_or(bytes.len() - used)
            } else {
                0
            };
            used += run.max(1);
            self.length += run.max(1);
            if self.length > max {
                return Err("a head that is too large");
            }
            if run == 0
                && let Some(section) = self.step(byte)?
            {
                return Ok((used, Some(section)));
            }
        }
        Ok((used, None))
    }

    fn step(&mut self, byte: u8) -> AnswerHeadResult<Option<HeadSection>> {
        self.at = match (self.at, byte) {
            (HeadPosition::Start(0), b'\r') => HeadPosition::BlankLf,
            (HeadPosition::BlankLf | HeadPosition::Start(0), b'\n') => return Ok(Some(HeadSection::Blank)),
            (HeadPosition::Start(START), b'\n') => self.end_line(true)?,
            (HeadPosition::Start(at), byte) => self.start(at, byte)?,
            (HeadPosition::Name, b'\r') if self.named == 0 => HeadPosition::EndLf,
            (HeadPosition::Name, b':') if self.named > 0 => self.named()?,
            (HeadPosition::Name, byte) if is_token(byte) => {
                // A name longer than this is no framing field; the last byte is overwritten.
                self.kept[self.named.min(MAX_KEPT - 1)] = byte;
                self.named = (self.named + 1).min(MAX_KEPT);
                HeadPosition::Name
            }
            (HeadPosition::Value | HeadPosition::Skip, b'\r') => HeadPosition::ValueLf,
            (HeadPosition::Value, byte) if !is_control(byte) => {
                let next = self.named + self.valued;
                *self.kept.get_mut(next).ok_or("a header about the body that is too long")? = byte;
                self.valued += 1;
                HeadPosition::Value
            }
            (HeadPosition::Skip, byte) if !is_control(byte) => HeadPosition::Skip,
            (HeadPosition::Value | HeadPosition::Skip, b'\n') => self.end_line(true)?,
            (HeadPosition::ValueLf, b'\n') => self.end_line(false)?,
            (HeadPosition::Name, b'\n') if self.named == 0 && self.lf_alone == Some(true) => {
                return Ok(Some(HeadSection::Head { status: self.status, declared: self.declared }));
            }
            (HeadPosition::EndLf, b'\n') if self.lf_alone == Some(false) => {
                return Ok(Some(HeadSection::Head { status: self.status, declared: self.declared }));
            }
            (
                HeadPosition::BlankLf
                | HeadPosition::Name
                | HeadPosition::Value
                | HeadPosition::Skip
                | HeadPosition::ValueLf
                | HeadPosition::EndLf,
                _,
            ) => {
                return Err("an answer that is not one of HTTP/1");
            }
        };
        Ok(None)
    }

    /// Ends a line, whose line ending must match that of the lines before.
    fn end_line(&mut self, lf_alone: bool) -> AnswerHeadResult<HeadPosition> {
        if *self.lf_alone.get_or_insert(lf_alone) != lf_alone {
            return Err("lines that end in CR LF, and in LF alone");
        }
        let (name, value) = self.kept[..self.named + self.valued].split_at(self.named);
        self.declared = self.declared.and_then(|declared| declared.and(name, value));
        (self.named, self.valued) = (0, 0);
        Ok(HeadPosition::Name)
    }

    /// Reads the first line up to the reason phrase (RFC 9112 §4).
    fn start(&mut self, at: usize, byte: u8) -> AnswerHeadResult<HeadPosition> {
        let digits = START - 3;
        let fits = match at {
            _ if at < VERSION.len() => byte == VERSION[at],
            _ if at == VERSION.len() => matches!(byte, b'0' | b'1'),
            _ if at < digits => byte == b' ',
            _ if at < START => byte.is_ascii_digit(),
            _ => matches!(byte, b' ' | b'\r'),
        };
        if !fits {
            return Err("an answer that is not one of HTTP/1");
        }
        if (digits..START).contains(&at) {
            self.status = self.status * 10 + u16::from(byte - b'0');
        }
        Ok(match byte {
            b'\r' => HeadPosition::ValueLf,
            _ if at == START => HeadPosition::Skip,
            _ => HeadPosition::Start(at + 1),
        })
    }

    /// Handles the end of a field name.
    fn named(&mut self) -> AnswerHeadResult<HeadPosition> {
        self.fields += 1;
        if self.fields > MAX_FIELDS {
            return Err("too many headers");
        }
        if declares(&self.kept[..self.named]) {
            return Ok(HeadPosition::Value);
        }
        self.named = 0;
        Ok(HeadPosition::Skip)
    }
}

/// True if a byte is invalid in a field value (RFC 9110 §5.5).
fn is_control(byte: u8) -> bool {
    byte.is_ascii_control() && byte != b'\t'
}
