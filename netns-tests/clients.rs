//! Clients: plain sockets, curl, `openssl s_client`; and assertions on denials and resets.

use crate::gateway::Gateway;
use crate::lab::{Family, Host, Lab, Tenant};
use crate::namespace::text;
use crate::servers::Server;
use crate::wait::{PATIENCE, wait_for};
use nix::errno::Errno;
use nix::sys::socket::{MsgFlags, recv};
use serde_json::Value;
use socket2::{Domain, SockRef, Socket, Type};
use std::io::{self, ErrorKind, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::os::fd::{AsFd, AsRawFd as _};
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::{Duration, Instant};

/// TLS alert descriptions that denials use.
pub const ACCESS_DENIED: u8 = 49;
pub const INTERNAL_ERROR: u8 = 80;

impl Lab {
    /// Connects a client, which must succeed.
    pub fn connect(&self, tenant: Tenant, to: SocketAddr) -> TcpStream {
        self.try_connect(tenant, to, PATIENCE)
            .unwrap_or_else(|e| panic!("{tenant:?} cannot connect to {to}: {e}"))
    }

    /// Connects a client, and sends the first bytes.
    pub fn send(&self, tenant: Tenant, to: SocketAddr, first: &[u8]) -> TcpStream {
        let mut client = self.connect(tenant, to);
        client.write_all(first).unwrap();
        client
    }

    /// Connects a client that sends `first` and must be reset, possibly while connecting. Returns its address.
    pub fn expect_reset(&self, tenant: Tenant, to: SocketAddr, first: &[u8]) -> SocketAddr {
        self.client.run(|| connect_and_expect_reset(tenant.client(family_of(to)), to, first))
    }

    /// Connects a client; the error is its address if it is reset while connecting.
    pub fn dial(&self, tenant: Tenant, to: SocketAddr) -> Result<TcpStream, SocketAddr> {
        self.client.run(|| dial_from(tenant.client(family_of(to)), to))
    }

    /// Connects a client, with a time limit.
    pub fn try_connect(&self, tenant: Tenant, to: SocketAddr, patience: Duration) -> io::Result<TcpStream> {
        self.client.run(|| connect_from(tenant.client(family_of(to)), to, patience))
    }
}

fn family_of(address: SocketAddr) -> Family {
    if address.is_ipv4() { Family::V4 } else { Family::V6 }
}

/// Connects from the calling thread's namespace; all later waits on the stream have a time limit.
pub fn connect_from(source: IpAddr, to: SocketAddr, patience: Duration) -> io::Result<TcpStream> {
    let socket = bind(source, to)?;
    socket.connect_timeout(&to.into(), patience)?;
    Ok(bounded(socket.into()))
}

/// Begins to connect from the calling thread's namespace: the SYN has left.
pub fn begin_from(source: IpAddr, to: SocketAddr) -> Socket {
    let socket = bind(source, to).unwrap();
    socket.set_nonblocking(true).unwrap();
    let begun = socket.connect(&to.into()).unwrap_err();
    assert_eq!(begun.raw_os_error(), Some(Errno::EINPROGRESS as i32), "{source} to {to}: {begun}");
    socket
}

/// Connects from the calling thread's namespace and must be reset, possibly before `connect` returns.
pub fn connect_and_expect_reset(source: IpAddr, to: SocketAddr, first: &[u8]) -> SocketAddr {
    let mut stream = match dial_from(source, to) {
        Ok(stream) => stream,
        Err(local) => return local,
    };
    let local = stream.local_addr().unwrap();
    let _ = stream.write_all(first); // the reset may be there already
    assert_eq!(expect_reset(&stream), b"");
    local
}

/// Connects from the calling thread's namespace; the error is the client's address if it is reset before that is done.
fn dial_from(source: IpAddr, to: SocketAddr) -> Result<TcpStream, SocketAddr> {
    let socket = bind(source, to).unwrap();
    let local = socket.local_addr().unwrap().as_socket().unwrap();
    match socket.connect_timeout(&to.into(), PATIENCE) {
        Ok(()) => Ok(bounded(socket.into())),
        Err(e) if e.kind() == ErrorKind::ConnectionReset => Err(local),
        Err(e) => panic!("{source} cannot connect to {to}: {e}"),
    }
}

/// Binds a socket to a port used only once, which identifies its record in the flow log: the kernel could reuse one.
fn bind(source: IpAddr, to: SocketAddr) -> io::Result<Socket> {
    static COUNT: AtomicU16 = AtomicU16::new(0);
    let socket = Socket::new(Domain::for_address(to), Type::STREAM, None)?;
    loop {
        let port = 16_000 + COUNT.fetch_add(1, Ordering::Relaxed) % 16_000; // below those that kernels choose
        match socket.bind(&SocketAddr::new(source, port).into()) {
            // The port may still belong to a flow that has lived for sixteen thousand others.
            Err(error) if error.kind() == ErrorKind::AddrInUse => {}
            bound => return bound.map(|()| socket),
        }
    }
}

/// Sets time limits for reads and writes, and disables Nagle's algorithm.
pub fn bounded(stream: TcpStream) -> TcpStream {
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.set_write_timeout(Some(PATIENCE)).unwrap();
    stream.set_nodelay(true).unwrap();
    stream
}

/// Closes with a reset instead of a FIN.
pub fn reset(stream: TcpStream) {
    Socket::from(stream).set_linger(Some(Duration::ZERO)).unwrap();
}

/// Expects a reset by the peer; end of file or silence is a failure. Returns the bytes before it.
pub fn expect_reset(mut stream: &TcpStream) -> Vec<u8> {
    let mut before = Vec::new();
    match stream.read_to_end(&mut before) {
        Err(e) if e.kind() == ErrorKind::ConnectionReset => before,
        Err(e) => panic!("wanted a reset, got {e} after {} bytes", before.len()),
        Ok(n) => {
            panic!("wanted a reset, got a clean end after {n} bytes: {}", String::from_utf8_lossy(&before))
        }
    }
}

/// Like [`expect_reset`], after the peer's FIN has arrived: a reset then shows when sending.
pub fn expect_reset_while_sending(mut stream: &TcpStream) {
    let error = wait_for("a reset", || match stream.write_all(b"x") {
        Ok(()) => Err("bytes are still taken"),
        Err(error) => Ok(error),
    });
    assert!(matches!(error.kind(), ErrorKind::ConnectionReset | ErrorKind::BrokenPipe), "{error}");
}

/// Returns a socket's error within some time, before which nothing may arrive; leaves it as its time limit. A call with a
/// timeout is interrupted, and not restarted, when the process is stopped or frozen for a moment, which may happen to a
/// test run.
pub fn first_error(socket: impl AsFd, time: Duration) -> ErrorKind {
    let end = Instant::now() + time;
    loop {
        let left = end.saturating_duration_since(Instant::now()).max(Duration::from_millis(1));
        SockRef::from(&socket).set_read_timeout(Some(left)).unwrap();
        match recv(socket.as_fd().as_raw_fd(), &mut [0; 16], MsgFlags::empty()) {
            Ok(n) => panic!("{n} bytes arrived"),
            Err(Errno::EINTR) => {}
            Err(error) => return io::Error::from(error).kind(),
        }
    }
}

/// Reads up to end of file; a reset is a failure.
pub fn read_all(mut stream: &TcpStream) -> Vec<u8> {
    let mut all = Vec::new();
    let end = stream.read_to_end(&mut all);
    end.unwrap_or_else(|e| panic!("wanted a clean end, got {e} after {:?}", String::from_utf8_lossy(&all)));
    all
}

/// Expects one fatal TLS alert of this description, then end of file.
pub fn expect_alert(stream: &TcpStream, description: u8) {
    let all = read_all(stream);
    match *all {
        [21, 3, 1..=3, 0, 2, 2, found] if found == description => {}
        _ => panic!("wanted the one fatal alert {description}, got {all:02x?}"),
    }
}

/// Alpha sends a hello that must be denied with an alert, long before the default deadline, and be recorded so.
pub fn expect_hello_denied(
    lab: &Lab,
    gateway: &Gateway,
    server: &Server,
    hello: &[u8],
    outcome: &str,
    why: &str,
) {
    let client = lab.send(Tenant::Alpha, server.address(), hello);
    expect_tls_denial(gateway, client, outcome, why);
    server.assert_untouched();
}

/// Expects an alert at the client, and a record that nothing left; returns the record.
pub fn expect_tls_denial(gateway: &Gateway, client: TcpStream, outcome: &str, why: &str) -> Value {
    expect_alert(&client, ACCESS_DENIED);
    let local = client.local_addr().unwrap();
    drop(client); // the record is written when both sides have closed
    let flow = gateway.flow_from(local);
    assert_eq!((&flow["outcome"], &flow["verdict"]), (&outcome.into(), &"deny".into()), "{why}: {flow:#}");
    assert_eq!((&flow["source"], &flow["dialled"]), (&Value::Null, &Value::Null), "{why}: {flow:#}");
    flow
}

/// Expects an HTTP/1 response of this status whose body contains all of `words`, then end of file.
pub fn expect_http_denial(stream: &TcpStream, status: u16, words: &[&str]) {
    let all = String::from_utf8(read_all(stream)).expect("a denial in ASCII");
    let (head, body) = all.split_once("\r\n\r\n").unwrap_or_else(|| panic!("no response head: {all:?}"));
    assert!(head.starts_with(&format!("HTTP/1.1 {status} ")), "wanted {status}: {head:?}");
    let length = format!("content-length: {}", body.len());
    assert!(head.to_ascii_lowercase().contains(&length), "{length} is not in {head:?}");
    for word in words {
        assert!(body.contains(word), "the denial does not say {word:?}: {body:?}");
    }
}

/// Result of curl or `s_client`.
pub struct Said {
    pub code: i32,
    pub text: String,
}

/// Runs `curl` from the tenant's address; `name` resolves to `host`. The text is status line, headers, body and errors.
pub fn curl(lab: &Lab, tenant: Tenant, family: Family, url: &str, host: Host, ca: &Path) -> Said {
    curl_with(lab, tenant, family, url, host, ca, &[])
}

/// Like [`curl`], with more arguments after the URL.
pub fn curl_with(
    lab: &Lab,
    tenant: Tenant,
    family: Family,
    url: &str,
    host: Host,
    ca: &Path,
    more: &[&str],
) -> Said {
    let authority = url.split("://").nth(1).unwrap().split('/').next().unwrap();
    let port = if url.starts_with("https") { 443 } else { 80 };
    let ip = bracketed(host.ip(family));
    let output = lab.client.output(
        Command::new("curl")
            .args([
                "--noproxy",
                "*",
                "--silent",
                "--show-error",
                "--include",
                "--max-time",
                "30",
                "--interface",
            ])
            .arg(tenant.client(family).to_string())
            .arg("--resolve")
            .arg(format!("{authority}:{port}:{ip}"))
            .arg("--cacert")
            .arg(ca)
            .arg(url)
            .args(more),
    );
    Said { code: output.status.code().unwrap_or(-1), text: text(&output) }
}

/// Runs `openssl s_client` from the tenant's address; without a name it sends no SNI.
pub fn s_client(lab: &Lab, tenant: Tenant, to: SocketAddr, name: Option<&str>, ca: &Path) -> Said {
    let mut command = Command::new("openssl");
    command.args(["s_client", "-brief", "-CAfile"]).arg(ca).arg("-connect").arg(to.to_string());
    command.arg("-bind").arg(SocketAddr::new(tenant.client(family_of(to)), 0).to_string());
    match name {
        Some(name) => command.args(["-servername", name, "-verify_return_error", "-verify_hostname", name]),
        None => command.arg("-noservername"),
    };
    let output = lab.client.output(&mut command);
    Said { code: output.status.code().unwrap_or(-1), text: text(&output) }
}

fn bracketed(ip: IpAddr) -> String {
    match ip {
        IpAddr::V4(ip) => ip.to_string(),
        IpAddr::V6(ip) => format!("[{ip}]"),
    }
}
