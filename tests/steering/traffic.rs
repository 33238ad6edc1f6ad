//! Packets through the rules: a client behind the gateway's namespace, a server beyond it, and forwarding switched on, so
//! that every packet that the rules miss arrives.

use super::crafted::{Disguise, syn};
use super::{in_namespace, params, scripts};
use egret::steering::{InterceptedPorts, SteeringParams};
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::time::Duration;

/// `serve NAMESPACE WORD PORT` returns when the server listens; `ask REQUEST...` plays the client.
const TOPOLOGY: &str = r#"
mount -t tmpfs tmpfs /run; mkdir -p /run/netns
ip netns add client; ip netns add server
ip link set lo up
join() { # DEVICE NAMESPACE NET
    ip link add $1 type veth peer name e0 netns $2
    ip addr add 10.0.$3.1/24 dev $1; ip addr add fd00:$3::1/64 dev $1 nodad; ip link set $1 up
    ip -n $2 addr add 10.0.$3.2/24 dev e0; ip -n $2 addr add fd00:$3::2/64 dev e0 nodad
    ip -n $2 link set lo up; ip -n $2 link set e0 up
    ip -n $2 route add default via 10.0.$3.1; ip -n $2 -6 route add default via fd00:$3::1
}
join c0 client 1; join s0 server 2
echo 1 > /proc/sys/net/ipv4/ip_forward; echo 1 > /proc/sys/net/ipv6/conf/all/forwarding
ask() { ( EGRET_TEST_PART="ask $*" exec ip netns exec client "$me" steering::traffic::part --exact --ignored --nocapture ) | sed -n 's/^ANSWER //p'; }
started=
trap 'kill $started' EXIT
serve() {
    rm -f /run/ready
    ( EGRET_TEST_PART="serve $2 $3" exec $1 "$me" steering::traffic::part --exact --ignored --nocapture ) > /dev/null 2>&1 &
    started="$started $!"
    while [ ! -e /run/ready ]; do kill -0 $!; sleep 0.02; done
}
# IPv6 on a new link takes its time; the first answer tells that it is there.
await() { # PATTERN REQUEST...
    pattern=$1; shift; tries=0
    until ask "$@" | grep -q "$pattern"; do tries=$((tries + 1)); [ $tries -lt 20 ]; done
}
here="tcp 10.0.1.1:22 tcp [fd00:1::1]:22"
there="tcp 10.0.2.2:443 tcp [fd00:2::2]:443"
nowhere="lost 10.0.2.2:443 lost [fd00:2::2]:443"
other="tcp 10.0.2.2:22 tcp [fd00:2::2]:22"
hidden="fragments 10.0.2.2:443 fragments [fd00:2::2]:443 options [fd00:2::2]:443"
flush() {
    for tool in iptables ip6tables; do for table in raw mangle filter; do $tool -t $table -F; done; done
    nft flush ruleset
}
"#;

/// Run by this same program inside a namespace.
#[test]
#[ignore = "a part in the tests below, which start it in namespaces"]
fn part() {
    let role = std::env::var("EGRET_TEST_PART").unwrap();
    let words: Vec<_> = role.split(' ').collect();
    match words[..] {
        ["serve", word, port] => serve(word, port.parse().unwrap()),
        ["ask", ref requests @ ..] => {
            for request in requests.chunks(2) {
                let address: SocketAddr = request[1].parse().unwrap();
                let answer = match request[0] {
                    "tcp" => dial(address, PATIENCE),
                    "lost" => dial(address, Duration::from_millis(500)),
                    "udp" => send(address),
                    "fragments" => syn(address, Disguise::Fragments).to_owned(),
                    "options" => syn(address, Disguise::Options).to_owned(),
                    other => panic!("no request {other}"),
                };
                println!("\nANSWER {} {address} {answer}", request[0]);
            }
        }
        _ => panic!("no part {role}"),
    }
}

fn serve(word: &str, port: u16) {
    let socket = socket2::Socket::new(socket2::Domain::IPV6, socket2::Type::STREAM, None).unwrap();
    socket.set_only_v6(false).unwrap();
    socket.set_ip_transparent_v4(true).unwrap();
    socket.bind(&SocketAddr::new("::".parse().unwrap(), port).into()).unwrap();
    socket.listen(16).unwrap();
    std::fs::write("/run/ready", "").unwrap();
    for stream in TcpListener::from(socket).incoming() {
        let _ = stream.unwrap().write_all(word.as_bytes());
    }
}

/// Time limit for what must arrive.
const PATIENCE: Duration = Duration::from_secs(15);

fn dial(address: SocketAddr, patience: Duration) -> String {
    let mut said = String::new();
    let outcome = TcpStream::connect_timeout(&address, patience).and_then(|mut stream| {
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.read_to_string(&mut said)
    });
    outcome.map_or_else(|error| format!("{:?}", error.kind()), |_| said)
}

fn send(address: SocketAddr) -> String {
    let socket = UdpSocket::bind(if address.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" }).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    socket.connect(address).unwrap();
    let outcome = socket.send(b"hello").and_then(|_| {
        loop {
            match socket.recv(&mut [0; 8]) {
                // Linux does not restart a wait with a timeout after the process was stopped.
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                told => return told,
            }
        }
    });
    outcome.map_or_else(|error| format!("{:?}", error.kind()), |_| "answered".to_owned())
}

/// Dials through the gateway and to its port 22, while parts of the rules are removed one by one.
fn nothing_passes_by(format: &str, ports: InterceptedPorts, lose_the_rules: &str) {
    let dir = scripts(&SteeringParams { ports, ..params() });
    let me = std::env::current_exe().unwrap();
    let said = in_namespace(
        dir.path(),
        &format!(
            r#"me={me}
            {TOPOLOGY}
            serve "ip netns exec server" server 443; serve "" gateway 22
            await "fd00.*server" $there
            echo before; ask $there $here
            up {format}
            echo gateway down; ask $nowhere $here udp 10.0.2.2:443 udp [fd00:2::2]:443
            serve "" intercepted 15001
            echo gateway up; ask $there $here tcp 10.0.1.1:15001
            ip rule del pref 100; ip -6 rule del pref 100
            echo mark rule lost; ask $nowhere $here
            up {format}; {lose_the_rules}
            echo interception lost; ask $nowhere $here
            flush
            echo everything flushed; ask $nowhere $here"#,
            me = me.display()
        ),
    );
    let dialled = |what: &str| {
        let request = if what == "TimedOut" { "lost" } else { "tcp" };
        format!(
            "{request} 10.0.2.2:443 {what}\n{request} [fd00:2::2]:443 {what}\n\
             tcp 10.0.1.1:22 gateway\ntcp [fd00:1::1]:22 gateway\n"
        )
    };
    // A routing decision between iptables' interception and its REJECT refuses too.
    let udp = match format {
        "iptables" => "udp 10.0.2.2:443 HostUnreachable\nudp [fd00:2::2]:443 PermissionDenied\n",
        _ => "udp 10.0.2.2:443 ConnectionRefused\nudp [fd00:2::2]:443 ConnectionRefused\n",
    };
    let expected = [
        "before\n",
        &dialled("server"),
        "gateway down\n",
        &dialled("TimedOut"),
        udp,
        "gateway up\n",
        &dialled("intercepted"),
        "tcp 10.0.1.1:15001 intercepted\n",
        "mark rule lost\n",
        &dialled("TimedOut"),
        "interception lost\n",
        &dialled("TimedOut"),
        "everything flushed\n",
        &dialled("TimedOut"),
    ];
    assert_eq!(said, expected.concat());
}

const FLUSH_IPTABLES: &str = "iptables -t mangle -F EGRET_STEER; ip6tables -t mangle -F EGRET_STEER";
const FLUSH_NFTABLES: &str = "nft flush chain inet egret steer";

#[test]
fn iptables_leak_nothing() {
    nothing_passes_by("iptables", params().ports, FLUSH_IPTABLES);
}

#[test]
fn iptables_on_all_ports_leak_nothing() {
    nothing_passes_by("iptables", InterceptedPorts::All, FLUSH_IPTABLES);
}

#[test]
fn nftables_leak_nothing() {
    nothing_passes_by("nftables", params().ports, FLUSH_NFTABLES);
}

#[test]
fn nftables_on_all_ports_leak_nothing() {
    nothing_passes_by("nftables", InterceptedPorts::All, FLUSH_NFTABLES);
}

/// After a flush, policy routing alone is left. It sees no ports in fragments, and an interface may have another name than
/// the configuration says.
#[test]
fn flushed_rules_let_no_disguise_pass() {
    let dir = scripts(&params());
    let me = std::env::current_exe().unwrap();
    let said = in_namespace(
        dir.path(),
        &format!(
            r#"me={me}
            {TOPOLOGY}
            serve "ip netns exec server" server 443; serve "ip netns exec server" ssh 22
            await "fd00.*server" $there
            echo before; ask $hidden
            up iptables; flush
            echo steered; ask $hidden $other
            ip link set c0 down; ip link set c0 name c7; ip link set c7 up
            ip -6 addr replace fd00:1::1/64 dev c7 nodad
            await "fd00.*ssh" $other
            echo renamed; ask $nowhere $hidden
            ip -6 rule flush protocol 230; echo 1 > /proc/sys/net/ipv6/conf/lo/disable_ipv6
            echo unprotected; ask tcp [fd00:2::2]:443
            up iptables; flush
            echo loopback closed to IPv6; ask lost [fd00:2::2]:443"#,
            me = me.display()
        ),
    );
    let hidden = |what| {
        format!(
            "fragments 10.0.2.2:443 {what}\nfragments [fd00:2::2]:443 {what}\noptions [fd00:2::2]:443 {what}\n"
        )
    };
    let lost = "lost 10.0.2.2:443 TimedOut\nlost [fd00:2::2]:443 TimedOut\n";
    let expected = [
        "before\n",
        &hidden("SYN-ACK"),
        "steered\n",
        &hidden("nothing"),
        "tcp 10.0.2.2:22 ssh\ntcp [fd00:2::2]:22 ssh\n",
        "renamed\n",
        lost,
        &hidden("nothing"),
        "unprotected\ntcp [fd00:2::2]:443 server\n",
        "loopback closed to IPv6\nlost [fd00:2::2]:443 TimedOut\n",
    ];
    assert_eq!(said, expected.concat());
}
