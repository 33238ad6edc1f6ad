//! Servers that OpenSSL's clients reach and Egret's probe cannot check: refused, without a claim that they are invalid.

use crate::config::Config;
use crate::lab::{Family, Host, Lab};
use crate::verified::denied;
use crate::wait::wait_until;
use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use tempfile::TempDir;

crate::trials! {
    both families: ;
    once:
        unprobeable_servers_are_not_denied
}

const NAME: &str = "old.example.org";
/// OpenSSL accepts a hyphen at the edge of a label.
const EDGE: &str = "old-.example.org";

/// `openssl s_server`, until dropped.
struct OldServer(Child);

impl Drop for OldServer {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn openssl(dir: &Path, arguments: &str) {
    let output = Command::new("openssl").args(arguments.split(' ')).current_dir(dir).output().unwrap();
    assert!(output.status.success(), "{arguments}: {}", String::from_utf8_lossy(&output.stderr));
}

/// An authority, and from it a certificate with a correct name, with a common name alone, signed with SHA-1, for the
/// name with the hyphen, and for a key of 1024 bits.
fn certificates() -> TempDir {
    let dir = TempDir::with_prefix("egret-old-").unwrap();
    let at = dir.path();
    openssl(at, "req -x509 -newkey rsa:2048 -nodes -keyout ca.key -out ca.pem -days 2 -subj /CN=authority");
    openssl(at, &format!("req -newkey rsa:2048 -nodes -keyout key.pem -out request -subj /CN={NAME}"));
    fs::write(at.join("names"), format!("subjectAltName=DNS:{NAME}\n")).unwrap();
    fs::write(at.join("edge"), format!("subjectAltName=DNS:{EDGE}\n")).unwrap();
    fs::write(at.join("none"), "basicConstraints=CA:FALSE\n").unwrap();
    openssl(at, &format!("req -newkey rsa:1024 -nodes -keyout weak.key -out weak -subj /CN={NAME}"));
    for (file, request, extensions, digest) in [
        ("named", "request", "names", "sha256"),
        ("common", "request", "none", "sha256"),
        ("sha1", "request", "names", "sha1"),
        ("hyphen", "request", "edge", "sha256"),
        ("short", "weak", "names", "sha256"),
    ] {
        openssl(
            at,
            &format!(
                "x509 -req -in {request} -CA ca.pem -CAkey ca.key -CAcreateserial -days 2 -{digest} \
                 -extfile {extensions} -out {file}.pem"
            ),
        );
    }
    dir
}

fn serve(lab: &Lab, dir: &Path, address: SocketAddr, certificate: &str, options: &[&str]) -> OldServer {
    let mut command = Command::new("openssl");
    command.args(["s_server", "-quiet", "-accept", &address.to_string(), "-key", "key.pem"]);
    command.args(["-cert", &format!("{certificate}.pem")]).args(options).current_dir(dir);
    OldServer(lab.server.spawn(command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null())))
}

/// True if OpenSSL's client accepts the server's certificate for the name.
fn is_reached(lab: &Lab, dir: &Path, address: SocketAddr, name: &str, options: &[&str]) -> bool {
    let mut command = Command::new("openssl");
    command.args(["s_client", "-connect", &address.to_string(), "-servername", name, "-CAfile", "ca.pem"]);
    command.args(["-verify_return_error", "-verify_hostname", name]).args(options).current_dir(dir);
    lab.server.output(command.stdin(Stdio::null())).status.success()
}

fn unprobeable_servers_are_not_denied() {
    let lab = Lab::new();
    let dir = certificates();
    let root = dir.path().join("ca.pem").display().to_string();
    let gateway = lab.start_gateway(&Config {
        alpha_rules: format!(
            "[[tenant.allow]]\nhosts = [\"{NAME}\", \"{EDGE}\"]\ncertificate = \"require\"\n"
        ),
        more: format!("[certificates]\nroots = [\"{root}\"]\n"),
        ..Config::default()
    });
    let old = "DEFAULT:@SECLEVEL=0";
    let cases: [(&str, &[&str], &[&str], &str); 8] = [
        ("named", &["-tls1_2", "-cipher", "AES128-SHA"], &["-tls1_2"], "refuses what Egret's probe offers"),
        (
            "named",
            &["-tls1_2", "-cipher", "ECDHE-RSA-AES128-SHA"],
            &["-tls1_2"],
            "refuses what Egret's probe offers",
        ),
        (
            "named",
            &["-tls1_2", "-cipher", "DHE-RSA-AES128-GCM-SHA256"],
            &["-tls1_2"],
            "refuses what Egret's probe offers",
        ),
        (
            "named",
            &["-tls1_1", "-cipher", old],
            &["-tls1_1", "-cipher", old],
            "refuses what Egret's probe offers",
        ),
        ("common", &[], &[], "no DNS name among its subject alternative names"),
        ("sha1", &["-cipher", old], &["-cipher", old], "Egret cannot verify signatures of this kind"),
        ("short", &["-key", "weak.key", "-cipher", old], &["-cipher", old], "RSA below 2048 bits"),
        ("hyphen", &[], &[], "a hyphen at the edge of a label"),
    ];
    for (port, (certificate, server, client, detail)) in (8441..).zip(cases) {
        let address = Host::Named.at(Family::V4, port);
        let name = if certificate == "hyphen" { EDGE } else { NAME };
        let _server = serve(&lab, dir.path(), address, certificate, server);
        wait_until("OpenSSL's client to reach it", || is_reached(&lab, dir.path(), address, name, client));
        let flow = denied(&lab, &gateway, address, name, "certificate_unavailable");
        assert!(flow["detail"].as_str().unwrap().contains(detail), "{server:?}: {flow:#}");
        assert_eq!(flow["certificate_check"], "unsupported", "{flow:#}");
    }
    let counted = |name, labels: &[(&str, &str)]| gateway.metric(name, labels);
    assert_eq!(counted("egret_certificate_probes_total", &[("result", "unsupported")]), 8);
    let checks = [("tenant", "alpha"), ("result", "unsupported")];
    assert_eq!(counted("egret_certificate_checks_total", &checks), 8);
}
