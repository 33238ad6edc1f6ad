//! Incremental parser of response heads and trailers. It keeps only the fields that determine the framing, so an
//! endless head takes no memory.
//!
//! It takes what clients take, because that decides whether a client has its answer: folded lines, mixed line ends, lines
//! that are no fields. It notes such things, because no upgrade may hang on them.

use crate::inspect::framing::{Declared, declares};
use crate::inspect::protocol_detect::is_token;

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
    /// True if lines end in LF alone. Set by the first line; the others match where the server is strict.
    lf_alone: Option<bool>,
    /// False once something was read that clients take and readers may disagree on.
    is_strict: bool,
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
    /// Beginning of a line after the first.
    Line,
    Name,
    /// Value of a framing field.
    Value,
    /// Value of another field, a line that is no field, or the reason phrase.
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
    Head {
        status: u16,
        declared: AnswerHeadResult<Declared>,
        /// True if every reader reads it alike.
        is_strict: bool,
    },
}

impl AnswerHead {
    /// Starts at the first byte of a response.
    pub(super) fn new() -> Self {
        Self {
            at: HeadPosition::Start(0),
            length: 0,
            lf_alone: None,
            is_strict: true,
            status: 0,
            declared: Ok(Declared::Nothing),
            kept: [0; MAX_KEPT],
            named: 0,
            valued: 0,
        }
    }

    /// Starts at the first byte of a trailer section.
    pub(super) fn trailers() -> Self {
        Self { at: HeadPosition::Line, lf_alone: Some(false), ..Self::new() }
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
            (HeadPosition::Start(START) | HeadPosition::Value | HeadPosition::Skip, b'\n') => {
                self.end_line(true)
            }
            (HeadPosition::Start(at), byte) => self.start(at, byte)?,
            (HeadPosition::Line, b'\r') => HeadPosition::EndLf,
            (HeadPosition::Line, b'\n') => return Ok(Some(self.end(true))),
            (HeadPosition::EndLf, b'\n') => return Ok(Some(self.end(false))),
            (HeadPosition::Line, b' ' | b'\t') => self.fold(),
            (HeadPosition::Line, byte) => {
                self.declare();
                self.name(byte)?
            }
            (HeadPosition::Name, byte) => self.name(byte)?,
            (HeadPosition::Value | HeadPosition::Skip, b'\r') => HeadPosition::ValueLf,
            (HeadPosition::ValueLf, b'\n') => self.end_line(false),
            (HeadPosition::Value, byte) if !is_control(byte) => self.value(byte)?,
            (HeadPosition::Skip, 1..) => {
                self.is_strict &= !is_control(byte);
                HeadPosition::Skip
            }
            (
                HeadPosition::BlankLf
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

    /// Ends a line; the next one may continue it.
    fn end_line(&mut self, lf_alone: bool) -> HeadPosition {
        self.is_strict &= *self.lf_alone.get_or_insert(lf_alone) == lf_alone;
        HeadPosition::Line
    }

    /// Ends the section with an empty line.
    fn end(&mut self, lf_alone: bool) -> HeadSection {
        self.end_line(lf_alone);
        self.declare();
        let Self { status, declared, is_strict, .. } = *self;
        HeadSection::Head { status, declared, is_strict }
    }

    /// Takes the framing field that was read, if any.
    fn declare(&mut self) {
        let (name, value) = self.kept[..self.named + self.valued].split_at(self.named);
        if let Ok(before) = self.declared {
            self.declared = before.and_of_answer(name, value);
            self.is_strict &= self.declared == before.and(name, value);
        }
        (self.named, self.valued) = (0, 0);
    }

    /// Continues the line before (RFC 9112 §5.2).
    fn fold(&mut self) -> HeadPosition {
        self.is_strict = false;
        if self.named > 0 { HeadPosition::Value } else { HeadPosition::Skip }
    }

    /// Reads the first line up to the reason phrase (RFC 9112 §4).
    fn start(&mut self, at: usize, byte: u8) -> AnswerHeadResult<HeadPosition> {
        let digits = START - 3;
        let fits = match at {
            _ if at < VERSION.len() => byte.eq_ignore_ascii_case(&VERSION[at]),
            _ if at == VERSION.len() => matches!(byte, b'0' | b'1'),
            _ if at < digits => byte == b' ',
            _ if at < START => byte.is_ascii_digit(),
            _ => matches!(byte, b' ' | b'\r'),
        };
        if !fits {
            return Err("an answer that is not one of HTTP/1");
        }
        self.is_strict &= at >= VERSION.len() || byte == VERSION[at];
        if (digits..START).contains(&at) {
            self.status = self.status * 10 + u16::from(byte - b'0');
        }
        Ok(match byte {
            b'\r' => HeadPosition::ValueLf,
            _ if at == START => HeadPosition::Skip,
            _ => HeadPosition::Start(at + 1),
        })
    }

    /// Reads a byte of a field's name. Clients skip lines whose name is none.
    fn name(&mut self, byte: u8) -> AnswerHeadResult<HeadPosition> {
        if is_token(byte) {
            // A name longer than this is no framing field; the last byte is overwritten.
            self.kept[self.named.min(MAX_KEPT - 1)] = byte;
            self.named = (self.named + 1).min(MAX_KEPT);
            return Ok(HeadPosition::Name);
        }
        let is_framing = declares(&self.kept[..self.named]);
        match byte {
            b':' if is_framing => return Ok(HeadPosition::Value),
            b':' => self.is_strict &= self.named > 0,
            b'\0' | b'\r' | b'\n' => return Err("a line without a colon"),
            // Some clients take it for the field, others for another one.
            _ if is_framing => return Err("a header about the body with something before its colon"),
            _ => self.is_strict = false,
        }
        self.named = 0;
        Ok(HeadPosition::Skip)
    }

    /// Keeps a byte of a framing field's value.
    fn value(&mut self, byte: u8) -> AnswerHeadResult<HeadPosition> {
        let next = self.named + self.valued;
        *self.kept.get_mut(next).ok_or("a header about the body that is too long")? = byte;
        self.valued += 1;
        Ok(HeadPosition::Value)
    }
}

/// True if a byte is invalid in a field value (RFC 9110 §5.5).
fn is_control(byte: u8) -> bool {
    byte.is_ascii_control() && byte != b'\t'
}
