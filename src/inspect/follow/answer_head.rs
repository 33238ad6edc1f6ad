//! Heads of answers and their trailers, byte by byte: only what says what follows is kept, so that a head that never ends
//! takes no memory.

use super::framing::{Declared, declares};
use crate::inspect::spoken::is_token;

/// Headers of one answer.
const MAX_FIELDS: u16 = 256;
/// What is kept of a line: the name of a field or the value of one that matters.
const MAX_KEPT: usize = 64;

const VERSION: &[u8] = b"HTTP/1.";
/// Version and status.
const START: usize = VERSION.len() + "1 200".len();

type Result<T, E = &'static str> = std::result::Result<T, E>;

/// Where in a section its reader is.
#[derive(Debug)]
pub(super) struct AnswerHead {
    at: At,
    /// Bytes so far.
    length: usize,
    /// Whether lines end in LF alone, which decides the first: servers that do so do it with all.
    lf_alone: Option<bool>,
    fields: u16,
    status: u16,
    declared: Result<Declared>,
    kept: [u8; MAX_KEPT],
    /// Bytes of `kept` that count: the name, then the value.
    named: usize,
    valued: usize,
}

#[derive(Debug, Clone, Copy)]
enum At {
    /// So many bytes of the first line.
    Start(usize),
    /// The line feed of an empty line before the first.
    BlankLf,
    Name,
    /// Of a field that matters.
    Value,
    /// Of another field, or the reason.
    Skip,
    ValueLf,
    EndLf,
}

/// What has come to its end.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Section {
    /// An empty line where an answer should begin: some servers end a body with one that no length counts.
    Blank,
    /// The head of an answer, or a trailer section, which has no status.
    Head { status: u16, declared: Result<Declared> },
}

impl AnswerHead {
    /// At the first byte of an answer.
    pub(super) fn new() -> Self {
        Self {
            at: At::Start(0),
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

    /// At the first byte of a trailer section.
    pub(super) fn trailers() -> Self {
        Self { at: At::Name, lf_alone: Some(false), ..Self::new() }
    }

    /// Whether nothing has come yet.
    pub(super) fn is_at_start(&self) -> bool {
        self.length == 0
    }

    /// Reads on: how many of the bytes belong to the section, of at most `max` bytes, and what it is if it ends with them.
    pub(super) fn read(&mut self, bytes: &[u8], max: usize) -> Result<(usize, Option<Section>)> {
        let mut used = 0;
        while let Some(&byte) = bytes.get(used) {
            let run = if matches!(self.at, At::Skip) {
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

    fn step(&mut self, byte: u8) -> Result<Option<Section>> {
        self.at = match (self.at, byte) {
            (At::Start(0), b'\r') => At::BlankLf,
            (At::BlankLf | At::Start(0), b'\n') => return Ok(Some(Section::Blank)),
            (At::Start(START), b'\n') => self.end_line(true)?,
            (At::Start(at), byte) => self.start(at, byte)?,
            (At::Name, b'\r') if self.named == 0 => At::EndLf,
            (At::Name, b':') if self.named > 0 => self.named()?,
            (At::Name, byte) if is_token(byte) => {
                // A longer name is none that matters, and stays one.
                self.kept[self.named.min(MAX_KEPT - 1)] = byte;
                self.named = (self.named + 1).min(MAX_KEPT);
                At::Name
            }
            (At::Value | At::Skip, b'\r') => At::ValueLf,
            (At::Value, byte) if !is_control(byte) => {
                let next = self.named + self.valued;
                *self.kept.get_mut(next).ok_or("a header about the body that is too long")? = byte;
                self.valued += 1;
                At::Value
            }
            (At::Skip, byte) if !is_control(byte) => At::Skip,
            (At::Value | At::Skip, b'\n') => self.end_line(true)?,
            (At::ValueLf, b'\n') => self.end_line(false)?,
            (At::Name, b'\n') if self.named == 0 && self.lf_alone == Some(true) => {
                return Ok(Some(Section::Head { status: self.status, declared: self.declared }));
            }
            (At::EndLf, b'\n') if self.lf_alone == Some(false) => {
                return Ok(Some(Section::Head { status: self.status, declared: self.declared }));
            }
            (At::BlankLf | At::Name | At::Value | At::Skip | At::ValueLf | At::EndLf, _) => {
                return Err("an answer that is not one of HTTP/1");
            }
        };
        Ok(None)
    }

    /// After a line, which ends as those before it do.
    fn end_line(&mut self, lf_alone: bool) -> Result<At> {
        if *self.lf_alone.get_or_insert(lf_alone) != lf_alone {
            return Err("lines that end in CR LF, and in LF alone");
        }
        let (name, value) = self.kept[..self.named + self.valued].split_at(self.named);
        self.declared = self.declared.and_then(|declared| declared.and(name, value));
        (self.named, self.valued) = (0, 0);
        Ok(At::Name)
    }

    /// In the first line, as far as the reason (RFC 9112 §4).
    fn start(&mut self, at: usize, byte: u8) -> Result<At> {
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
            b'\r' => At::ValueLf,
            _ if at == START => At::Skip,
            _ => At::Start(at + 1),
        })
    }

    /// After a field's name.
    fn named(&mut self) -> Result<At> {
        self.fields += 1;
        if self.fields > MAX_FIELDS {
            return Err("too many headers");
        }
        if declares(&self.kept[..self.named]) {
            return Ok(At::Value);
        }
        self.named = 0;
        Ok(At::Skip)
    }
}

/// Whether a byte may not stand in a value (RFC 9110 §5.5).
fn is_control(byte: u8) -> bool {
    byte.is_ascii_control() && byte != b'\t'
}
