//! Does the server at an address prove a name? One TLS handshake of Egret's own, which says nothing and carries nothing.

use crate::hostname::Hostname;
use crate::sys::stream;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{CertificateError, ClientConfig, Error, RootCertStore};
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
    pub(super) fn store(&self) -> io::Result<RootCertStore> {
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
    /// Nobody can say; in a few words, why.
    Unknown(&'static str),
}

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
        return Certificate::Invalid("no certificate can be for such a name");
    };
    match TlsConnector::from(client).connect(server, socket).await {
        Ok(_) => Certificate::Valid,
        Err(error) => judge(&error),
    }
}

fn judge(error: &io::Error) -> Certificate {
    let inner = error.get_ref().and_then(|inner| inner.downcast_ref::<Error>());
    if let Some(Error::InvalidCertificate(why)) = inner {
        return Certificate::Invalid(flaw(why));
    }
    Certificate::Unknown("the server did not complete a TLS handshake")
}

#[expect(clippy::wildcard_enum_match_arm, reason = "rustls tells of some twenty, and may of more")]
fn flaw(why: &CertificateError) -> &'static str {
    match why {
        CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
            "the certificate is for another name"
        }
        CertificateError::Expired | CertificateError::ExpiredContext { .. } => "the certificate has expired",
        CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
            "the certificate is not valid yet"
        }
        CertificateError::UnknownIssuer => "no authority that is trusted signed the certificate",
        CertificateError::BadSignature => "the server does not have the certificate's key",
        _ => "the certificate is not valid",
    }
}
