//! Requests of probes, and answers in words.

use crate::admin::ClientTarget;
pub(in crate::cli) use crate::gateway::PROBE_NAME;
use crate::outcome::Outcome;
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection, RootCertStore};
use std::io;
use std::sync::Arc;

/// Fills a few packets, and fits into every limit on heads.
pub(super) const PADDING: usize = 4 * 1024;

/// The language that a probe speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Language {
    Http,
    Tls,
}

impl Language {
    pub(super) fn of_port(port: u16) -> Self {
        if matches!(port, 443 | 8443) { Self::Tls } else { Self::Http }
    }

    pub(super) fn request(self, name: &str) -> io::Result<Vec<u8>> {
        match self {
            Self::Http => Ok(http(name, PADDING)),
            Self::Tls => client_hello(name),
        }
    }
}

/// A request whose head has this much padding.
pub(super) fn http(name: &str, padding: usize) -> Vec<u8> {
    let padding = ".".repeat(padding);
    format!("GET / HTTP/1.1\r\nHost: {name}\r\nUser-Agent: egret-doctor\r\nX-Padding: {padding}\r\nConnection: close\r\n\r\n").into()
}

/// The bytes that `egret explain` takes a client to send to such a target. A bare address is asked for without a name.
pub(super) fn request_to(target: &ClientTarget) -> io::Result<Vec<u8>> {
    match target {
        ClientTarget::Name(name, port) => Language::of_port(*port).request(name.as_str()),
        ClientTarget::NotHostname(to) => Ok(http(&to.to_string(), PADDING)),
        ClientTarget::Address(to) => match Language::of_port(to.port()) {
            Language::Tls => client_hello(&to.ip().to_string()),
            Language::Http => Ok(hostless()),
        },
    }
}

/// HTTP/1.0 needs no Host.
fn hostless() -> Vec<u8> {
    let padding = ".".repeat(PADDING);
    format!("GET / HTTP/1.0\r\nUser-Agent: egret-doctor\r\nX-Padding: {padding}\r\n\r\n").into()
}

fn client_hello(name: &str) -> io::Result<Vec<u8>> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(io::Error::other)?
        .with_root_certificates(RootCertStore::empty())
        .with_no_client_auth();
    let name = name.trim_matches(['[', ']']);
    let name = ServerName::try_from(name.to_owned()).map_err(io::Error::other)?;
    let mut connection = ClientConnection::new(Arc::new(config), name).map_err(io::Error::other)?;
    let mut hello = Vec::new();
    connection.write_tls(&mut hello)?;
    Ok(hello)
}

/// An answer in words, and the one who gave it.
pub(super) fn told(answer: &[u8]) -> String {
    let line = answer.split(|byte| *byte == b'\r' || *byte == b'\n').next().unwrap_or_default();
    let line = String::from_utf8_lossy(line);
    let length = answer.len();
    match answer {
        [] => "the connection was closed without an answer".to_owned(),
        [0x15, ..] => "answered with a TLS alert".to_owned(),
        [0x16, ..] => "answered with a ServerHello".to_owned(),
        _ if line.starts_with("HTTP/") && is_refusal(answer) => {
            let reason = line_of(answer, "reason: ");
            format!("answered by Egret itself: {line}, reason {reason}, {length} bytes")
        }
        _ if line.starts_with("HTTP/") => format!("answered with {line}, {length} bytes"),
        _ => format!("answered with {length} bytes"),
    }
}

/// The outcome that a refusal of Egret's own names.
pub(super) fn refusal(answer: &[u8]) -> Option<Outcome> {
    // The detail follows.
    let reason = line_of(answer, "reason: ");
    reason.split_whitespace().next().filter(|_| is_refusal(answer)).and_then(Outcome::named)
}

fn is_refusal(answer: &[u8]) -> bool {
    String::from_utf8_lossy(answer).contains("Egret, the egress gateway, refused")
}

fn line_of(answer: &[u8], key: &str) -> String {
    let text = String::from_utf8_lossy(answer);
    text.lines().find_map(|line| line.strip_prefix(key)).unwrap_or("unknown").to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_described() {
        let refusal = b"HTTP/1.1 403 Forbidden\r\n\r\nEgret, the egress gateway, refused this request.\nreason: not_allowed\n";
        assert!(told(refusal).contains("by Egret itself: HTTP/1.1 403 Forbidden, reason not_allowed"));
        assert!(told(b"HTTP/1.1 200 OK\r\n\r\n").starts_with("answered with HTTP/1.1 200 OK"));
        assert!(told(&[0x15, 3, 3]).contains("alert"));
        assert!(told(b"").contains("without an answer"));
    }

    #[test]
    fn requests_name_what_they_ask_for() {
        let hello = Language::of_port(443).request("api.example.org").unwrap();
        assert_eq!(hello.first(), Some(&0x16));
        assert!(String::from_utf8_lossy(&hello).contains("api.example.org"));
        let head = Language::of_port(80).request("api.example.org").unwrap();
        assert!(head.len() > PADDING && head.ends_with(b"\r\n\r\n"));
        let asked =
            |to: &str| String::from_utf8_lossy(&request_to(&to.parse().unwrap()).unwrap()).into_owned();
        assert!(asked("http://192.0.2.1:7000/").contains("\r\nHost: 192.0.2.1:7000\r\n"));
        assert!(!asked("192.0.2.1:7000").contains("Host:"));
        assert!(asked("example.org:80").contains("\r\nHost: example.org\r\n"));
    }
}
