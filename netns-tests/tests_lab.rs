//! The network alone, without a gateway: failures here are not the gateway's.

use crate::clients::{curl, s_client};
use crate::lab::{Family, Host, Lab, Tenant};
use crate::nginx::Nginx;
use crate::traffic;
use std::io::ErrorKind;
use std::time::Duration;

crate::trials! {
    both families: lab_with_forwarding_reaches_servers, lab_without_forwarding_passes_nothing;
    once: lab_fits_a_thousand_connections
}

fn lab_with_forwarding_reaches_servers(family: Family) {
    let lab = Lab::new();
    lab.gateway.set_forwarding(true);
    let web = Nginx::start(&lab);
    for tenant in [Tenant::Alpha, Tenant::Beta, Tenant::Stranger] {
        let said = curl(&lab, tenant, family, "https://allowed.example.org/", Host::Web, &web.certificate());
        assert_eq!(said.code, 0, "{}", said.text);
        assert!(said.text.contains(&format!("from={} host=allowed", tenant.client(family))), "{}", said.text);
    }
    let to = Host::Web.at(family, 443);
    let said = s_client(&lab, Tenant::Alpha, to, Some("denied.example.org"), &web.certificate());
    assert_eq!(said.code, 0, "{}", said.text);

    let server = lab.listen(Host::Raw, family, 7000);
    let client = lab.connect(Tenant::Beta, server.address());
    let accepted = server.accept();
    assert_eq!(accepted.peer_addr().unwrap().ip(), Tenant::Beta.client(family));
    std::thread::scope(|scope| {
        scope.spawn(|| traffic::send(&client, 10_000_000));
        traffic::receive(&accepted, 10_000_000);
    });
    server.assert_untouched();
}

fn lab_without_forwarding_passes_nothing(family: Family) {
    let lab = Lab::new();
    let server = lab.listen(Host::Raw, family, 7000);
    let refused = lab.try_connect(Tenant::Alpha, server.address(), Duration::from_millis(300)).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::TimedOut, "{refused}");
    server.assert_untouched();
}

fn lab_fits_a_thousand_connections() {
    let lab = Lab::new();
    lab.gateway.set_forwarding(true);
    let server = lab.listen(Host::Raw, Family::V4, 7000);
    let clients: Vec<_> = (0..1000).map(|_| lab.connect(Tenant::Alpha, server.address())).collect();
    let accepted: Vec<_> = clients.iter().map(|_| server.accept()).collect();
    assert_eq!(accepted.len(), 1000);
}
