//! Questions to the kernel over netlink (RFC 3549), and its answers message by message.
//!
//! Two fixed requests and two fixed answers are read here, so that byte offsets do, and no library is needed.

use nix::errno::Errno;
use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, recv, send, socket};
use socket2::SockRef;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::time::{Duration, Instant};

/// The kernel fills no larger buffer with one part of an answer.
const BUFFER: usize = 32 * 1024;
/// `struct nlmsghdr`: length, type, flags, sequence number, port.
const HEADER: usize = 16;
/// The sequence number in it; an answer has that of its question.
const SEQUENCE: usize = 8;
/// Messages start at multiples of this.
const ALIGNMENT: usize = 4;
/// `NLMSG_ERROR`, whose body begins with a negative errno or 0.
const ERROR: u16 = 2;
/// `NLMSG_DONE`, which ends a list, and says in the same way whether it is whole.
const DONE: u16 = 3;
/// `NLM_F_REQUEST`
const REQUEST: u16 = 1;
/// `NLM_F_ROOT | NLM_F_MATCH`: all entries, not one.
const LIST: u16 = 0x300;

/// What is wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Want {
    /// One message.
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

    /// Asks, and calls `each` with type and body of every message of the answer, until it is whole or `each` fails.
    /// `TimedOut` after the deadline; what the kernel refuses is its errno. After an error the socket is of no more use:
    /// the rest of an answer may still be in it.
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

    /// Asks about each of a few bodies in one system call, and calls `each` with its position and its answer: a message's
    /// body, or the errno that the kernel refuses it with. After an error the socket is of no more use.
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

    /// The true length of the next datagram.
    fn receive(&self, buffer: &mut [u8], deadline: Instant) -> io::Result<usize> {
        // The kernel answers most questions before the call that asks them returns.
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

/// The first message's type and body, and what follows it.
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

/// In the machine's byte order.
pub(super) fn u32_at(bytes: &[u8], offset: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(array_at(bytes, offset)?))
}

pub(super) fn array_at<const N: usize>(bytes: &[u8], offset: usize) -> Option<[u8; N]> {
    bytes.get(offset..)?.first_chunk().copied()
}

pub(super) fn malformed() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "the kernel's answer is not understood")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_taken_apart_and_never_read_past_their_end() {
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
    fn a_list_that_failed_is_none() {
        let netlink = Netlink::open(SockProtocol::NetlinkSockDiag).unwrap();
        // SOCK_DIAG_BY_FAMILY: the sockets of a protocol that has none, RFC 3692's 253.
        let mut body = [0; 56];
        (body[0], body[1]) = (2, 253);
        let deadline = crate::clock::now() + Duration::from_secs(10);
        let answer =
            netlink.ask(20, Want::List, &body, deadline, |kind, _| panic!("a message of kind {kind}"));
        assert_eq!(answer.unwrap_err().raw_os_error(), Some(libc::ENOENT));
    }

    #[test]
    fn a_refusal_is_its_errno() {
        assert_eq!(refusal(&(-libc::ENOENT).to_ne_bytes()).unwrap_err().raw_os_error(), Some(libc::ENOENT));
        assert!(refusal(&0i32.to_ne_bytes()).is_ok());
        assert!(refusal(&[]).is_err());
    }
}
