//! Certificate checks with real TLS servers: valid certificates, and every common kind of invalid one.

use crate::clients::{ACCESS_DENIED, curl, expect_alert, expect_http_denial, s_client};
use crate::config::Config;
use crate::dns::Dns;
use crate::gateway::{Files, Gateway, Rules};
use crate::hello::Hello;
use crate::lab::{Family, Host, Lab, Tenant};
use crate::wait::wait_until;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair, date_time_ymd};
use rustls::pki_types::PrivateKeyDer;
use rustls::{ServerConfig, ServerConnection};
use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::path::PathBuf;
use std::sync::Arc;
use std::thread;
use tempfile::TempDir;

crate::trials! {
    both families:
        require_permits_only_proven_servers;
    once:
        observe_records_what_require_would_deny,
        require_denies_protocols_without_certificates,
        certificate_verdict_is_shared_and_cached,
        unanswered_address_yields_to_next_proven,
        root_certificates_may_come_late
}

pub(crate) const NAME: &str = "proved.example.org";

/// A certificate authority of the test, and its files.
pub(crate) struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
    dir: TempDir,
}

/// Kind of a server's certificate.
#[derive(Clone, Copy)]
pub(crate) enum Has {
    Right,
    AnotherName,
    Expired,
    SelfSigned,
}

impl Authority {
    pub(crate) fn new() -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.distinguished_name.push(DnType::CommonName, "an authority of the test's own");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        let dir = TempDir::with_prefix("egret-certificates-").unwrap();
        fs::write(dir.path().join("ca.pem"), issuer.pem()).unwrap();
        Self { issuer, dir }
    }

    pub(crate) fn root(&self) -> PathBuf {
        self.dir.path().join("ca.pem")
    }

    /// Starts a server with a certificate of this kind.
    pub(crate) fn serve(&self, lab: &Lab, address: SocketAddr, has: Has) {
        let name = if matches!(has, Has::AnotherName) { "other.example.org" } else { NAME };
        let mut params = CertificateParams::new(vec![name.to_owned()]).unwrap();
        if matches!(has, Has::Expired) {
            params.not_before = date_time_ymd(2020, 1, 1);
            params.not_after = date_time_ymd(2021, 1, 1);
        }
        let key = KeyPair::generate().unwrap();
        let certificate = match has {
            Has::SelfSigned => params.self_signed(&key).unwrap(),
            Has::Right | Has::AnotherName | Has::Expired => params.signed_by(&key, &self.issuer).unwrap(),
        };
        let key = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config =
            ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
        let config =
            config.with_no_client_auth().with_single_cert(vec![certificate.der().clone()], key).unwrap();
        let listener = lab.server.run(|| TcpListener::bind(address).unwrap());
        let config = Arc::new(config);
        thread::spawn(move || serve_forever(&listener, &config));
    }

    pub(crate) fn config(&self, lab: &Lab, certificate: &str) -> Config {
        let root = self.root().display().to_string();
        Config {
            alpha_rules: format!(
                "  [[tenant.allow]]\n  name = \"proved\"\n  hosts = [\"{NAME}\"]\n  certificate = \"{certificate}\"\n"
            ),
            gateway: format!("admin = \"unix:{}\"", lab.control_socket()),
            more: format!("[certificates]\nroots = [\"{root}\"]\n"),
            ..Config::default()
        }
    }
}

/// Serves each connection on its own thread, so that none waits for another. Ends with the test's process.
fn serve_forever(listener: &TcpListener, config: &Arc<ServerConfig>) {
    while let Ok((mut socket, _)) = listener.accept() {
        let config = Arc::clone(config);
        thread::spawn(move || {
            let mut tls = ServerConnection::new(config).unwrap();
            while tls.complete_io(&mut socket).is_ok_and(|(read, wrote)| read + wrote > 0) {
                let mut request = [0; 1024];
                if tls.reader().read(&mut request).is_ok_and(|n| n > 0) {
                    let _ = tls.writer().write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n");
                }
            }
        });
    }
}

/// Alpha requests the name and must be denied.
fn denied(lab: &Lab, gateway: &Gateway, to: SocketAddr, outcome: &str, detail: &str) {
    let flow = crate::verified::denied(lab, gateway, to, NAME, outcome);
    assert!(flow["detail"].as_str().unwrap().contains(detail), "{flow:#}");
    let check = if outcome == "certificate_invalid" { "invalid" } else { "unknown" };
    assert_eq!(flow["certificate_check"], check, "{flow:#}");
}

fn ports_are_free(gateway: &Gateway) {
    gateway.wait_for_metric("egret_pool_ports", &[("pool", "alpha"), ("state", "live")], |live| live == 0);
}

fn require_permits_only_proven_servers(family: Family) {
    let lab = Lab::new();
    let authority = Authority::new();
    let [right, other] = [Host::Named, Host::Web].map(|host| host.at(family, 443));
    let [expired, stranger] = [443, 8443].map(|port| Host::Elsewhere.at(family, port));
    authority.serve(&lab, right, Has::Right);
    authority.serve(&lab, other, Has::AnotherName);
    authority.serve(&lab, expired, Has::Expired);
    authority.serve(&lab, stranger, Has::SelfSigned);
    let gateway = lab.start_gateway(&authority.config(&lab, "require"));
    let said = s_client(&lab, Tenant::Alpha, right, Some(NAME), &authority.root());
    assert_eq!(said.code, 0, "{}", said.text);
    let flow = gateway.wait_for_flows(1).pop().unwrap();
    assert_eq!((&flow["certificate_check"], &flow["rule"]), (&"valid".into(), &"proved".into()), "{flow:#}");
    denied(&lab, &gateway, other, "certificate_invalid", "another name");
    denied(&lab, &gateway, expired, "certificate_invalid", "expired");
    denied(&lab, &gateway, stranger, "certificate_invalid", "no authority");
    // no server listens there
    denied(&lab, &gateway, Host::Named.at(family, 8443), "certificate_unavailable", "could not be reached");
    ports_are_free(&gateway);
    explain_knows_what_servers_proved(&gateway, [right, other, stranger], family);
}

fn unanswered_address_yields_to_next_proven() {
    let lab = Lab::new();
    let authority = Authority::new();
    let servers = [Host::Named, Host::Elsewhere].map(|host| host.at(Family::V4, 443));
    for server in servers {
        authority.serve(&lab, server, Has::Right);
    }
    let _dns = Dns::start(&lab, Host::Web, &servers.map(|server| (NAME, server.ip())));
    let mut config = authority.config(&lab, "require");
    config.alpha_rules += "  destination = \"resolve\"\n";
    config.more += "[resolver]\nservers = [\"198.51.100.10\"]\n";
    let gateway = lab.start_gateway(&config);
    let dialled = |flows| {
        let said =
            s_client(&lab, Tenant::Alpha, Host::Web.at(Family::V4, 443), Some(NAME), &authority.root());
        assert_eq!(said.code, 0, "{}", said.text);
        let flow = gateway.wait_for_flows(flows).pop().unwrap();
        assert_eq!(flow["certificate_check"], "valid", "{flow:#}");
        flow["dialled"].as_str().unwrap().to_owned()
    };
    let first = dialled(1);
    let (ip, _) = first.split_once(':').unwrap();
    for (flows, how) in [(2, "DROP"), (3, "REJECT --reject-with tcp-reset")] {
        lab.server.shell("iptables -F INPUT");
        lab.server.shell(&format!("iptables -A INPUT -d {ip} -p tcp --syn -j {how}"));
        assert_ne!(dialled(flows), first, "{how}");
    }
}

/// From cached verdicts; the last server's name was never requested.
fn explain_knows_what_servers_proved(
    gateway: &Gateway,
    [right, wrong, unasked]: [SocketAddr; 3],
    family: Family,
) {
    let from = Tenant::Alpha.client(family).to_string();
    let unasked = SocketAddr::new(unasked.ip(), 9443);
    for (server, check, outcome) in [
        (right, Some("valid"), None),
        (wrong, Some("invalid"), Some("certificate_invalid")),
        (unasked, None, None),
    ] {
        let (to, address) = (format!("{NAME}:{}", server.port()), server.ip().to_string());
        let output = gateway.egret(&[
            "explain",
            "--live",
            "--json",
            "--from",
            &from,
            "--to",
            &to,
            "--address",
            &address,
        ]);
        let told: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(told["certificate"], "require", "{told:#}");
        assert_eq!(told["certificate_check"].as_str(), check, "{told:#}");
        assert_eq!(told["outcome"]["name"].as_str(), outcome, "{told:#}");
    }
}

/// As on a machine without `ca-certificates`.
fn root_certificates_may_come_late() {
    let lab = Lab::new();
    let authority = Authority::new();
    let server = Host::Named.at(Family::V4, 443);
    authority.serve(&lab, server, Has::Right);
    let mut config = authority.config(&lab, "require");
    config.more = "[certificates]\nroots = [\"system\"]\n".into();
    let files = Files::new(&config);
    lab.must_steer("up", &files.config(), Rules::Iptables);
    let late = authority.dir.path().join("late.pem");
    let mut run = files.run();
    run.env("SSL_CERT_FILE", &late).env_remove("SSL_CERT_DIR");
    let gateway = Gateway::start_as(&lab, files, run);
    gateway.expect_logged("cannot verify certificates: no root certificate");
    denied(&lab, &gateway, server, "certificate_unavailable", "no root certificate");
    fs::rename(authority.root(), &late).unwrap();
    wait_until("the certificates to be found", || gateway.stderr().contains("there are root certificates"));
    let said = s_client(&lab, Tenant::Alpha, server, Some(NAME), &late);
    assert_eq!(said.code, 0, "{}", said.text);
}

fn observe_records_what_require_would_deny() {
    let lab = Lab::new();
    let authority = Authority::new();
    let [right, other] = [Host::Named, Host::Elsewhere].map(|host| host.at(Family::V4, 443));
    authority.serve(&lab, right, Has::Right);
    authority.serve(&lab, other, Has::AnotherName);
    let gateway = lab.start_gateway(&authority.config(&lab, "observe"));
    for (server, check) in [(&right, "valid"), (&other, "invalid")] {
        let labels = [("tenant", "alpha"), ("result", check)];
        let mut client = lab.connect(Tenant::Alpha, *server);
        client.write_all(&Hello::to(NAME).record()).unwrap();
        // The flow lives until its server was probed.
        gateway.wait_for_metric("egret_certificate_checks_total", &labels, |count| count == 1);
        let local = client.local_addr().unwrap();
        drop(client);
        let flow = gateway.flow_from(local);
        assert_eq!(
            (&flow["certificate_check"], &flow["verdict"]),
            (&check.into(), &"allow".into()),
            "{flow:#}"
        );
    }
    ports_are_free(&gateway);
}

fn require_denies_protocols_without_certificates() {
    let lab = Lab::new();
    let authority = Authority::new();
    let gateway = lab.start_gateway(&authority.config(&lab, "require"));
    let plain = lab.listen(Host::Named, Family::V4, 80);
    let mut client = lab.connect(Tenant::Alpha, plain.address());
    write!(client, "GET / HTTP/1.1\r\nHost: {NAME}\r\n\r\n").unwrap();
    expect_http_denial(&client, 403, &["certificate_unavailable", "does not speak TLS"]);
    let flow = gateway.expect_outcome(client.local_addr().unwrap(), "certificate_unavailable");
    assert_eq!(flow["certificate_check"], serde_json::Value::Null, "{flow:#}");
    plain.assert_untouched();
    // a server of another protocol
    let silent = lab.listen(Host::Elsewhere, Family::V4, 443);
    let mut client = lab.connect(Tenant::Alpha, silent.address());
    client.write_all(&Hello::to(NAME).record()).unwrap();
    silent.accept().write_all(b"220 mail.example.org ESMTP\r\n").unwrap();
    expect_alert(&client, ACCESS_DENIED);
    gateway.expect_outcome(client.local_addr().unwrap(), "certificate_unavailable");
    ports_are_free(&gateway);
}

fn certificate_verdict_is_shared_and_cached() {
    let lab = Lab::new();
    let authority = Authority::new();
    authority.serve(&lab, Host::Named.at(Family::V4, 443), Has::Right);
    let gateway = lab.start_gateway(&authority.config(&lab, "require"));
    for _ in 0..5 {
        let url = format!("https://{NAME}/");
        let said = curl(&lab, Tenant::Alpha, Family::V4, &url, Host::Named, &authority.root());
        assert_eq!(said.code, 0, "{}", said.text);
    }
    assert_eq!(gateway.metric("egret_certificate_probes_total", &[]), 1);
}
