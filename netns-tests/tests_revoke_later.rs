//! Another configuration is activated while flows live, and later requests of their clients are judged by it.

use crate::clients::expect_http_denial;
use crate::config::Config;
use crate::flows::Flow;
use crate::gateway::Gateway;
use crate::hello::Hello;
use crate::lab::{Family, Host, Lab, Tenant};
use crate::requests::{EVIL, FIRST, OK, expect};
use crate::servers::Server;
use crate::tests_retry::retry;
use crate::tests_revoke::{expect_revoked, open_by_name, reload_to, with_rules};
use crate::traffic::pass;
use std::io::Write;
use std::net::TcpStream;

crate::trials! {
    both families: ;
    once:
        requests_follow_the_current_mode,
        monitored_flows_end_with_monitoring,
        unfollowed_flow_ends_once_names_matter,
        followable_monitored_flow_survives_if_allowed,
        monitored_second_hello_ends_with_monitoring,
        monitor_denies_unwaivable_later_requests
}

fn monitor(lab: &Lab, rules: &str) -> Config {
    Config { alpha_tenant: "mode = \"monitor\"".into(), ..with_rules(lab, rules) }
}

/// A keep-alive connection of a tenant's, whose first request was answered.
fn kept(lab: &Lab, tenant: Tenant, server: &Server) -> Flow {
    let client = lab.connect(tenant, server.address());
    let flow = ask(client, server, FIRST);
    answer(&flow);
    flow
}

fn ask(mut client: TcpStream, server: &Server, first: &str) -> Flow {
    client.write_all(first.as_bytes()).unwrap();
    let upstream = server.accept();
    expect(&upstream, first);
    Flow { client, upstream }
}

fn answer(flow: &Flow) {
    pass(&flow.upstream, &flow.client, OK.as_bytes());
}

fn request_passes(flow: &Flow, request: &str) {
    pass(&flow.client, &flow.upstream, request.as_bytes());
    answer(flow);
}

fn request_is_denied(gateway: &Gateway<'_>, mut flow: Flow, request: &str, outcome: &str) {
    flow.client.write_all(request.as_bytes()).unwrap();
    expect_http_denial(&flow.client, 403, &[outcome]);
    let local = flow.client.local_addr().unwrap();
    drop(flow.client);
    gateway.expect_outcome(local, outcome);
}

fn reset_by(gateway: &Gateway<'_>, config: &Config) -> u64 {
    reload_to(gateway, config)["revoked"].as_u64().unwrap()
}

fn requests_follow_the_current_mode() {
    let lab = Lab::new();
    let gateway = lab.start_gateway(&monitor(&lab, ""));
    let server = lab.listen(Host::Named, Family::V4, 80);
    let flow = kept(&lab, Tenant::Alpha, &server);
    // Everything that it requested is permitted, so it stays.
    assert_eq!(reset_by(&gateway, &with_rules(&lab, "")), 0);
    request_passes(&flow, FIRST);
    request_is_denied(&gateway, flow, EVIL, "not_allowed");

    let flow = kept(&lab, Tenant::Alpha, &server);
    assert_eq!(reset_by(&gateway, &monitor(&lab, "")), 0);
    request_passes(&flow, EVIL);
    let local = flow.client.local_addr().unwrap();
    drop(flow);
    let flow = gateway.flow_from(local);
    assert_eq!((&flow["verdict"], &flow["would_deny"]), (&"allow".into(), &"not_allowed".into()), "{flow:#}");
}

fn monitored_flows_end_with_monitoring() {
    let lab = Lab::new();
    let gateway = lab.start_gateway(&monitor(&lab, ""));
    let server = lab.listen(Host::Named, Family::V4, 80);
    let (stays, goes) = (kept(&lab, Tenant::Alpha, &server), kept(&lab, Tenant::Alpha, &server));
    request_passes(&goes, EVIL);
    request_passes(&goes, EVIL);
    // Nothing is reset while the mode stays.
    assert_eq!(reset_by(&gateway, &monitor(&lab, "[[tenant.deny]]\nhosts = [\"other.example.org\"]\n")), 0);
    request_passes(&goes, EVIL);
    assert_eq!(reset_by(&gateway, &with_rules(&lab, "")), 1);
    let flow = expect_revoked(&gateway, goes);
    assert_eq!(
        (&flow["would_deny"], &flow["detail"]),
        (&"not_allowed".into(), &UNFOLLOWED.into()),
        "{flow:#}"
    );
    request_passes(&stays, FIRST);
}

fn monitor_denies_unwaivable_later_requests() {
    let lab = Lab::new();
    lab.server.ip("addr add 169.254.77.1/32 dev s0\n");
    let gateway = lab.start_gateway(&monitor(&lab, "[[tenant.allow]]\ncidrs = [\"169.254.77.1/32\"]\n"));
    let server = lab.server.run(|| Server::bind("169.254.77.1:80".parse().unwrap()));
    let secret = EVIL.replace("denied.example.org", "secret.wild.example.org");
    let mut client = lab.connect(Tenant::Alpha, server.address());
    client.write_all(secret.as_bytes()).unwrap();
    expect_http_denial(&client, 403, &["denied_by_rule"]);
    let flow = kept(&lab, Tenant::Alpha, &server);
    request_passes(&flow, EVIL);
    request_is_denied(&gateway, flow, &secret, "denied_by_rule");
}

const UNFOLLOWED: &str = "it may ask for what nobody would judge";

/// A tenant without rules by name: gamma, by address.
fn by_address(lab: &Lab, rules: &str) -> Config {
    let gamma = "[[tenant]]\nname = \"gamma\"\nsources = [\"10.0.3.0/24\"]\npool = \"alpha\"\n";
    Config { more: format!("{gamma}{rules}"), ..with_rules(lab, "") }
}

fn unfollowed_flow_ends_once_names_matter() {
    const ADDRESS: &str = "[[tenant.allow]]\ncidrs = [\"198.51.100.0/24\"]\nother_protocols = \"allow\"\n";
    const NAME: &str = "[[tenant.allow]]\nhosts = [\"allowed.example.org\"]\n";
    const DENY: &str = "[[tenant.deny]]\nhosts = [\"denied.example.org\"]\n";
    let lab = Lab::new();
    let gateway = lab.start_gateway(&by_address(&lab, ADDRESS));
    let servers = [80, 443, 7000].map(|port| lab.listen(Host::Named, Family::V4, port));
    let open = |server: &Server, first: &[u8]| {
        let client = lab.connect(Tenant::Gamma, server.address());
        (&client).write_all(first).unwrap();
        let flow = Flow { client, upstream: server.accept() };
        let mut got = vec![0; first.len()];
        std::io::Read::read_exact(&mut &flow.upstream, &mut got).unwrap();
        flow
    };
    let others = [
        open(&servers[1], &Hello::to("allowed.example.org").record()),
        open(&servers[2], b"\0neither TLS nor HTTP"),
    ];
    for (rules, still) in [(format!("{ADDRESS}{DENY}"), 2), (NAME.into(), 1)] {
        let flow = kept(&lab, Tenant::Gamma, &servers[0]);
        request_passes(&flow, EVIL);
        // Still by address alone.
        assert_eq!(reset_by(&gateway, &by_address(&lab, &format!("{ADDRESS}ports = [\"1-8000\"]\n"))), 0);
        request_passes(&flow, EVIL);
        let revoked = reset_by(&gateway, &by_address(&lab, &rules));
        assert_eq!(expect_revoked(&gateway, flow)["detail"], UNFOLLOWED);
        others[..still].iter().for_each(Flow::assert_alive);
        assert_eq!(revoked, 1 + 2 - still as u64, "those without a name where a name is needed");
        // New flows are followed.
        let flow = kept(&lab, Tenant::Gamma, &servers[0]);
        assert_eq!(reset_by(&gateway, &by_address(&lab, &format!("{rules}ports = [\"1-8000\"]\n"))), 0);
        request_is_denied(&gateway, flow, EVIL, if still == 2 { "denied_by_rule" } else { "not_allowed" });
        reset_by(&gateway, &by_address(&lab, ADDRESS));
    }
}

fn followable_monitored_flow_survives_if_allowed() {
    let lab = Lab::new();
    let gateway = lab.start_gateway(&monitor(&lab, ""));
    let [plain, tls] = [80, 443].map(|port| lab.listen(Host::Named, Family::V4, port));
    let later = "later.example.org";
    let first = FIRST.replace("allowed.example.org", later);
    let goes = ask(lab.connect(Tenant::Alpha, plain.address()), &plain, &first);
    answer(&goes);
    let stays = open_by_name(&lab, &tls, later);
    // The server requests another hello, which may have another name.
    let half = open_by_name(&lab, &tls, later);
    pass(&half.upstream, &half.client, &retry());
    let lost = open_by_name(&lab, &tls, later);
    pass(&lost.upstream, &lost.client, &retry());
    pass(&lost.client, &lost.upstream, &Hello::to("denied.example.org").record());
    let allow = format!("[[tenant.allow]]\nhosts = [\"{later}\"]\n");
    assert_eq!(reset_by(&gateway, &with_rules(&lab, &allow)), 2);
    for flow in [goes, lost] {
        let flow = expect_revoked(&gateway, flow);
        assert_eq!(
            (&flow["detail"], &flow["would_deny"]),
            (&UNFOLLOWED.into(), &"not_allowed".into()),
            "{flow:#}"
        );
    }
    stays.assert_alive();
    (&half.client).write_all(&Hello::to("denied.example.org").record()).unwrap();
    assert_eq!(crate::clients::expect_reset(&half.client), b"");
    gateway.expect_outcome(half.client.local_addr().unwrap(), "hello_changed");
}

fn monitored_second_hello_ends_with_monitoring() {
    let lab = Lab::new();
    let gateway = lab.start_gateway(&monitor(&lab, ""));
    let server = lab.listen(Host::Named, Family::V4, 443);
    let [goes, half] = [(); 2].map(|()| {
        let flow = open_by_name(&lab, &server, "allowed.example.org");
        pass(&flow.upstream, &flow.client, &retry());
        flow
    });
    pass(&goes.client, &goes.upstream, &Hello::to("denied.example.org").record());
    assert_eq!(reset_by(&gateway, &with_rules(&lab, "")), 1);
    let flow = expect_revoked(&gateway, goes);
    assert_eq!(
        (&flow["detail"], &flow["would_deny"]),
        (&UNFOLLOWED.into(), &"hello_changed".into()),
        "{flow:#}"
    );
    (&half.client).write_all(&Hello::to("denied.example.org").record()).unwrap();
    assert_eq!(crate::clients::expect_reset(&half.client), b"");
    gateway.expect_outcome(half.client.local_addr().unwrap(), "hello_changed");
}
