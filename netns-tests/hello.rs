//! Custom TLS ClientHellos (RFC 8446 §4.1.2, RFC 6066 §3): as real clients send them, or with a single error.

const SERVER_NAME: u16 = 0;
const SUPPORTED_GROUPS: u16 = 10;
const SIGNATURE_ALGORITHMS: u16 = 13;
const ALPN: u16 = 16;
const PADDING: u16 = 21;
const SUPPORTED_VERSIONS: u16 = 43;
pub const KEY_SHARE: u16 = 51;

pub const X25519: u16 = 0x001d;
pub const X25519_MLKEM768: u16 = 0x11ec;

#[derive(Clone)]
pub struct Hello {
    pub extensions: Vec<(u16, Vec<u8>)>,
}

impl Hello {
    /// A TLS 1.3 hello without a server name.
    pub fn nameless() -> Self {
        let mut hello = Self { extensions: Vec::new() };
        hello
            .add(SUPPORTED_GROUPS, vector16(&[X25519_MLKEM768.to_be_bytes(), X25519.to_be_bytes()].concat()));
        hello.add(SIGNATURE_ALGORITHMS, vector16(&[0x04, 0x03, 0x08, 0x04]));
        hello.add(ALPN, vector16(&[vector8(b"h2"), vector8(b"http/1.1")].concat()));
        hello.add(SUPPORTED_VERSIONS, vector8(&[0x03, 0x04, 0x03, 0x03]));
        hello.add(KEY_SHARE, vector16(&key_share(X25519, 32)));
        hello
    }

    /// Adds a name, which need not be valid.
    pub fn to(name: impl AsRef<[u8]>) -> Self {
        Self::nameless().with_names(&[name.as_ref()])
    }

    /// Adds one `server_name` extension that lists these names.
    pub fn with_names(mut self, names: &[&[u8]]) -> Self {
        let entries: Vec<u8> = names.iter().flat_map(|name| [vec![0], vector16(name)].concat()).collect();
        self.add(SERVER_NAME, vector16(&entries));
        self
    }

    /// Pads (RFC 7685) until the record has this length.
    pub fn padded_to(mut self, length: usize) -> Self {
        let missing = length - self.record().len() - 4;
        self.add(PADDING, vec![0; missing]);
        assert_eq!(self.record().len(), length);
        self
    }

    /// Returns the handshake message.
    pub fn handshake(&self) -> Vec<u8> {
        let extensions: Vec<u8> = self
            .extensions
            .iter()
            .flat_map(|(kind, body)| [kind.to_be_bytes().to_vec(), vector16(body)].concat())
            .collect();
        let body = [
            [0x03, 0x03].to_vec(),
            vec![0x5a; 32],
            vector8(&[0xa5; 32]),
            vector16(&[0x13, 0x01, 0x13, 0x02, 0x13, 0x03, 0xc0, 0x2f]),
            vector8(&[0]),
            vector16(&extensions),
        ]
        .concat();
        let length = u32::try_from(body.len()).unwrap().to_be_bytes();
        [&[1], &length[1..], &body].concat()
    }

    /// Returns it as one TLS record.
    pub fn record(&self) -> Vec<u8> {
        record(&self.handshake())
    }

    pub fn add(&mut self, kind: u16, body: Vec<u8>) {
        self.extensions.push((kind, body));
    }
}

/// Returns a handshake record of these bytes.
pub fn record(fragment: &[u8]) -> Vec<u8> {
    [&[22, 0x03, 0x01], &*vector16(fragment)].concat()
}

pub fn key_share(group: u16, length: usize) -> Vec<u8> {
    [&group.to_be_bytes()[..], &vector16(&vec![0x77; length])].concat()
}

fn vector8(bytes: &[u8]) -> Vec<u8> {
    [&[u8::try_from(bytes.len()).unwrap()], bytes].concat()
}

pub fn vector16(bytes: &[u8]) -> Vec<u8> {
    [&u16::try_from(bytes.len()).unwrap().to_be_bytes()[..], bytes].concat()
}
