//! Tenants that share a pool: floors, ceilings; and addresses that are drained or mapped.

use crate::clients::{
    INTERNAL_ERROR, connect_and_expect_reset, connect_from, expect_alert, expect_http_denial,
};
use crate::config::Config;
use crate::hello::Hello;
use crate::lab::{Family, Host, Lab, Tenant};
use crate::traffic::pass;
use crate::wait::PATIENCE;
use std::io::Write;
use std::net::IpAddr;

crate::trials! {
    both families:
        three_tenants_get_what_they_are_assured_of_and_no_more,
        a_ceiling_is_told_in_the_clients_own_protocol;
    once:
}

/// Two tenants with one client each, beside alpha on its pool.
const NEIGHBOURS: &str = r#"
[[tenant]]
name = "quiet"
sources = ["10.0.1.20", "fd00:1::20"]
pool = "alpha"
ports_floor = 4
  [[tenant.allow]]
  name = "quiet-raw"
  cidrs = ["198.51.100.20/32", "2001:db8:51::14/128"]
  inspect = "none"
[[tenant]]
name = "capped"
sources = ["10.0.1.30", "fd00:1::30"]
pool = "alpha"
ports_ceiling = 3
  [[tenant.allow]]
  name = "capped-raw"
  cidrs = ["198.51.100.20/32", "2001:db8:51::14/128"]
  inspect = "none"
"#;

fn neighbour(family: Family, lab: &Lab, last: &str) -> IpAddr {
    let (text, options) = match family {
        Family::V4 => (format!("10.0.1.{last}"), "/24 dev c0"),
        Family::V6 => (format!("fd00:1::{last}"), "/64 dev c0 nodad"),
    };
    lab.client.ip(&format!("addr add {text}{options}"));
    text.parse().unwrap()
}

fn three_tenants_get_what_they_are_assured_of_and_no_more(family: Family) {
    let lab = Lab::new();
    let (quiet, capped) = (neighbour(family, &lab, "20"), neighbour(family, &lab, "30"));
    let noisy = Tenant::Alpha.client(family);
    let config = Config {
        // sixteen ports, for the second address of each family is drained
        alpha_pool: "ports = \"40000-40015\"\n\
                     drain = [\"203.0.113.18\", \"2001:db8:100::2\"]\n\
                     public = { \"203.0.113.17\" = \"52.1.2.3\", \"2001:db8:100::1\" = \"2001:db8:ffff::1\" }"
            .into(),
        alpha_addresses: "[\"203.0.113.17\", \"203.0.113.18\", \"2001:db8:100::1\", \"2001:db8:100::2\"]"
            .into(),
        more: NEIGHBOURS.into(),
        ..Config::default()
    };
    let gateway = lab.start_gateway(&config);
    let server = lab.listen(Host::Raw, family, 7000);
    let open = |client: IpAddr| {
        let client = lab.client.run(|| connect_from(client, server.address(), PATIENCE)).unwrap();
        let upstream = server.accept();
        assert_eq!(upstream.peer_addr().unwrap().ip(), family.pool(), "the other address is drained");
        (client, upstream)
    };
    let refused = |client: IpAddr, outcome: &str| {
        let local = lab.client.run(|| connect_and_expect_reset(client, server.address(), b""));
        server.assert_untouched();
        gateway.expect_outcome(local, outcome)
    };
    let mut flows: Vec<_> = (0..3).map(|_| open(capped)).collect();
    let flow = refused(capped, "tenant_port_ceiling");
    assert!(flow["detail"].as_str().unwrap().contains("ports_ceiling"), "{flow:#}");
    flows.extend((0..9).map(|_| open(noisy)));
    let flow = refused(noisy, "tenant_port_ceiling");
    assert!(flow["detail"].as_str().unwrap().contains("ports_floor"), "{flow:#}");
    flows.extend((0..4).map(|_| open(quiet)));
    let flow = refused(quiet, "ports_exhausted");
    assert_eq!((flow["source"].is_null(), flow["public"].is_null()), (true, true), "{flow:#}");
    refused(noisy, "ports_exhausted");
    for (client, upstream) in &flows {
        pass(client, upstream, b"still here");
    }

    // What a neighbour gives back is anybody's, what the quiet one gives back is its own.
    let end = |(client, upstream): (std::net::TcpStream, std::net::TcpStream)| {
        let local = client.local_addr().unwrap();
        drop(client);
        drop(upstream);
        let flow = gateway.expect_outcome(local, "closed");
        let public = if family == Family::V4 { "52.1.2.3" } else { "2001:db8:ffff::1" };
        assert_eq!(flow["public"], public, "{flow:#}");
    };
    end(flows.remove(0));
    flows.push(open(noisy));
    end(flows.remove(11));
    let flow = refused(noisy, "tenant_port_ceiling");
    assert!(flow["detail"].as_str().unwrap().contains("ports_floor"), "{flow:#}");
    open(quiet);
    assert_eq!(gateway.metric("egret_port_collisions_total", &[]), 0);
}

fn a_ceiling_is_told_in_the_clients_own_protocol(family: Family) {
    let lab = Lab::new();
    let gateway =
        lab.start_gateway(&Config { alpha_tenant: "ports_ceiling = 1".into(), ..Config::default() });
    let hello = Hello::to("allowed.example.org").record();
    let request = b"GET / HTTP/1.1\r\nHost: allowed.example.org\r\n\r\n".to_vec();
    for (port, bytes) in [(443, hello), (80, request)] {
        let server = lab.listen(Host::Named, family, port);
        let open = || {
            let mut client = lab.connect(Tenant::Alpha, server.address());
            client.write_all(&bytes).unwrap();
            client
        };
        let _live = (open(), server.accept());
        let refused = open();
        let local = refused.local_addr().unwrap();
        if port == 443 {
            expect_alert(&refused, INTERNAL_ERROR);
        } else {
            expect_http_denial(&refused, 503, &["alpha", "tenant_port_ceiling", "ports_ceiling"]);
        }
        drop(refused);
        gateway.expect_outcome(local, "tenant_port_ceiling");
        server.assert_untouched();
    }
}
