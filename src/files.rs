//! Reads files at configured paths: regular files only, of bounded size, and without blocking on a FIFO or a lease.

mod access;

pub use access::{SERVICE, access_remedy, group_read};
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::Path;

/// Most bytes of TOML in one file: parsed, they take up to a hundred times the memory.
pub const TEXT: u64 = 2 << 20;
/// Most bytes of TOML in all files of one configuration, and in a file of policy tests.
pub const ALL_TEXT: u64 = 16 << 20;
/// Most bytes of lists of hostnames: some million of them.
pub const NAMES: u64 = 64 << 20;
/// Most bytes of certificates and keys.
pub const KEYS: u64 = 16 << 20;

/// Reads a regular file of at most `largest` bytes.
pub fn read(path: &Path, largest: u64) -> io::Result<Vec<u8>> {
    let file = open(path)?;
    let size = file.metadata()?.len();
    if size > largest {
        return Err(too_large(largest));
    }
    let mut bytes = Vec::with_capacity(usize::try_from(size).unwrap_or(0));
    // The file may grow meanwhile, and files of /proc have no size.
    file.take(largest + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > largest { Err(too_large(largest)) } else { Ok(bytes) }
}

/// Reads a regular file of UTF-8 text, as [`read`] does.
pub fn read_text(path: &Path, largest: u64) -> io::Result<String> {
    let not_text =
        |_| io::Error::new(io::ErrorKind::InvalidData, "the file is not UTF-8; save it as UTF-8 text");
    String::from_utf8(read(path, largest)?).map_err(not_text)
}

/// Opens a regular file for reading. Anything else is refused before it is opened: opening a FIFO waits for a writer, and
/// opening a device may have effects.
pub fn open(path: &Path) -> io::Result<File> {
    let expect_regular = |about: fs::Metadata| {
        if about.is_file() { Ok(()) } else { Err(not_regular(about.file_type())) }
    };
    expect_regular(fs::metadata(path)?)?;
    // O_NONBLOCK: it may have become a FIFO since, or another process may hold a lease on it (fcntl(2)).
    let flags = libc::O_NONBLOCK | libc::O_NOCTTY;
    let file = OpenOptions::new().read(true).custom_flags(flags).open(path).map_err(|error| {
        if error.kind() == io::ErrorKind::WouldBlock {
            io::Error::new(error.kind(), "another process holds a lease on it; try again later")
        } else {
            error
        }
    })?;
    expect_regular(file.metadata()?)?;
    Ok(file)
}

fn not_regular(kind: fs::FileType) -> io::Error {
    let what = if kind.is_dir() {
        "a directory"
    } else if kind.is_fifo() {
        "a FIFO"
    } else if kind.is_socket() {
        "a socket"
    } else {
        "a device"
    };
    io::Error::new(io::ErrorKind::InvalidInput, format!("it is {what}; only regular files can be read"))
}

fn too_large(largest: u64) -> io::Error {
    let message = format!("it is larger than {} MiB, the limit for such a file", largest >> 20);
    io::Error::new(io::ErrorKind::FileTooLarge, message)
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::sys::stat::Mode;
    use std::os::unix::net::UnixListener;

    #[test]
    fn only_bounded_regular_files_are_read() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        fs::write(at("whole"), "12345678").unwrap();
        fs::write(at("long"), "123456789").unwrap();
        std::os::unix::fs::symlink(at("whole"), at("link")).unwrap();
        std::os::unix::fs::symlink("/dev/zero", at("zero")).unwrap();
        nix::unistd::mkfifo(&at("fifo"), Mode::S_IRWXU).unwrap();
        File::create(at("sparse")).unwrap().set_len(1 << 40).unwrap();
        let _socket = UnixListener::bind(at("socket")).unwrap();
        assert_eq!(read(&at("whole"), 8).unwrap(), b"12345678");
        assert_eq!(read_text(&at("link"), 8).unwrap(), "12345678");
        for (path, why) in [
            ("long", "larger than"),
            ("sparse", "larger than"),
            ("zero", "a device"),
            ("fifo", "a FIFO"),
            ("socket", "a socket"),
            (".", "a directory"),
            ("none", "No such file"),
            ("/proc/self/maps", "larger than"),
        ] {
            let error = read(&at(path), 8).unwrap_err().to_string();
            assert!(error.contains(why), "{path}: {error}");
        }
    }
}
