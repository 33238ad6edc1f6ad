//! Contents of every file of a configuration, independent of the disk.

use super::version::digest_of;
use flate2::Compression;
use flate2::read::{DeflateDecoder, DeflateEncoder};
use std::collections::BTreeMap;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Files that one load has read, or will read instead of the disk's, by path. Compressed: a million names would take
/// forty megabytes otherwise.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Texts(BTreeMap<PathBuf, Arc<[u8]>>);

impl Texts {
    /// Adds a file.
    pub fn insert(&mut self, path: PathBuf, text: &[u8]) -> io::Result<()> {
        self.0.insert(path, read_all(DeflateEncoder::new(text, Compression::fast()))?.into());
        Ok(())
    }

    /// Iterates over the files in the order of their paths.
    pub fn iter(&self) -> impl Iterator<Item = io::Result<(&Path, Vec<u8>)>> {
        self.0.iter().map(|(path, compressed)| Ok((path.as_path(), text_of(compressed)?)))
    }

    /// Returns a digest that is equal for the same files, and for others only by accident.
    pub fn digest(&self) -> u64 {
        let parts = self.0.iter().flat_map(|(path, compressed)| {
            [digest_of(path.as_os_str().as_encoded_bytes()), digest_of(compressed)]
        });
        digest_of(&parts.flat_map(u64::to_le_bytes).collect::<Vec<_>>())
    }

    /// Returns the contents of a file.
    pub(super) fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
        text_of(self.0.get(path).ok_or(io::ErrorKind::NotFound)?)
    }

    /// Lists the files in a folder.
    pub(super) fn list(&self, folder: &Path) -> Vec<PathBuf> {
        self.0.keys().filter(|path| path.parent() == Some(folder)).cloned().collect()
    }
}

fn text_of(compressed: &[u8]) -> io::Result<Vec<u8>> {
    read_all(DeflateDecoder::new(compressed))
}

fn read_all(mut stream: impl Read) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn compressed_texts_read_back() {
        let names: String = "api.example.com\n".repeat(10_000);
        let (list, empty) = (Path::new("/etc/egret/names.txt"), Path::new("/etc/egret/empty"));
        let mut texts = Texts::default();
        texts.insert(list.to_owned(), names.as_bytes()).unwrap();
        texts.insert(empty.to_owned(), b"").unwrap();
        assert_eq!(texts.read(list).unwrap(), names.as_bytes());
        let all: Vec<_> = texts.iter().map(Result::unwrap).collect();
        assert_eq!(all, [(empty, Vec::new()), (list, names.clone().into_bytes())]);
        let kept: usize = texts.0.values().map(|compressed| compressed.len()).sum();
        assert!(kept * 4 < names.len(), "{kept} of {}", names.len());
    }
}
