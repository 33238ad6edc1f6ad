//! Builder of valid and invalid hellos.

/// Extensions in order, and the remaining fields as every client sends them.
#[derive(Debug, Clone)]
pub(super) struct Hello {
    extensions: Vec<(u16, Vec<u8>)>,
    after: Vec<u8>,
}

impl Hello {
    /// The extensions that a server needs, without a name.
    pub(super) fn nameless() -> Self {
        let hello = Self { extensions: Vec::new(), after: Vec::new() };
        hello
            .with(10, &[0, 2, 0, 29])
            .with(11, &[1, 0])
            .with(13, &[0, 4, 4, 3, 8, 4])
            .with(23, &[])
            .with(43, &[4, 3, 4, 3, 3])
    }

    pub(super) fn to(name: &str) -> Self {
        Self::nameless().named(name.as_bytes())
    }

    pub(super) fn named(self, name: &[u8]) -> Self {
        self.with(0, &server_name_list(&[(0, name)]))
    }

    pub(super) fn offering(self, protocols: &[&[u8]]) -> Self {
        let list: Vec<u8> = protocols.iter().flat_map(|name| prefixed::<1>(name)).collect();
        self.with(16, &prefixed::<2>(&list))
    }

    pub(super) fn with(mut self, kind: u16, data: &[u8]) -> Self {
        self.extensions.push((kind, data.to_vec()));
        self
    }

    /// Adds a padding extension that makes the hello, in one record, `total` bytes long.
    pub(super) fn padded_to(self, total: usize) -> Self {
        let now = self.record().len();
        self.with(21, &vec![0; total - now - 4])
    }

    /// Inserts bytes between the extensions and the end of the message.
    pub(super) fn trailed_by(mut self, bytes: &[u8]) -> Self {
        self.after = bytes.to_vec();
        self
    }

    pub(super) fn message(&self) -> Vec<u8> {
        let extensions: Vec<u8> = self
            .extensions
            .iter()
            .flat_map(|(kind, data)| [kind.to_be_bytes().to_vec(), prefixed::<2>(data)].concat())
            .collect();
        let body = [
            &[3, 3][..],
            &[0x5a; 32],
            &prefixed::<1>(&[7; 32]),
            &prefixed::<2>(&[0x13, 0x01, 0xc0, 0x2b, 0xc0, 0x2f]),
            &prefixed::<1>(&[0]),
            &prefixed::<2>(&extensions),
            &self.after,
        ];
        [vec![1], prefixed::<3>(&body.concat())].concat()
    }

    /// Returns the message in one record.
    pub(super) fn record(&self) -> Vec<u8> {
        record(&self.message())
    }

    /// Returns the message in records of `size` bytes each.
    pub(super) fn records(&self, size: usize) -> Vec<u8> {
        self.message().chunks(size).flat_map(record).collect()
    }
}

pub(super) fn record(payload: &[u8]) -> Vec<u8> {
    [vec![22, 3, 1], prefixed::<2>(payload)].concat()
}

pub(super) fn server_name_list(names: &[(u8, &[u8])]) -> Vec<u8> {
    let list: Vec<u8> =
        names.iter().flat_map(|(kind, name)| [vec![*kind], prefixed::<2>(name)].concat()).collect();
    prefixed::<2>(&list)
}

/// Returns the bytes prefixed with their length in `N` bytes.
pub(super) fn prefixed<const N: usize>(bytes: &[u8]) -> Vec<u8> {
    [&bytes.len().to_be_bytes()[size_of::<usize>() - N..], bytes].concat()
}
