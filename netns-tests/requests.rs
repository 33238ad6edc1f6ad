//! A client's connection with HTTP/1 requests, and assertions on their results.

use crate::clients::read_all;
use crate::gateway::Gateway;
use crate::lab::{Lab, Tenant};
use crate::servers::Server;
use serde_json::Value;
use std::io::Read;
use std::net::{SocketAddr, TcpStream};

pub const FIRST: &str = "GET /first HTTP/1.1\r\nHost: allowed.example.org\r\n\r\n";
pub const EVIL: &str = "GET /second HTTP/1.1\r\nHost: denied.example.org\r\n\r\n";
pub const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";

/// Connects a client that has sent this; returns both ends.
pub fn opened(lab: &Lab, server: &Server, sent: &str) -> (TcpStream, TcpStream) {
    (asking(lab, server, sent), server.accept())
}

pub fn asking(lab: &Lab, server: &Server, sent: &str) -> TcpStream {
    lab.send(Tenant::Alpha, server.address(), sent.as_bytes())
}

/// Expects exactly this next.
pub fn expect(mut stream: &TcpStream, wanted: &str) {
    let mut got = Vec::new();
    let read = stream.by_ref().take(wanted.len() as u64).read_to_end(&mut got);
    let got = String::from_utf8_lossy(&got);
    read.unwrap_or_else(|e| panic!("{wanted:?} did not arrive, but {got:?}: {e}"));
    assert_eq!(got, wanted);
}

/// Expects these answers at the client, then the reason for its next request's denial, and end of file.
pub fn expect_denial_after(client: &TcpStream, answers: &str, outcome: &str) {
    let all = String::from_utf8(read_all(client)).unwrap();
    let denial =
        all.strip_prefix(answers).unwrap_or_else(|| panic!("{answers:?} is not what {all:?} starts with"));
    assert!(denial.starts_with("HTTP/1.1 403 Forbidden\r\n"), "{denial:?}");
    assert!(denial.contains(&format!("reason: {outcome}")), "{denial:?}");
}

/// Returns the record of a flow that was permitted, and ended because of a later request.
pub fn expect_record(gateway: &Gateway, client: SocketAddr, outcome: &str, requests: u64) -> Value {
    let flow = gateway.expect_outcome(client, outcome);
    assert_eq!(
        (&flow["hostname"], &flow["verdict"]),
        (&"allowed.example.org".into(), &"deny".into()),
        "{flow:#}"
    );
    assert_eq!(flow["requests"], requests, "{flow:#}");
    flow
}
