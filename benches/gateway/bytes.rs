//! Bulk transfer without copies, to keep the cost of the end hosts low.

use nix::errno::Errno;
use nix::sys::sendfile::sendfile64;
use nix::sys::socket::{MsgFlags, recv};
use std::fs::File;
use std::io::Write;
use std::os::fd::{AsFd, AsRawFd};

/// The connection has ended or failed.
#[derive(Debug)]
pub struct Ended;

/// A file in memory that is sent repeatedly.
pub struct Payload {
    file: File,
}

impl Payload {
    const LENGTH: usize = 4 << 20;
    /// Maximum bytes sent by one call.
    const PORTION: usize = 1 << 20;

    pub fn new() -> Self {
        let flags = nix::sys::memfd::MFdFlags::MFD_CLOEXEC;
        let mut file: File = nix::sys::memfd::memfd_create("payload", flags).expect("memfd_create").into();
        file.write_all(&vec![0x5a; Self::LENGTH]).expect("write to memory");
        Self { file }
    }

    /// Sends from the offset on as much as fits; returns the number of bytes.
    pub fn send(&self, socket: &impl AsFd, offset: &mut i64) -> Result<usize, Ended> {
        if usize::try_from(*offset) == Ok(Self::LENGTH) {
            *offset = 0;
        }
        match sendfile64(socket, &self.file, Some(offset), Self::PORTION) {
            Err(Errno::EAGAIN) => Ok(0),
            sent => sent.map_err(|_| Ended),
        }
    }
}

/// Discards up to a buffer of bytes from the socket without copying them; returns their number.
pub fn discard(socket: &impl AsRawFd, buffer: &mut [u8]) -> Result<usize, Ended> {
    match recv(socket.as_raw_fd(), buffer, MsgFlags::MSG_TRUNC) {
        Ok(0) => Err(Ended),
        Err(Errno::EAGAIN) => Ok(0),
        taken => taken.map_err(|_| Ended),
    }
}
