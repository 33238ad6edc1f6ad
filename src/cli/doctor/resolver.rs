//! Asks the DNS servers that rules need.

use super::inputs::AskedResolver;
use crate::cli::findings::CheckFinding;
use crate::cli::interrupted;
use crate::cli::mend::Mend;
use crate::clock;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::thread;
use std::time::Duration;

/// Longest wait for an answer; the question is sent twice.
const PATIENCE: Duration = Duration::from_secs(1);
const ATTEMPTS: u16 = 2;
const CHECK: &str = "DNS servers";
const WHY: &str = "rules with `destination` other than \"original\" deny what cannot be looked up";

/// Asks each server; one finding for all.
pub(super) fn answers(resolver: &AskedResolver) -> CheckFinding {
    let AskedResolver { servers, name } = resolver;
    let servers = match servers {
        Ok(servers) => servers,
        Err(error) => return CheckFinding::fail(CHECK, error, WHY, "write [resolver] servers"),
    };
    let faults: Vec<_> = thread::scope(|scope| {
        let asked: Vec<_> =
            servers.iter().map(|server| (server, scope.spawn(|| ask(*server, name)))).collect();
        let answers =
            asked.into_iter().map(|(server, asked)| (server, asked.join().unwrap_or(Err(Fault::Failed))));
        answers.filter_map(|(server, answer)| Some((server, answer.err()?))).collect()
    });
    if faults.is_empty() {
        let shown: Vec<_> = servers.iter().map(ToString::to_string).collect();
        return CheckFinding::ok(CHECK, format!("{} answer for {name}", shown.join(", ")));
    }
    let told: Vec<_> = faults.iter().map(|(server, fault)| format!("{server} {}", fault.as_str())).collect();
    let cure = Mend::run(format!("dig @{} {name}", host(*faults[0].0)))
        .and("correct [resolver] servers, or let UDP port 53 pass");
    let level = if faults.len() == servers.len() { CheckFinding::fail } else { CheckFinding::warn };
    level(CHECK, format!("asked for {name}: {}", told.join("; ")), WHY, cure)
}

/// The server's address as `dig` takes it, with the interface of a link-local one.
fn host(server: SocketAddr) -> String {
    match server {
        SocketAddr::V6(v6) if v6.scope_id() != 0 => format!("{}%{}", v6.ip(), v6.scope_id()),
        SocketAddr::V4(_) | SocketAddr::V6(_) => server.ip().to_string(),
    }
}

/// A server's failure to answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    Silent,
    Unreachable,
    /// `SERVFAIL`, `REFUSED` and other codes that say nothing of the name.
    Failed,
}

impl Fault {
    fn as_str(self) -> &'static str {
        match self {
            Self::Silent => "does not answer",
            Self::Unreachable => "cannot be reached",
            Self::Failed => "answers that it failed or refuses",
        }
    }
}

fn ask(server: SocketAddr, name: &str) -> Result<(), Fault> {
    let unreachable = |_: io::Error| Fault::Unreachable;
    let any: SocketAddr =
        if server.is_ipv4() { (Ipv4Addr::UNSPECIFIED, 0).into() } else { (Ipv6Addr::UNSPECIFIED, 0).into() };
    let socket = UdpSocket::bind(any).map_err(unreachable)?;
    socket.connect(server).map_err(unreachable)?;
    socket.set_read_timeout(Some(PATIENCE)).map_err(unreachable)?;
    let id = rand::random::<u16>();
    let question = question(id, name);
    let mut buffer = [0; 1500];
    let mut refused = false;
    for _ in 0..ATTEMPTS {
        // An ICMP error about the first question may be told here.
        refused |= socket.send(&question).is_err();
        match interrupted::repeat(clock::now() + PATIENCE, || socket.recv(&mut buffer)) {
            Ok(length) => {
                if let Some(answer) = understood(id, buffer.get(..length).unwrap_or_default()) {
                    return answer;
                }
            }
            Err(error) => refused |= error.kind() == io::ErrorKind::ConnectionRefused,
        }
    }
    Err(if refused { Fault::Unreachable } else { Fault::Silent })
}

/// A query for A records (RFC 1035 §4.1) with recursion desired.
fn question(id: u16, name: &str) -> Vec<u8> {
    let mut message = Vec::from(id.to_be_bytes());
    message.extend([1, 0, 0, 1, 0, 0, 0, 0, 0, 0]);
    for label in name.split('.').filter(|label| !label.is_empty()) {
        let label = label.as_bytes();
        message.push(u8::try_from(label.len()).unwrap_or(u8::MAX));
        message.extend(label);
    }
    message.extend([0, 0, 1, 0, 1]);
    message
}

/// `None` if the message is no response to this question.
fn understood(id: u16, message: &[u8]) -> Option<Result<(), Fault>> {
    let [high, low, flags, code, ..] = *message else { return None };
    if u16::from_be_bytes([high, low]) != id || flags & 0x80 == 0 {
        return None;
    }
    // NOERROR, or NXDOMAIN.
    Some(if matches!(code & 0xf, 0 | 3) { Ok(()) } else { Err(Fault::Failed) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::findings::FindingLevel;

    #[test]
    fn each_kind_of_server_is_told() {
        // Answers each question once with this code; `None` leaves it alone.
        let server = |code: Option<u8>| {
            let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
            let address = socket.local_addr().unwrap();
            let serving = thread::spawn(move || {
                let mut buffer = [0; 512];
                let (length, from) = socket.recv_from(&mut buffer).unwrap();
                assert_eq!(&buffer[12..length], b"\x03api\x07example\x03org\0\0\x01\0\x01");
                match code {
                    Some(code) => {
                        (buffer[2], buffer[3]) = (0x81, 0x80 | code);
                        socket.send_to(&buffer[..length], from).unwrap();
                    }
                    None => drop(socket.recv_from(&mut buffer)),
                }
            });
            (address, serving)
        };
        for (codes, level, word) in [
            (&[Some(0)][..], FindingLevel::Ok, "answer for api.example.org"),
            (&[Some(3)], FindingLevel::Ok, "answer for"),
            (&[Some(5)], FindingLevel::Fail, "failed or refuses"),
            (&[None], FindingLevel::Fail, "does not answer"),
            (&[Some(0), Some(2)], FindingLevel::Warn, "failed or refuses"),
        ] {
            let (addresses, serving): (Vec<_>, Vec<_>) = codes.iter().map(|code| server(*code)).unzip();
            let finding =
                answers(&AskedResolver { servers: Ok(addresses), name: "api.example.org".to_owned() });
            assert!(finding.level == level && finding.found.contains(word), "{finding:?}");
            for thread in serving {
                thread.join().unwrap();
            }
        }
        let nobody =
            AskedResolver { servers: Ok(vec!["127.0.0.1:9".parse().unwrap()]), name: "a.".to_owned() };
        assert!(answers(&nobody).found.contains("cannot be reached"));
        let none = AskedResolver { servers: Err("no server".to_owned()), name: String::new() };
        assert_eq!(answers(&none).level, FindingLevel::Fail);
    }
}
