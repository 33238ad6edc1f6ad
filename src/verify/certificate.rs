//! Certificate probe: one TLS handshake of Egret's own with a server, without data, to check that it proves a name.

use crate::hostname::Hostname;
use crate::sys::stream;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{AlertDescription, CertificateError, ClientConfig, Error, ExtendedKeyPurpose, RootCertStore};
use serde::{Serialize, Serializer};
use std::io;
use std::sync::Arc;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

/// Trusted certificate authorities.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct TrustedRoots {
    /// True to trust the machine's roots, as they are when the verifier starts.
    pub system: bool,
    /// Configured roots, each in DER.
    #[serde(serialize_with = "bytes")]
    pub given: Vec<CertificateDer<'static>>,
}

fn bytes<S: Serializer>(roots: &[CertificateDer<'static>], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_seq(roots.iter().map(|root| &**root))
}

impl TrustedRoots {
    /// Parses a PEM file with at least one certificate; else returns the error.
    pub fn parse(content: &[u8]) -> Result<Vec<CertificateDer<'static>>, String> {
        let read = CertificateDer::pem_slice_iter(content).collect::<Result<Vec<_>, _>>();
        let certificates = read.map_err(|error| error.to_string())?;
        if certificates.is_empty() {
            return Err("there is no certificate in it: -----BEGIN CERTIFICATE-----".to_owned());
        }
        Ok(certificates)
    }

    /// Fails if nobody is trusted.
    pub fn store(&self) -> io::Result<RootCertStore> {
        let mut store = RootCertStore::empty();
        store.add_parsable_certificates(self.given.iter().cloned());
        if self.system {
            store.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        }
        if store.is_empty() {
            let why = "no root certificate is on this machine (Debian: apt-get install ca-certificates); or name \
                       some in `[certificates] roots`";
            return Err(io::Error::other(why));
        }
        Ok(store)
    }
}

/// Result of a probe.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CertificateVerdict {
    /// The server has the key of a certificate for the name, signed by a trusted authority and valid today.
    Valid,
    /// The server has none; short reason.
    Invalid(&'static str),
    /// Egret's probe cannot check such a server or certificate, though clients may; short reason.
    Unsupported(&'static str),
    /// The probe failed without a result; short reason.
    Unknown(&'static str),
}

/// TLS 1.0 and 1.1, CBC, DHE, RSA key exchange. Servers give the same answer if they have no certificate for the name.
const NOTHING_IN_COMMON: &str = "the server refuses what Egret's probe offers: TLS 1.2 or 1.3 with ECDHE and AEAD, \
                                 no client certificate";

/// Creates the probes' TLS configuration: these roots, and the default features of TLS 1.2 and 1.3.
pub(super) fn client(roots: RootCertStore) -> Arc<ClientConfig> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut client = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("the provider has suites for both versions")
        .with_root_certificates(roots)
        .with_no_client_auth();
    // Resumption would not prove that the server has the key.
    client.resumption = rustls::client::Resumption::disabled();
    Arc::new(client)
}

/// Waits for the connection, and does the handshake. The connection is reset at the end, so its port is free at once.
pub(super) async fn prove(
    socket: std::net::TcpStream,
    name: &Hostname,
    client: Arc<ClientConfig>,
) -> CertificateVerdict {
    let unreachable = CertificateVerdict::Unknown("the server could not be reached");
    if stream::reset_on_close(&socket).is_err() {
        return unreachable;
    }
    let Ok(socket) = TcpStream::from_std(socket) else { return unreachable };
    if socket.writable().await.is_err() || !matches!(socket.take_error(), Ok(None)) {
        return unreachable;
    }
    let Ok(server) = ServerName::try_from(name.as_str().to_owned()) else {
        return CertificateVerdict::Unsupported(
            "Egret cannot verify certificates for a name with a hyphen at the edge of a label",
        );
    };
    match TlsConnector::from(client).connect(server, socket).await {
        Ok(_) => CertificateVerdict::Valid,
        Err(error) => judge(&error),
    }
}

fn judge(error: &io::Error) -> CertificateVerdict {
    let inner = error.get_ref().and_then(|inner| inner.downcast_ref::<Error>());
    match inner {
        Some(Error::InvalidCertificate(why)) => flaw(why),
        Some(Error::AlertReceived(alert)) => refusal(*alert),
        Some(Error::PeerIncompatible(_)) => CertificateVerdict::Unsupported(NOTHING_IN_COMMON),
        _ => CertificateVerdict::Unknown("the server did not complete a TLS handshake"),
    }
}

/// Classifies an alert of the server; a server's refusal of the probe is no evidence against its certificate.
#[expect(
    clippy::wildcard_enum_match_arm,
    reason = "some thirty alerts, most of which no server has cause to send"
)]
fn refusal(alert: AlertDescription) -> CertificateVerdict {
    match alert {
        AlertDescription::HandshakeFailure
        | AlertDescription::ProtocolVersion
        | AlertDescription::InsufficientSecurity => CertificateVerdict::Unsupported(NOTHING_IN_COMMON),
        AlertDescription::CertificateRequired
        | AlertDescription::BadCertificate
        | AlertDescription::AccessDenied => {
            CertificateVerdict::Unsupported("the server asks for a client certificate, and Egret has none")
        }
        AlertDescription::UnrecognisedName => {
            CertificateVerdict::Unknown("the server says that it does not know the name")
        }
        _ => CertificateVerdict::Unknown("the server did not complete a TLS handshake"),
    }
}

/// Classifies a certificate error: invalid, or beyond Egret's abilities.
#[expect(clippy::wildcard_enum_match_arm, reason = "rustls tells of some twenty, and may of more")]
fn flaw(why: &CertificateError) -> CertificateVerdict {
    let invalid = match why {
        CertificateError::NotValidForNameContext { presented, .. } if !has_dns_name(presented) => {
            return CertificateVerdict::Unsupported(
                "the certificate has no DNS name among its subject alternative names, and Egret does not go by the \
                 common name",
            );
        }
        CertificateError::InvalidPurposeContext { presented, .. }
            if presented.iter().any(serves_for_others) =>
        {
            return CertificateVerdict::Unsupported(
                "the certificate is for servers by a purpose that Egret does not go by (msSGC, nsSGC, any)",
            );
        }
        CertificateError::UnsupportedSignatureAlgorithmContext { .. }
        | CertificateError::UnsupportedSignatureAlgorithmForPublicKeyContext { .. } => {
            return CertificateVerdict::Unsupported(
                "Egret cannot verify signatures of this kind (SHA-1 and the like)",
            );
        }
        // What the library says of RSA keys below 2048 bits, too.
        CertificateError::BadSignature => {
            return CertificateVerdict::Unsupported(
                "Egret cannot verify a signature: the key is RSA below 2048 bits, or not the one that signed",
            );
        }
        CertificateError::BadEncoding
        | CertificateError::UnhandledCriticalExtension
        | CertificateError::Other(_) => {
            return CertificateVerdict::Unsupported("Egret cannot read a certificate of this kind");
        }
        CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
            "the certificate is for another name"
        }
        CertificateError::Expired | CertificateError::ExpiredContext { .. } => "the certificate has expired",
        CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
            "the certificate is not valid yet"
        }
        CertificateError::UnknownIssuer => "no authority that is trusted signed the certificate",
        _ => "the certificate is not valid",
    };
    CertificateVerdict::Invalid(invalid)
}

/// True if one of the names is a DNS name. The library gives them as text alone.
fn has_dns_name(presented: &[String]) -> bool {
    presented.iter().any(|name| name.starts_with("DnsName"))
}

/// True for purposes that TLS clients take for servers' beside the usual one: OpenSSL those of server-gated cryptography,
/// Go any purpose.
fn serves_for_others(purpose: &ExtendedKeyPurpose) -> bool {
    // 311, 840 and 113730 are also read as 567, 1608 and 424002: the library (rustls-webpki 0.103) takes eight bits of a
    // byte for seven.
    const PURPOSES: [&[usize]; 5] = [
        &[1, 3, 6, 1, 4, 1, 311, 10, 3, 3],
        &[1, 3, 6, 1, 4, 1, 567, 10, 3, 3],
        &[2, 16, 840, 1, 113_730, 4, 1],
        &[2, 16, 1608, 1, 424_002, 4, 1],
        &[2, 5, 29, 37, 0],
    ];
    matches!(purpose, ExtendedKeyPurpose::Other(values) if PURPOSES.contains(&&**values))
}
