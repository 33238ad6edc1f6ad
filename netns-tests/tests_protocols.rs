//! Bytes that a server may parse as TLS or HTTP and the gateway does not, beside a deny rule by name.

use crate::clients::{bounded, expect_reset, read_all};
use crate::config::Config;
use crate::gateway::Gateway;
use crate::hello::Hello;
use crate::lab::{Family, Host, Lab, Tenant};
use crate::nginx::certificate;
use crate::traffic::expect_delivery;
use crate::wait::wait_until;
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::{Child, Command, Stdio};
use tempfile::TempDir;

crate::trials! {
    both families:
        leading_records_hide_no_denied_name,
        other_protocols_need_key_beside_denied_name;
    once:
        silent_client_is_denied_despite_the_key,
        other_protocols_pass_without_denied_names
}

/// Name that `config` denies.
const DENIED: &str = "secret.wild.example.org";
/// PostgreSQL's request, which a server answers before the TLS hello.
const SSL_REQUEST: [u8; 8] = [0, 0, 0, 8, 4, 0xd2, 0x16, 0x2f];
const PROXY: &[u8] = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c\x0a\0\x01\x02\x0a\0\x01\x03\x01\xbb\x01\xbb";

/// A rule by address, in addition to alpha's deny rule by name.
fn by_address(key: &str) -> Config {
    let (v4, v6) = (Host::Named.ip(Family::V4), Host::Named.ip(Family::V6));
    let rule = format!("[[tenant.allow]]\nname = \"net\"\ncidrs = [\"{v4}/32\", \"{v6}/128\"]\n{key}\n");
    Config { alpha_rules: rule, ..Config::default() }
}

/// A TLS server of the system. Stops when dropped.
struct TlsServer {
    child: Child,
    at: SocketAddr,
    _dir: TempDir,
}

impl TlsServer {
    fn start(lab: &Lab, family: Family, program: &str) -> Self {
        let dir = certificate();
        let (cert, key) = (dir.path().join("cert.pem"), dir.path().join("key.pem"));
        let port = if program == "openssl" { 443 } else { 8443 };
        let at = Host::Named.at(family, port);
        let mut command = Command::new(program);
        if program == "openssl" {
            command.args(["s_server", "-quiet", "-www", "-accept"]).arg(at.to_string());
            command.arg("-cert").arg(cert).arg("-key").arg(key);
        } else {
            command.args(["--quiet", "--echo", "--port"]).arg(port.to_string());
            command.arg("--x509certfile").arg(cert).arg("--x509keyfile").arg(key);
        }
        command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
        let server = Self { child: lab.server.spawn(&mut command), at, _dir: dir };
        wait_until("the TLS server to listen", || lab.server.run(|| TcpStream::connect(at).is_ok()));
        server
    }

    /// True if it continues a handshake that starts so, without a gateway.
    fn takes(&self, lab: &Lab, first: &[u8]) -> bool {
        says_hello(&lab.server.run(|| bounded(TcpStream::connect(self.at).unwrap())), first)
    }
}

impl Drop for TlsServer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// True if a ServerHello, or a HelloRetryRequest, is received.
fn says_hello(mut stream: &TcpStream, first: &[u8]) -> bool {
    let mut answer = [0; 6];
    let sent = stream.write_all(first).and_then(|()| stream.read_exact(&mut answer));
    match sent {
        Ok(()) => answer[0] == 22 && answer[5] == 2,
        Err(error) => {
            let refused = matches!(error.kind(), ErrorKind::UnexpectedEof | ErrorKind::ConnectionReset);
            assert!(refused, "neither an answer nor end of file: {error}");
            false
        }
    }
}

fn leading_records_hide_no_denied_name(family: Family) {
    let lab = Lab::new();
    let hello = Hello::to(DENIED).record();
    let records: [(&str, &[u8]); 6] = [
        ("nothing", b""),
        ("a change_cipher_spec", b"\x14\x03\x01\x00\x01\x01"),
        ("an empty change_cipher_spec", b"\x14\x03\x01\x00\x00"),
        ("a warning", b"\x15\x03\x01\x00\x02\x01\x5a"),
        ("an empty record of data", b"\x17\x03\x01\x00\x00"),
        ("a heartbeat", b"\x18\x03\x01\x00\x13\x01\x00\x00xxxxxxxxxxxxxxxx"),
    ];
    for key in ["", "other_protocols = \"allow\""] {
        let gateway = lab.start_gateway(&by_address(key));
        let mut taken = 0;
        for program in ["openssl", "gnutls-serv"] {
            let server = TlsServer::start(&lab, family, program);
            assert!(server.takes(&lab, &hello), "{program} takes no plain hello");
            for (what, record) in &records {
                for count in [1, 2] {
                    let first = [record.repeat(count), hello.clone()].concat();
                    taken += usize::from(server.takes(&lab, &first) && !record.is_empty());
                    let client = lab.connect(Tenant::Alpha, server.at);
                    let local = client.local_addr().unwrap();
                    assert!(!says_hello(&client, &first), "{program} was reached after {what}");
                    drop(client);
                    let flow = gateway.flow_from(local);
                    let outcome = if record.is_empty() { "denied_by_rule" } else { "malformed_tls" };
                    assert_eq!(flow["outcome"], outcome, "{what}: {flow:#}");
                }
            }
        }
        assert!(taken > 0, "no server accepts any of them, so this tests nothing");
    }
}

fn other_protocols_need_key_beside_denied_name(family: Family) {
    let lab = Lab::new();
    let hello = Hello::to(DENIED).record();
    let get = format!("get /\r\nHost: {DENIED}\r\n\r\n");
    let firsts = [
        SSL_REQUEST.to_vec(),
        [PROXY, &hello].concat(),
        [b"\0", &hello[..]].concat(),
        b"\x80\x2e\x01\x03\x01\x00\x15\x00\x00\x00\x10".to_vec(), // an SSLv2 hello
        get.into_bytes(),
        b"*1\r\n$4\r\nPING\r\n".to_vec(),
    ];
    let gateway = lab.start_gateway(&by_address(""));
    let server = lab.listen(Host::Named, family, 5432);
    for first in &firsts {
        let client = lab.send(Tenant::Alpha, server.address(), first);
        assert_eq!(expect_reset(&client), b"", "{}", first.escape_ascii());
        expect_unknown(&gateway, client.local_addr().unwrap());
        server.assert_untouched();
    }
    drop(gateway);
    let gateway = lab.start_gateway(&by_address("other_protocols = \"allow\""));
    for first in &firsts {
        let client = lab.send(Tenant::Alpha, server.address(), first);
        let local = client.local_addr().unwrap();
        expect_delivery(client, server.accept(), first);
        let flow = gateway.expect_outcome(local, "closed");
        assert_eq!((&flow["rule"], &flow["protocol"]), (&"net".into(), &"other".into()), "{flow:#}");
    }
    // TLS and HTTP are judged as before.
    let client = lab.send(Tenant::Alpha, server.address(), &hello);
    assert_eq!(read_all(&client)[..1], [21]);
    let local = client.local_addr().unwrap();
    drop(client);
    gateway.expect_outcome(local, "denied_by_rule");
    server.assert_untouched();
}

fn expect_unknown(gateway: &Gateway, client: SocketAddr) {
    let flow = gateway.expect_outcome(client, "unknown_protocol");
    assert_eq!(
        (&flow["verdict"], &flow["rule"], &flow["protocol"]),
        (&"deny".into(), &"net".into(), &"other".into()),
        "{flow:#}"
    );
}

/// Its later bytes could be a hello.
fn silent_client_is_denied_despite_the_key() {
    let lab = Lab::new();
    for key in ["", "other_protocols = \"allow\""] {
        let config = Config { inspect: "deadline = \"300ms\"".into(), ..by_address(key) };
        let gateway = lab.start_gateway(&config);
        let server = lab.listen(Host::Named, Family::V4, 3306);
        let client = lab.connect(Tenant::Alpha, server.address());
        assert_eq!(expect_reset(&client), b"");
        gateway.expect_outcome(client.local_addr().unwrap(), "inspect_timeout");
        server.assert_untouched();
    }
}

fn other_protocols_pass_without_denied_names() {
    let lab = Lab::new();
    let gamma = "[[tenant]]\nname = \"gamma\"\nsources = [\"10.0.3.0/24\"]\npool = \"alpha\"\n\
                 [[tenant.allow]]\nname = \"net\"\ncidrs = [\"198.51.100.0/24\"]\n\
                 [[tenant.deny]]\nhosts = [\"bad.example.org\"]\nports = [443]\n";
    let gateway = lab.start_gateway(&Config { more: gamma.into(), ..Config::default() });
    let server = lab.listen(Host::Elsewhere, Family::V4, 5432);
    let client = lab.send(Tenant::Gamma, server.address(), &SSL_REQUEST);
    let local = client.local_addr().unwrap();
    expect_delivery(client, server.accept(), &SSL_REQUEST);
    gateway.expect_outcome(local, "closed");
}
