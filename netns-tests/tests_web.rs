//! curl and `openssl s_client` against nginx: the view of a developer behind the gateway.

use crate::clients::{curl, s_client};
use crate::config::Config;
use crate::lab::{Family, Host, Lab, Tenant};
use crate::nginx::Nginx;
use std::net::IpAddr;

crate::trials! {
    both families:
        curl_leaves_from_its_tenants_address,
        curl_shows_the_denial_text,
        openssl_passes_or_gets_alert;
    once:
}

/// Client address according to nginx.
fn seen_by_nginx(answer: &str) -> IpAddr {
    let address = answer.split("from=").nth(1).and_then(|rest| rest.split_whitespace().next());
    address.unwrap_or_else(|| panic!("nginx did not answer: {answer}")).parse().unwrap()
}

fn curl_leaves_from_its_tenants_address(family: Family) {
    let lab = Lab::new();
    let web = Nginx::start(&lab);
    let gateway = lab.start_gateway(&Config::default());
    let ca = web.certificate();
    let table = [
        (Tenant::Alpha, "https://allowed.example.org/", Host::Web, "alpha-names"),
        (Tenant::Alpha, "http://allowed.example.org/", Host::Web, "alpha-names"),
        (Tenant::Alpha, "https://any.wild.example.org/", Host::Web, "alpha-names"),
        (Tenant::Alpha, "http://any.wild.example.org/", Host::Web, "alpha-names"),
        (Tenant::Alpha, "https://denied.example.org/", Host::Inspected, "alpha-inspected"),
        (Tenant::Alpha, "http://denied.example.org/", Host::Inspected, "alpha-inspected"),
        (Tenant::Alpha, "https://denied.example.org/", Host::Raw, "alpha-raw"),
        (Tenant::Beta, "https://beta.example.org/", Host::Web, "beta-names"),
        (Tenant::Beta, "http://beta.example.org/", Host::Web, "beta-names"),
    ];
    for (count, (tenant, url, host, rule)) in (1..).zip(table) {
        let said = curl(&lab, tenant, family, url, host, &ca);
        assert_eq!(said.code, 0, "{url}: {}", said.text);
        let source = seen_by_nginx(&said.text);
        assert!(tenant.owns_source(source), "{tenant:?} left from {source}");
        let flows = gateway.wait_for_flows(count);
        let flow = flows.last().unwrap();
        assert_eq!((&flow["outcome"], &flow["verdict"]), (&"closed".into(), &"allow".into()), "{flow:#}");
        assert_eq!(flow["rule"], rule, "{flow:#}");
        assert!(flow["source"].as_str().unwrap().contains(&source.to_string()), "{flow:#}");
        let port = if url.starts_with("https") { 443 } else { 80 };
        assert_eq!(flow["destination"], host.at(family, port).to_string(), "{flow:#}");
        assert_eq!(flow["dialled"], flow["destination"], "{flow:#}");
        assert!(flow["bytes_up"].as_u64() > Some(50) && flow["bytes_down"].as_u64() > Some(50), "{flow:#}");
        assert!(flow["connect_ms"].as_f64() > Some(0.0), "{flow:#}");
    }
}

fn curl_shows_the_denial_text(family: Family) {
    let lab = Lab::new();
    let web = Nginx::start(&lab);
    let gateway = lab.start_gateway(&Config::default());
    let ca = web.certificate();
    for (tenant, name, host) in [
        (Tenant::Alpha, "denied.example.org", Host::Web),
        (Tenant::Alpha, "beta.example.org", Host::Web),
        (Tenant::Alpha, "wild.example.org", Host::Web),
        (Tenant::Alpha, "denied.example.org", Host::Elsewhere),
        (Tenant::Beta, "allowed.example.org", Host::Web),
        (Tenant::Beta, "denied.example.org", Host::Inspected),
    ] {
        let said = curl(&lab, tenant, family, &format!("https://{name}/"), host, &ca);
        assert_eq!(said.code, 35, "{name}: {}", said.text);
        assert!(said.text.contains("alert access denied"), "{name}: {}", said.text);

        let said = curl(&lab, tenant, family, &format!("http://{name}/"), host, &ca);
        assert_eq!(said.code, 0, "{name}: {}", said.text);
        let label = format!("{tenant:?}").to_lowercase();
        for word in ["403", &label, "not_allowed"] {
            assert!(said.text.contains(word), "{name}: {word:?} is not in {}", said.text);
        }
        assert!(!said.text.contains("from="), "nginx answered: {}", said.text);
    }
    for flow in gateway.wait_for_flows(12) {
        assert_eq!((&flow["outcome"], &flow["verdict"]), (&"not_allowed".into(), &"deny".into()), "{flow:#}");
    }
}

fn openssl_passes_or_gets_alert(family: Family) {
    let lab = Lab::new();
    let web = Nginx::start(&lab);
    let gateway = lab.start_gateway(&Config::default());
    let ca = web.certificate();
    for (tenant, name, host, allowed) in [
        (Tenant::Alpha, Some("allowed.example.org"), Host::Web, true),
        (Tenant::Alpha, Some("some.wild.example.org"), Host::Web, true),
        (Tenant::Alpha, Some("denied.example.org"), Host::Inspected, true),
        (Tenant::Alpha, None, Host::Inspected, true),
        (Tenant::Beta, Some("beta.example.org"), Host::Web, true),
        (Tenant::Alpha, Some("denied.example.org"), Host::Web, false),
        (Tenant::Alpha, None, Host::Web, false),
        (Tenant::Beta, Some("allowed.example.org"), Host::Web, false),
        (Tenant::Beta, None, Host::Inspected, false),
    ] {
        let said = s_client(&lab, tenant, host.at(family, 443), name, &ca);
        if allowed {
            assert_eq!(said.code, 0, "{tenant:?} {name:?} {host:?}: {}", said.text);
            assert!(said.text.contains("CONNECTION ESTABLISHED"), "{}", said.text);
        } else {
            assert_ne!(said.code, 0, "{tenant:?} {name:?} {host:?}: {}", said.text);
            assert!(said.text.contains("alert access denied"), "{}", said.text);
        }
    }
    gateway.wait_for_flows(9);
}
