//! Requests to the kernel over netlink (RFC 3549), with its answers message by message.
//!
//! Only a few fixed structures and attributes are used, so byte offsets suffice, without a library.

use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, recv, send, setsockopt,
    socket, sockopt,
};
use socket2::SockRef;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

/// Maximum size that the kernel fills with one part of an answer.
const BUFFER: usize = 32 * 1024;
/// `struct nlmsghdr`: length, type, flags, sequence number, port.
const HEADER: usize = 16;
/// Offset of the sequence number in it; an answer repeats the request's.
const SEQUENCE: usize = 8;
/// `struct nlattr`: length, kind.
const ATTRIBUTE: usize = 4;
/// Messages and attributes are aligned to this.
const ALIGNMENT: usize = 4;
/// `NLMSG_ERROR`; its body starts with a negative errno or 0.
const ERROR: u16 = 2;
/// `NLMSG_DONE`, which ends a list; its body, like that of an error, tells whether the list is complete.
const DONE: u16 = 3;
/// Maximum messages discarded at once; the rest is left for the next call.
const MOST_AT_ONCE: usize = 100_000;
/// `NLM_F_REQUEST`
const REQUEST: u16 = 1;
/// `NLM_F_ROOT | NLM_F_MATCH`: all entries instead of one.
const LIST: u16 = 0x300;

/// Kind of request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Want {
    /// A single message.
    One,
    /// All entries, one message each.
    List,
}

/// A socket to one of the kernel's netlink services.
#[derive(Debug)]
pub(super) struct Netlink(OwnedFd);

impl Netlink {
    pub(super) fn open(service: SockProtocol) -> io::Result<Self> {
        Ok(Self(socket(AddressFamily::Netlink, SockType::Datagram, SockFlag::SOCK_CLOEXEC, service)?))
    }

    /// Subscribes to these groups, one bit each; the socket must not be used for requests.
    pub(super) fn listen(service: SockProtocol, groups: u32) -> io::Result<Self> {
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        let netlink = Self(socket(AddressFamily::Netlink, SockType::Datagram, flags, service)?);
        bind(netlink.0.as_raw_fd(), &NetlinkAddr::new(0, groups))?;
        Ok(netlink)
    }

    /// Sends messages (type, flags, body) as one nf_tables transaction (`nfnetlink_rcv_batch()`).
    pub(super) fn transact(&self, messages: Vec<(u16, u16, Vec<u8>)>, deadline: Instant) -> io::Result<()> {
        const BEGIN: u16 = 0x10; // NFNL_MSG_BATCH_BEGIN
        const END: u16 = 0x11;
        const ACKNOWLEDGE: u16 = 4; // NLM_F_ACK
        // struct nfgenmsg: no family, version 0, NFNL_SUBSYS_NFTABLES
        let frame = [0, 0, 0, 10];
        let last = messages.len().saturating_sub(1);
        let mut batch = padded(request(BEGIN, REQUEST, &frame));
        for (number, (kind, flags, body)) in messages.into_iter().enumerate() {
            let acknowledge = if number == last { ACKNOWLEDGE } else { 0 };
            batch.extend(padded(request(kind, REQUEST | flags | acknowledge, &body)));
        }
        batch.extend(padded(request(END, REQUEST, &frame)));
        // Answers to an earlier, abandoned batch.
        self.discard_pending()?;
        // Beyond net.core.wmem_max it needs a privilege that root in a container may lack; most batches need neither.
        let room = batch.len() + BUFFER;
        if setsockopt(&self.0, sockopt::SndBufForce, &room).is_err() {
            setsockopt(&self.0, sockopt::SndBuf, &room)?;
        }
        send(self.0.as_raw_fd(), &batch, MsgFlags::empty())?;
        let mut buffer = vec![0; BUFFER];
        let length = self.receive(&mut buffer, deadline)?;
        match split(buffer.get(..length).ok_or_else(malformed)?).ok_or_else(malformed)? {
            (ERROR, body, _) => refusal(body),
            _ => Err(malformed()),
        }
    }

    /// Makes lists contain only entries that match the request's fields.
    pub(super) fn filter_strictly(&self) -> io::Result<()> {
        let on: libc::c_int = 1;
        // SAFETY: the option takes an int, which `on` is; it outlives the call.
        #[expect(unsafe_code, reason = "nix has no NETLINK_GET_STRICT_CHK")]
        let result = unsafe {
            let size = libc::socklen_t::try_from(size_of_val(&on)).unwrap_or_default();
            let option = libc::NETLINK_GET_STRICT_CHK;
            libc::setsockopt(self.0.as_raw_fd(), libc::SOL_NETLINK, option, (&raw const on).cast(), size)
        };
        if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
    }

    /// Discards pending messages. True if there were any, or if some were lost (`ENOBUFS`).
    pub(super) fn discard_pending(&self) -> io::Result<bool> {
        let mut any = false;
        for _ in 0..MOST_AT_ONCE {
            match recv(self.0.as_raw_fd(), &mut [0; 16], MsgFlags::MSG_DONTWAIT) {
                Ok(_) | Err(Errno::ENOBUFS) => any = true,
                Err(Errno::EINTR) => {}
                Err(Errno::EAGAIN) => break,
                Err(error) => return Err(error.into()),
            }
        }
        Ok(any)
    }

    /// Sends a request, and calls `each` with type and body of every message of the answer, until it is complete or
    /// `each` fails. `TimedOut` after the deadline; a refusal by the kernel is its errno. After an error the socket
    /// must not be used again, because the rest of an answer may still be in it.
    pub(super) fn ask(
        &self,
        kind: u16,
        want: Want,
        body: &[u8],
        deadline: Instant,
        mut each: impl FnMut(u16, &[u8]) -> io::Result<()>,
    ) -> io::Result<()> {
        let flags = if want == Want::List { REQUEST | LIST } else { REQUEST };
        send(self.0.as_raw_fd(), &request(kind, flags, body), MsgFlags::empty())?;
        let mut buffer = vec![0; BUFFER];
        loop {
            let length = self.receive(&mut buffer, deadline)?;
            let mut rest = buffer.get(..length).ok_or_else(malformed)?;
            while !rest.is_empty() {
                let (kind, body, next) = split(rest).ok_or_else(malformed)?;
                rest = next;
                match kind {
                    DONE | ERROR => return refusal(body),
                    _ => each(kind, body)?,
                }
                if want == Want::One {
                    return Ok(());
                }
            }
        }
    }

    /// Sends one request per body in a single system call, and calls `each` with its position and its answer: a
    /// message's body, or the errno of the kernel's refusal. After an error the socket must not be used again.
    pub(super) fn ask_each(
        &self,
        kind: u16,
        bodies: &[[u8; 56]],
        deadline: Instant,
        mut each: impl FnMut(usize, Result<&[u8], i32>) -> io::Result<()>,
    ) -> io::Result<()> {
        let mut messages = Vec::with_capacity(bodies.len() * (HEADER + 56));
        for (number, body) in (0..).zip(bodies) {
            let mut message = request(kind, REQUEST, body);
            message[SEQUENCE..SEQUENCE + 4].copy_from_slice(&u32::to_ne_bytes(number));
            messages.extend(message);
        }
        send(self.0.as_raw_fd(), &messages, MsgFlags::empty())?;
        let mut buffer = [0; 1024];
        for _ in bodies {
            let length = self.receive(&mut buffer, deadline)?;
            let message = buffer.get(..length).ok_or_else(malformed)?;
            let number = u32_at(message, SEQUENCE).and_then(|number| usize::try_from(number).ok());
            let number = number.filter(|&number| number < bodies.len()).ok_or_else(malformed)?;
            match split(message).ok_or_else(malformed)? {
                (ERROR, body, _) => match refusal(body) {
                    Ok(()) => return Err(malformed()),
                    Err(error) => each(number, Err(error.raw_os_error().unwrap_or(0)))?,
                },
                (answer, body, _) if answer == kind => each(number, Ok(body))?,
                _ => return Err(malformed()),
            }
        }
        Ok(())
    }

    /// Receives a datagram and returns its full length.
    fn receive(&self, buffer: &mut [u8], deadline: Instant) -> io::Result<usize> {
        // The kernel answers most requests before the sending call returns.
        let mut flags = MsgFlags::MSG_TRUNC | MsgFlags::MSG_DONTWAIT;
        loop {
            let left = deadline.saturating_duration_since(crate::clock::now());
            if left < Duration::from_millis(1) {
                return Err(io::ErrorKind::TimedOut.into());
            }
            if !flags.contains(MsgFlags::MSG_DONTWAIT) {
                SockRef::from(&self.0).set_read_timeout(Some(left))?;
            }
            match recv(self.0.as_raw_fd(), buffer, flags) {
                Ok(length) => return Ok(length),
                Err(Errno::EINTR | Errno::EAGAIN) => flags = MsgFlags::MSG_TRUNC,
                Err(error) => return Err(error.into()),
            }
        }
    }
}

fn padded(mut message: Vec<u8>) -> Vec<u8> {
    message.resize(message.len().next_multiple_of(ALIGNMENT), 0);
    message
}

impl AsFd for Netlink {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

fn request(kind: u16, flags: u16, body: &[u8]) -> Vec<u8> {
    let length = u32::try_from(HEADER + body.len()).unwrap_or(u32::MAX);
    let mut message = Vec::with_capacity(HEADER + body.len());
    message.extend(length.to_ne_bytes());
    message.extend(kind.to_ne_bytes());
    message.extend(flags.to_ne_bytes());
    message.extend([0; 8]); // one request on a socket at a time: no sequence number is needed, and the port is given
    message.extend(body);
    message
}

/// Splits off the first message: its type, its body, and the bytes after it.
fn split(bytes: &[u8]) -> Option<(u16, &[u8], &[u8])> {
    let length = usize::try_from(u32_at(bytes, 0)?).ok()?;
    let kind = u16::from_ne_bytes(array_at(bytes, 4)?);
    let body = bytes.get(HEADER..length)?;
    let next = bytes.get(length.next_multiple_of(ALIGNMENT)..).unwrap_or_default();
    Some((kind, body, next))
}

fn refusal(body: &[u8]) -> io::Result<()> {
    match i32::from_ne_bytes(array_at(body, 0).ok_or_else(malformed)?) {
        0 => Ok(()),
        errno => Err(io::Error::from_raw_os_error(-errno)),
    }
}

/// Builds an attribute (`struct nlattr`) with its padding.
pub(super) fn attribute_of(kind: u16, value: &[u8]) -> Vec<u8> {
    let length = u16::try_from(ATTRIBUTE + value.len()).unwrap_or(u16::MAX);
    let mut attribute = [length.to_ne_bytes(), kind.to_ne_bytes()].concat();
    attribute.extend(value);
    attribute.resize(attribute.len().next_multiple_of(ALIGNMENT), 0);
    attribute
}

/// Iterates over kind and value of each attribute, up to the first malformed one.
pub(super) fn attributes(mut bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let length = usize::from(u16::from_ne_bytes(array_at(bytes, 0)?));
        // the upper bits are flags
        let kind = u16::from_ne_bytes(array_at(bytes, 2)?) & 0x3fff;
        let value = bytes.get(ATTRIBUTE..length)?;
        bytes = bytes.get(length.next_multiple_of(ALIGNMENT)..).unwrap_or_default();
        Some((kind, value))
    })
}

/// Returns the first attribute of a kind.
pub(super) fn attribute(bytes: &[u8], kind: u16) -> Option<&[u8]> {
    attributes(bytes).find(|(found, _)| *found == kind).map(|(_, value)| value)
}

/// Reads a number in native byte order.
pub(super) fn u32_at(bytes: &[u8], offset: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(array_at(bytes, offset)?))
}

pub(super) fn array_at<const N: usize>(bytes: &[u8], offset: usize) -> Option<[u8; N]> {
    bytes.get(offset..)?.first_chunk().copied()
}

/// Reads a text up to its NUL.
pub(super) fn text(value: &[u8]) -> String {
    let text = value.split(|byte| *byte == 0).next().unwrap_or_default();
    String::from_utf8_lossy(text).into_owned()
}

pub(super) fn malformed() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "the kernel's answer is not understood")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parsing_never_reads_past_end() {
        let mut two = request(7, 0, &[1, 2, 3]);
        two.push(0); // padding
        two.extend(request(8, 0, &[]));
        let (kind, body, rest) = split(&two).unwrap();
        assert_eq!((kind, body), (7, &[1, 2, 3][..]));
        assert_eq!(split(rest).unwrap(), (8, &[][..], &[][..]));
        for cut in 0..19 {
            assert_eq!(split(&two[..cut]), None, "{cut}");
        }
        let mut short = request(7, 0, &[]);
        short[0] = 3; // shorter than its own header
        assert_eq!(split(&short), None);
    }

    #[test]
    fn attributes_round_trip() {
        let mut bytes = [attribute_of(1, b"abc"), attribute_of(0x8002, &[])].concat();
        assert_eq!(attributes(&bytes).collect::<Vec<_>>(), [(1, &b"abc"[..]), (2, &[])]);
        assert_eq!(attribute(&bytes, 1), Some(&b"abc"[..]));
        assert_eq!(attribute(&bytes, 3), None);
        for cut in 0..7 {
            assert_eq!(attribute(&bytes[..cut], 1), None, "{cut}");
        }
        bytes[0] = 3; // shorter than its own header
        assert_eq!(attributes(&bytes).next(), None);
    }

    #[test]
    fn text_ends_at_its_nul() {
        for (bytes, read) in [(&b"raw\0\0x"[..], "raw"), (b"raw", "raw"), (b"\0", ""), (b"", "")] {
            assert_eq!(text(bytes), read);
        }
    }

    #[test]
    fn failed_list_is_none() {
        let netlink = Netlink::open(SockProtocol::NetlinkSockDiag).unwrap();
        // SOCK_DIAG_BY_FAMILY: sockets of a protocol that has none, RFC 3692's 253.
        let mut body = [0; 56];
        (body[0], body[1]) = (2, 253);
        let deadline = crate::clock::now() + Duration::from_secs(10);
        let answer =
            netlink.ask(20, Want::List, &body, deadline, |kind, _| panic!("a message of kind {kind}"));
        assert_eq!(answer.unwrap_err().raw_os_error(), Some(libc::ENOENT));
    }

    #[test]
    fn refusal_is_its_errno() {
        assert_eq!(refusal(&(-libc::ENOENT).to_ne_bytes()).unwrap_err().raw_os_error(), Some(libc::ENOENT));
        assert!(refusal(&0i32.to_ne_bytes()).is_ok());
        assert!(refusal(&[]).is_err());
    }
}
