//! A client's traffic class (DSCP), on both legs.

use crate::clients::{bounded, read_all};
use crate::config::Config;
use crate::lab::{Family, Host, Lab, Tenant};
use crate::namespace::Namespace;
use crate::requests::{FIRST, expect};
use crate::servers::Server;
use crate::traffic::pass;
use socket2::{Domain, Socket, Type};
use std::io::Write;
use std::net::{SocketAddr, TcpStream};
use std::process::Command;

crate::trials! {
    both families:
        both_legs_keep_the_clients_dscp,
        cleared_dscp_leaves_with_no_packet;
    once:
}

/// Expedited forwarding, as in the TOS octet.
const EF: u32 = 46 << 2;

/// Counts packets from or to a port, by whether they are marked EF. Of the gateway's packets to clients only those with
/// data count: an answer for a listener has no socket yet.
fn count(namespace: &Namespace, port: &str) {
    let ruleset = format!(
        "table inet class {{
            counter marked {{ }}
            counter others {{ }}
            chain input {{
                type filter hook input priority 0;
                tcp {port} ip dscp ef counter name marked accept
                tcp {port} ip6 dscp ef counter name marked accept
                tcp {port} counter name others
            }}
        }}"
    );
    namespace.feed(Command::new("nft").args(["-f", "-"]), &ruleset);
}

fn counted(namespace: &Namespace, counter: &str) -> u64 {
    let listed = namespace.shell(&format!("nft list counter inet class {counter}"));
    let packets = listed.split("packets ").nth(1).and_then(|rest| rest.split(' ').next());
    packets.and_then(|packets| packets.parse().ok()).unwrap_or_else(|| panic!("{listed}"))
}

fn connect(lab: &Lab, family: Family, to: SocketAddr, class: u32) -> TcpStream {
    lab.client.run(|| {
        let socket = Socket::new(Domain::for_address(to), Type::STREAM, None).unwrap();
        socket.bind(&SocketAddr::new(Tenant::Alpha.client(family), 0).into()).unwrap();
        match family {
            Family::V4 => socket.set_tos_v4(class).unwrap(),
            Family::V6 => socket.set_tclass_v6(class).unwrap(),
        }
        socket.connect(&to.into()).unwrap();
        bounded(socket.into())
    })
}

/// Runs a flow of such a client, with data both ways, to its end.
fn talk(lab: &Lab, family: Family, server: &Server, class: u32) {
    let client = connect(lab, family, server.address(), class);
    let upstream = server.accept();
    pass(&client, &upstream, b"a question");
    pass(&upstream, &client, b"an answer");
    drop(client);
    assert_eq!(read_all(&upstream), b"");
}

fn both_legs_keep_the_clients_dscp(family: Family) {
    let lab = Lab::new();
    let gateway = lab.start_gateway(&Config::default());
    let server = Server::raw(&lab, family, 7000);
    count(&lab.server, "dport 7000");
    count(&lab.client, "sport 7000 tcp flags & psh == psh");
    talk(&lab, family, &server, 0);
    gateway.wait_for_flows(1);
    assert_eq!(counted(&lab.server, "marked") + counted(&lab.client, "marked"), 0);
    let others = counted(&lab.server, "others");
    assert!(others > 3 && counted(&lab.client, "others") > 0);
    // The lower two bits are ECN, not part of it.
    for class in [EF, EF | 1] {
        talk(&lab, family, &server, class);
    }
    gateway.wait_for_flows(3);
    assert!(counted(&lab.server, "marked") > 6 && counted(&lab.client, "marked") >= 2);
    assert_eq!((counted(&lab.server, "others"), counted(&lab.client, "others")), (others, 1));
    // An inspected flow, whose server is dialled later.
    let inspected = lab.listen(Host::Inspected, family, 7000);
    let client = connect(&lab, family, inspected.address(), EF);
    (&client).write_all(FIRST.as_bytes()).unwrap();
    expect(&inspected.accept(), FIRST);
    assert_eq!(counted(&lab.server, "others"), others);
}

fn cleared_dscp_leaves_with_no_packet(family: Family) {
    let lab = Lab::new();
    let config = Config { gateway: "dscp = \"clear\"".into(), ..Config::default() };
    let gateway = lab.start_gateway(&config);
    let server = Server::raw(&lab, family, 7000);
    count(&lab.server, "dport 7000");
    count(&lab.client, "sport 7000");
    talk(&lab, family, &server, EF);
    gateway.wait_for_flows(1);
    assert_eq!(counted(&lab.server, "marked") + counted(&lab.client, "marked"), 0);
    assert!(counted(&lab.server, "others") > 3);
}
