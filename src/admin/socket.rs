//! The file of the control socket.

use nix::sys::stat::{Mode, fchmod};
use socket2::{Domain, SockAddr, Socket, Type};
use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

/// Read and write for the owner and the group.
const MODE: u32 = 0o660;
/// Pending connections of operators and their scripts.
const BACKLOG: i32 = 64;

/// A listening control socket. Dropping it removes its file.
#[derive(Debug)]
pub struct ControlSocket {
    listener: UnixListener,
    path: PathBuf,
    owner: SocketOwner,
    /// Device and inode: tells the file from one that was put there later.
    file: (u64, u64),
}

/// Owner of the socket's file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct SocketOwner {
    pub(super) user: u32,
    pub(super) group: u32,
}

/// Error of opening the control socket.
#[derive(Debug, thiserror::Error)]
pub enum ControlSocketError {
    /// Another process answers on it.
    #[error(
        "the control socket {0} is in use: another gateway answers on it; set another in [gateway] admin"
    )]
    InUse(PathBuf),
    /// The path exists and is not a socket.
    #[error("cannot open the control socket {0}: there is a file that is not a socket; move it away")]
    NotASocket(PathBuf),
    /// Anything else.
    #[error(
        "cannot open the control socket {path}: {error}; create its directory and let the gateway's user write to it, \
         or set [gateway] admin"
    )]
    Other {
        /// Path of the socket.
        path: PathBuf,
        /// The system's error.
        error: io::Error,
    },
}

impl ControlSocket {
    /// Listens on `path`; replaces a socket that nobody answers on.
    pub fn open(path: &Path) -> Result<Self, ControlSocketError> {
        let other = |error| ControlSocketError::Other { path: path.to_owned(), error };
        match fs::symlink_metadata(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(other(error)),
            Ok(found) if !found.file_type().is_socket() => {
                return Err(ControlSocketError::NotASocket(path.to_owned()));
            }
            Ok(_) if is_listened_on(path).map_err(other)? => {
                return Err(ControlSocketError::InUse(path.to_owned()));
            }
            Ok(_) => fs::remove_file(path).map_err(other)?,
        }
        let listener = listen(path).map_err(other)?;
        let made = fs::symlink_metadata(path).map_err(other)?;
        let owner = SocketOwner { user: made.uid(), group: made.gid() };
        Ok(Self { listener, path: path.to_owned(), owner, file: (made.dev(), made.ino()) })
    }

    pub(super) fn owner(&self) -> SocketOwner {
        self.owner
    }

    /// Returns another handle to the same non-blocking socket.
    pub(super) fn listener(&self) -> io::Result<UnixListener> {
        self.listener.try_clone()
    }
}

impl Drop for ControlSocket {
    fn drop(&mut self) {
        let ours =
            fs::symlink_metadata(&self.path).is_ok_and(|found| (found.dev(), found.ino()) == self.file);
        if ours {
            // A file left behind is replaced at the next start.
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// Never blocks on a listener that hangs with a full queue.
fn is_listened_on(path: &Path) -> io::Result<bool> {
    let socket = Socket::new(Domain::UNIX, Type::STREAM.nonblocking().cloexec(), None)?;
    match socket.connect(&SockAddr::unix(path)?) {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => Ok(false),
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(true),
        connected => connected.map(|()| true),
    }
}

fn listen(path: &Path) -> io::Result<UnixListener> {
    let socket = Socket::new(Domain::UNIX, Type::STREAM.nonblocking().cloexec(), None)?;
    // unix_bind_bsd() gives the file the mode of the socket's inode, less the umask, so it is never wider. The bits
    // that the umask removed are restored afterwards.
    fchmod(&socket, Mode::from_bits_truncate(MODE))?;
    socket.bind(&SockAddr::unix(path)?)?;
    fs::set_permissions(path, Permissions::from_mode(MODE))?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixStream;

    fn folder() -> (tempfile::TempDir, PathBuf) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("admin.sock");
        (folder, path)
    }

    #[test]
    fn socket_file_has_mode_and_is_removed() {
        let (_folder, path) = folder();
        let socket = ControlSocket::open(&path).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, MODE);
        assert!(UnixStream::connect(&path).is_ok());
        drop(socket);
        assert!(!path.exists());
    }

    #[test]
    fn only_dead_socket_is_replaced() {
        let (_folder, path) = folder();
        drop(UnixListener::bind(&path).unwrap());
        let socket = ControlSocket::open(&path).unwrap();
        assert!(matches!(ControlSocket::open(&path), Err(ControlSocketError::InUse(_))));
        assert!(UnixStream::connect(&path).is_ok(), "the attempt left the socket alone");
        // also if it hangs with a full queue
        let connect = || {
            let waits = Socket::new(Domain::UNIX, Type::STREAM.nonblocking(), None).unwrap();
            waits.connect(&SockAddr::unix(&path).unwrap()).ok().map(|()| waits)
        };
        let _waiting: Vec<_> = std::iter::from_fn(connect).collect();
        assert!(matches!(ControlSocket::open(&path), Err(ControlSocketError::InUse(_))));
        // a file put there by another is not removed
        fs::remove_file(&path).unwrap();
        let other = UnixListener::bind(&path).unwrap();
        drop(socket);
        assert!(path.exists());
        drop(other);
    }

    #[test]
    fn other_file_is_not_replaced() {
        let (_folder, path) = folder();
        fs::write(&path, "precious").unwrap();
        assert!(matches!(ControlSocket::open(&path), Err(ControlSocketError::NotASocket(_))));
        assert_eq!(fs::read_to_string(&path).unwrap(), "precious");
        let nowhere = path.with_file_name("nowhere").join("admin.sock");
        assert!(matches!(ControlSocket::open(&nowhere), Err(ControlSocketError::Other { .. })));
    }
}
