//! ICMP errors reach their sockets, and stateful firewalls (conntrack) let flows pass.

use crate::clients::connect_from;
use crate::config::Config;
use crate::gateway::Rules;
use crate::lab::{Family, Host, Lab, Tenant};
use crate::namespace::Namespace;
use crate::servers::Server;
use crate::traffic::{pass, receive, send};
use crate::wait::PATIENCE;
use std::net::IpAddr;
use std::thread;

crate::trials! {
    both families:
        narrow_hop_to_client_passes_download,
        narrow_hop_to_server_passes_upload,
        stateful_firewall_passes_flows_and_errors;
    once:
}

/// More than any initial window.
const MUCH: usize = 300_000;

/// Client 1500 – hop 1400 – gateway 1500: the hop's errors go to the server, the apparent sender of the packets.
fn narrow_hop_to_client_passes_download(family: Family) {
    for rules in [Rules::Iptables, Rules::Nftables] {
        let lab = Lab::new();
        let (_hop, far) = far_client(&lab);
        let config = Config { interfaces: "[\"h0\"]".into(), ..Config::default() };
        let _gateway = lab.start_steered_gateway(&config, rules);
        let server = lab.listen(Host::Raw, family, 7000);
        let (from, to) = (far_address(family), server.address());
        let client = far.run(|| connect_from(from, to, PATIENCE)).unwrap();
        let upstream = server.accept();
        thread::scope(|scope| {
            scope.spawn(|| send(&upstream, MUCH));
            receive(&client, MUCH);
        });
    }
}

/// The same between gateway and server, where the errors are addressed to the pool.
fn narrow_hop_to_server_passes_upload(family: Family) {
    let lab = Lab::new();
    let far = far_server(&lab);
    for rules in [Rules::Iptables, Rules::Nftables] {
        let _gateway = lab.start_steered_gateway(&Config::default(), rules);
        upload(&lab, &far, family);
    }
}

fn stateful_firewall_passes_flows_and_errors(family: Family) {
    let lab = Lab::new();
    let far = far_server(&lab);
    // As in cloud images: new connections are refused, except ssh and neighbour discovery.
    for tool in ["iptables", "ip6tables"] {
        lab.gateway.shell(&format!(
            "{tool} -A INPUT -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
             {tool} -A INPUT -i lo -j ACCEPT
             {tool} -A INPUT -p tcp --dport 22 -j ACCEPT"
        ));
    }
    lab.gateway.shell(
        "for type in 133 134 135 136; do ip6tables -A INPUT -p ipv6-icmp --icmpv6-type $type -j ACCEPT; done
         iptables -A INPUT -j REJECT --reject-with icmp-host-prohibited
         ip6tables -A INPUT -j REJECT --reject-with icmp6-adm-prohibited",
    );
    let _gateway = lab.start_steered_gateway(&Config::default(), Rules::Iptables);
    upload(&lab, &far, family);
}

fn upload(lab: &Lab, far: &Namespace, family: Family) {
    let server = far.run(|| Server::bind(Host::Unreachable.at(family, 7000)));
    let client = lab.connect(Tenant::Alpha, server.address());
    let upstream = server.accept();
    thread::scope(|scope| {
        scope.spawn(|| send(&client, MUCH));
        receive(&upstream, MUCH);
    });
    pass(&upstream, &client, b"an answer");
}

/// An address of alpha's, on no network of the gateway.
fn far_address(family: Family) -> IpAddr {
    if family == Family::V4 { "10.0.1.200" } else { "fd00:1::c8" }.parse().unwrap()
}

/// A hop at the gateway's interface h0, and a client behind it whose link to the hop has an MTU of 1400 bytes.
fn far_client(lab: &Lab) -> (Namespace, Namespace) {
    let (hop, far) = (Namespace::new(), Namespace::new());
    lab.gateway.join("h0", &hop);
    hop.join("k0", &far);
    hop.set_forwarding(true);
    lab.gateway.ip("link set h0 up\naddr add 10.77.1.1/30 dev h0\naddr add fd77:1::1/64 dev h0 nodad\n\
         route add 10.0.1.200/32 via 10.77.1.2\nroute add fd00:1::c8/128 via fd77:1::2\n");
    hop.ip("link set h0 up\nlink set k0 up mtu 1400\naddr add 10.77.1.2/30 dev h0\naddr add fd77:1::2/64 dev h0 nodad\n\
         addr add 10.77.2.1/30 dev k0\naddr add fd77:2::1/64 dev k0 nodad\n\
         route add default via 10.77.1.1\nroute add default via fd77:1::1\n\
         route add 10.0.1.200/32 via 10.77.2.2\nroute add fd00:1::c8/128 via fd77:2::2\n");
    far.ip("link set k0 up\naddr add 10.77.2.2/30 dev k0\naddr add fd77:2::2/64 dev k0 nodad\n\
         addr add 10.0.1.200/32 dev k0\naddr add fd00:1::c8/128 dev k0 nodad\n\
         route add default via 10.77.2.1\nroute add default via fd77:2::1\n");
    for namespace in [&lab.gateway, &hop, &far] {
        namespace.wait_for_links();
    }
    (hop, far)
}

/// The host that usually does not exist, behind the servers' network, with a link of 1400 bytes MTU.
fn far_server(lab: &Lab) -> Namespace {
    let far = Namespace::new();
    lab.server.join("n0", &far);
    lab.server.ip("route del unreachable 198.51.100.40/32\nroute del unreachable 2001:db8:51::28/128\n\
         link set n0 up mtu 1400\naddr add 10.77.3.1/30 dev n0\naddr add fd77:3::1/64 dev n0 nodad\n\
         route add 198.51.100.40/32 via 10.77.3.2\nroute add 2001:db8:51::28/128 via fd77:3::2\n");
    far.ip("link set n0 up\naddr add 10.77.3.2/30 dev n0\naddr add fd77:3::2/64 dev n0 nodad\n\
         addr add 198.51.100.40/32 dev n0\naddr add 2001:db8:51::28/128 dev n0 nodad\n\
         route add default via 10.77.3.1\nroute add default via fd77:3::1\n");
    for namespace in [&lab.server, &far] {
        namespace.wait_for_links();
    }
    far
}
