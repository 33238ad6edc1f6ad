//! Names are resolved even by servers that refuse EDNS.

use crate::lab::{Family, Host, Lab};
use crate::old_resolver::{OldResolver, Refuses};
use crate::verified::{NAME, config, denied, reach, rule, with_rules};
use std::net::IpAddr;

crate::trials! {
    both families: ;
    once:
        servers_without_edns_get_plain_queries,
        dnssec_queries_always_use_edns
}

const FORMERR: u8 = 1;
const SERVFAIL: u8 = 2;
const NOTIMP: u8 = 4;
const REFUSED: u8 = 5;

fn servers_without_edns_get_plain_queries() {
    for refuses in [
        Refuses::With(FORMERR),
        Refuses::With(SERVFAIL),
        Refuses::With(NOTIMP),
        Refuses::With(REFUSED),
        Refuses::WithHeader(FORMERR),
        Refuses::Silently,
    ] {
        for destination in ["verify", "resolve"] {
            let lab = Lab::new();
            let server = lab.listen(Host::Named, Family::V4, 443);
            let IpAddr::V4(address) = server.address().ip() else { unreachable!() };
            let dns = OldResolver::start(&lab, Host::Web, refuses, address);
            let gateway = lab.start_gateway(&config(destination));
            reach(&lab, &gateway, server.address(), NAME, &server);
            // This is known by now: other names are queried without EDNS at once.
            let before = dns.queries();
            for n in 0..3 {
                reach(&lab, &gateway, server.address(), &format!("n{n}.cdn.example.org"), &server);
            }
            let after = dns.queries();
            assert!(after.1 >= before.1 + 3, "{refuses:?}: {before:?} {after:?}");
            assert_eq!(after.0, before.0, "{refuses:?}: {before:?} {after:?}");
            let told = gateway.stderr().matches("answers without EDNS").count();
            assert_eq!(told, 1, "{}", gateway.stderr());
        }
    }
}

fn dnssec_queries_always_use_edns() {
    let lab = Lab::new();
    let server = lab.listen(Host::Named, Family::V4, 443);
    let IpAddr::V4(address) = server.address().ip() else { unreachable!() };
    let dns = OldResolver::start(&lab, Host::Web, Refuses::With(FORMERR), address);
    let resolver = "servers = [\"198.51.100.10\"]\ndnssec = \"require\"";
    let gateway = lab.start_gateway(&with_rules(&rule("verify"), resolver));
    denied(&lab, &gateway, server.address(), NAME, "resolver_unavailable");
    server.assert_untouched();
    let (with, without) = dns.queries();
    assert!(with > 0 && without == 0, "{with} {without}");
}
