//! Interfaces, listeners, and what the kernel does to packets on their way.

use super::listeners::listeners;
use super::proc::number;
use crate::addr::PortRange;
use crate::cli::findings::CheckFinding;
use std::io::{self, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

pub(super) fn forwarding() -> CheckFinding {
    const CHECK: &str = "ip_forward";
    let on = ["net/ipv4/ip_forward", "net/ipv6/conf/all/forwarding"]
        .map(|name| number(name).is_some_and(|v| v != 0));
    match on {
        [false, false] => CheckFinding::ok(CHECK, "off: only what Egret lets out leaves"),
        [v4, _] => CheckFinding::warn(
            CHECK,
            "on: what is not intercepted is forwarded uninspected",
            "Egret does not need it, and without it nothing passes by even if the packet rules are lost",
            if v4 { "sysctl -w net.ipv4.ip_forward=0" } else { "sysctl -w net.ipv6.conf.all.forwarding=0" },
        ),
    }
}

pub(super) fn conntrack() -> CheckFinding {
    const CHECK: &str = "conntrack";
    let entries = number("net/netfilter/nf_conntrack_count").unwrap_or_default();
    let most = number("net/netfilter/nf_conntrack_max").unwrap_or_default();
    if entries == 0 || entries < most / 5 * 4 {
        return CheckFinding::ok(CHECK, format!("{entries} entries; Egret's flows need none"));
    }
    CheckFinding::warn(
        CHECK,
        format!("{entries} of {most} entries in use"),
        "when the table is full, new connections of other programs are dropped",
        format!("sysctl -w net.netfilter.nf_conntrack_max={}", most * 2),
    )
}

/// A listener on every address takes its port away from every pool address.
pub(super) fn foreign_listeners(pools: &[PortRange], own: u16) -> CheckFinding {
    const CHECK: &str = "listeners";
    let everywhere = listeners().into_iter().filter(|listener| listener.is_wildcard);
    let mut ports: Vec<u16> = everywhere.map(|listener| listener.port).collect();
    ports.retain(|port| *port != own && pools.iter().any(|pool| pool.contains(*port)));
    ports.sort_unstable();
    ports.dedup();
    if ports.is_empty() {
        return CheckFinding::ok(CHECK, "no other program listens on a port of the pools on every address");
    }
    let listed: Vec<_> = ports.iter().take(8).map(ToString::to_string).collect();
    CheckFinding::warn(
        CHECK,
        format!(
            "other programs listen on every address at {} port(s) of the pools: {}",
            ports.len(),
            listed.join(", ")
        ),
        "Egret cannot bind these ports on pool addresses",
        "see `ss -ltnp`; let them listen on one address, or take the ports out of [[pool]] ports",
    )
}

/// Asks the running gateway whether it is ready.
pub(super) fn ready(metrics: SocketAddr) -> CheckFinding {
    const CHECK: &str = "gateway";
    match ask_ready(metrics) {
        Ok((200, _)) => CheckFinding::ok(CHECK, format!("ready, says http://{metrics}/readyz")),
        Ok((status, reason)) => CheckFinding::fail(
            CHECK,
            format!("not ready ({status}): {reason}"),
            "new flows are not taken, or do not reach the gateway",
            format!("see `curl http://{metrics}/readyz`"),
        ),
        Err(error) => CheckFinding::fail(
            CHECK,
            format!("http://{metrics}/readyz: {error}"),
            "while the gateway is down, every intercepted connection is dropped",
            "systemctl start egret; journalctl -u egret",
        ),
    }
}

/// Returns the status and the first line of the body.
fn ask_ready(metrics: SocketAddr) -> io::Result<(u16, String)> {
    const PATIENCE: Duration = Duration::from_secs(2);
    const MOST: u64 = 4096;
    let mut stream = TcpStream::connect_timeout(&metrics, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    let request = format!("GET /readyz HTTP/1.1\r\nHost: {metrics}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes())?;
    let mut answer = Vec::new();
    let ended = stream.take(MOST).read_to_end(&mut answer);
    if answer.is_empty() {
        ended?;
    }
    let answer = String::from_utf8_lossy(&answer);
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((&*answer, ""));
    let status = head.strip_prefix("HTTP/1.1 ").and_then(|rest| rest.get(..3)?.parse().ok());
    let status = status.ok_or_else(|| io::Error::other("that is not HTTP"))?;
    Ok((status, body.lines().next().unwrap_or_default().to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::findings::FindingLevel;
    use std::net::TcpListener;

    #[test]
    fn listener_in_pool_range_is_named() {
        let listener = TcpListener::bind("0.0.0.0:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let range = [PortRange::new(port, port).unwrap()];
        let found = foreign_listeners(&range, 1);
        assert!(found.level == FindingLevel::Warn && found.found.contains(&port.to_string()), "{found:?}");
        assert_eq!(foreign_listeners(&range, port).level, FindingLevel::Ok);
    }

    #[test]
    fn readiness_is_what_the_gateway_answers() {
        for (answer, level, said) in [
            ("200 OK\r\n\r\nready\n", FindingLevel::Ok, "ready, says"),
            (
                "503 Service Unavailable\r\n\r\ndraining\nmore\n",
                FindingLevel::Fail,
                "not ready (503): draining",
            ),
        ] {
            let listener = TcpListener::bind("127.0.0.1:0").unwrap();
            let address = listener.local_addr().unwrap();
            let server = std::thread::spawn(move || {
                let (mut stream, _) = listener.accept().unwrap();
                // all of it: a close with bytes unread is a reset, which takes the answer away
                let mut asked = Vec::new();
                while !asked.ends_with(b"\r\n\r\n") {
                    let mut byte = [0];
                    stream.read_exact(&mut byte).unwrap();
                    asked.extend(byte);
                }
                stream.write_all(format!("HTTP/1.1 {answer}").as_bytes()).unwrap();
            });
            let finding = ready(address);
            assert!(finding.level == level && finding.found.starts_with(said), "{finding:?}");
            assert!(!finding.mend.is_some_and(|mend| mend.contains("start egret")));
            server.join().unwrap();
        }
    }
}
