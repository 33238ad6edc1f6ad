//! Does the server at an address prove a name? One TLS handshake of Egret's own, which says nothing and carries nothing.

use crate::hostname::Hostname;
use crate::sys::stream;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{AlertDescription, CertificateError, ClientConfig, Error, RootCertStore};
use std::io;
use std::sync::Arc;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

/// Who is trusted to say whose a certificate is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Roots {
    /// Whom the machine trusts, as it is when the verifier starts.
    pub system: bool,
    /// These, each in DER.
    pub given: Vec<CertificateDer<'static>>,
}

impl Roots {
    /// The certificates of a PEM file, one at least; else what is wrong with it.
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

/// What came of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Certificate {
    /// It has the key of a certificate for the name, which a trusted authority signed and which counts today.
    Valid,
    /// It has none; in a few words, why.
    Invalid(&'static str),
    /// Egret's probe cannot ask such a server, or verify such a certificate, though clients may; in a few words, why.
    Unsupported(&'static str),
    /// Nobody can say; in a few words, why.
    Unknown(&'static str),
}

/// TLS 1.0 and 1.1, CBC, DHE, RSA key exchange. Servers give the same answer where they have nothing for the name.
const NOTHING_IN_COMMON: &str = "the server refuses what Egret's probe offers: TLS 1.2 or 1.3 with ECDHE and AEAD, \
                                 no client certificate";

/// Verifies against these roots, with what TLS 1.2 and 1.3 have in common with every server.
pub(super) fn client(roots: RootCertStore) -> Arc<ClientConfig> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut client = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("the provider has suites for both versions")
        .with_root_certificates(roots)
        .with_no_client_auth();
    // A server is asked whether it has the key, not whether it remembers.
    client.resumption = rustls::client::Resumption::disabled();
    Arc::new(client)
}

/// Waits until the connection stands, and shakes hands. The connection is reset in the end: its port is free at once.
pub(super) async fn prove(
    socket: std::net::TcpStream,
    name: &Hostname,
    client: Arc<ClientConfig>,
) -> Certificate {
    let unreachable = Certificate::Unknown("the server could not be reached");
    if stream::reset_on_close(&socket).is_err() {
        return unreachable;
    }
    let Ok(socket) = TcpStream::from_std(socket) else { return unreachable };
    if socket.writable().await.is_err() || !matches!(socket.take_error(), Ok(None)) {
        return unreachable;
    }
    let Ok(server) = ServerName::try_from(name.as_str().to_owned()) else {
        return Certificate::Unsupported(
            "Egret cannot verify certificates for a name with a hyphen at the edge of a label",
        );
    };
    match TlsConnector::from(client).connect(server, socket).await {
        Ok(_) => Certificate::Valid,
        Err(error) => judge(&error),
    }
}

fn judge(error: &io::Error) -> Certificate {
    let inner = error.get_ref().and_then(|inner| inner.downcast_ref::<Error>());
    match inner {
        Some(Error::InvalidCertificate(why)) => flaw(why),
        Some(Error::AlertReceived(alert)) => refusal(*alert),
        Some(Error::PeerIncompatible(_)) => Certificate::Unsupported(NOTHING_IN_COMMON),
        _ => Certificate::Unknown("the server did not complete a TLS handshake"),
    }
}

/// A server that refuses the probe says little; what it says is no word against its certificate.
#[expect(
    clippy::wildcard_enum_match_arm,
    reason = "some thirty alerts, most of which no server has cause to send"
)]
fn refusal(alert: AlertDescription) -> Certificate {
    match alert {
        AlertDescription::HandshakeFailure
        | AlertDescription::ProtocolVersion
        | AlertDescription::InsufficientSecurity => Certificate::Unsupported(NOTHING_IN_COMMON),
        AlertDescription::CertificateRequired
        | AlertDescription::BadCertificate
        | AlertDescription::AccessDenied => {
            Certificate::Unsupported("the server asks for a client certificate, and Egret has none")
        }
        AlertDescription::UnrecognisedName => {
            Certificate::Unknown("the server says that it does not know the name")
        }
        _ => Certificate::Unknown("the server did not complete a TLS handshake"),
    }
}

/// What is wrong with the certificate, or why Egret cannot tell.
#[expect(clippy::wildcard_enum_match_arm, reason = "rustls tells of some twenty, and may of more")]
fn flaw(why: &CertificateError) -> Certificate {
    let invalid = match why {
        CertificateError::NotValidForNameContext { presented, .. } if presented.is_empty() => {
            return Certificate::Unsupported(
                "the certificate has no subject alternative name, and Egret does not go by the common name",
            );
        }
        CertificateError::UnsupportedSignatureAlgorithmContext { .. }
        | CertificateError::UnsupportedSignatureAlgorithmForPublicKeyContext { .. } => {
            return Certificate::Unsupported(
                "Egret cannot verify signatures of this kind (SHA-1 and the like)",
            );
        }
        // What the library says of RSA keys below 2048 bits, too.
        CertificateError::BadSignature => {
            return Certificate::Unsupported(
                "Egret cannot verify a signature: the key is RSA below 2048 bits, or not the one that signed",
            );
        }
        CertificateError::BadEncoding
        | CertificateError::UnhandledCriticalExtension
        | CertificateError::Other(_) => {
            return Certificate::Unsupported("Egret cannot read a certificate of this kind");
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
    Certificate::Invalid(invalid)
}
