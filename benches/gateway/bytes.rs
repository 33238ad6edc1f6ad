//! Moving many bytes without copying them, so that the end hosts cost as little as they can.

use nix::errno::Errno;
use nix::sys::sendfile::sendfile64;
use nix::sys::socket::{MsgFlags, recv};
use std::fs::File;
use std::io::Write;
use std::os::fd::{AsFd, AsRawFd};

/// The connection is over, or broken.
#[derive(Debug)]
pub struct Ended;

/// A file in memory that is sent again and again.
pub struct Payload {
    file: File,
}

impl Payload {
    const LENGTH: usize = 4 << 20;
    /// What one call sends at most.
    const PORTION: usize = 1 << 20;

    pub fn new() -> Self {
        let flags = nix::sys::memfd::MFdFlags::MFD_CLOEXEC;
        let mut file: File = nix::sys::memfd::memfd_create("payload", flags).expect("memfd_create").into();
        file.write_all(&vec![0x5a; Self::LENGTH]).expect("write to memory");
        Self { file }
    }

    /// Sends what there is room for, from the offset on; yields how many bytes.
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

/// Takes up to a buffer of bytes out of the socket without copying them; yields how many.
pub fn discard(socket: &impl AsRawFd, buffer: &mut [u8]) -> Result<usize, Ended> {
    match recv(socket.as_raw_fd(), buffer, MsgFlags::MSG_TRUNC) {
        Ok(0) => Err(Ended),
        Err(Errno::EAGAIN) => Ok(0),
        taken => taken.map_err(|_| Ended),
    }
}
