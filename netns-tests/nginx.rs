//! A real web server: nginx on ports 80 and 443 of every address of the server namespace.

use crate::lab::Lab;
use crate::wait::wait_until;
use std::fs;
use std::net::{Ipv6Addr, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command};
use tempfile::TempDir;

/// Answers each request with the client address and the requested name. Stops when dropped.
pub struct Nginx {
    child: Child,
    dir: TempDir,
}

/// Names in its certificate.
const NAMES: [&str; 4] =
    ["allowed.example.org", "*.wild.example.org", "beta.example.org", "denied.example.org"];

/// Creates a folder with a self-signed certificate, `cert.pem`, and its `key.pem`.
pub fn certificate() -> TempDir {
    let dir = TempDir::with_prefix("egret-server-").unwrap();
    let certified = rcgen::generate_simple_self_signed(NAMES.map(str::to_owned)).unwrap();
    fs::write(dir.path().join("cert.pem"), certified.cert.pem()).unwrap();
    fs::write(dir.path().join("key.pem"), certified.signing_key.serialize_pem()).unwrap();
    dir
}

impl Nginx {
    pub fn start(lab: &Lab) -> Self {
        let dir = certificate();
        fs::write(dir.path().join("nginx.conf"), configuration(&dir)).unwrap();
        let mut command = Command::new("nginx");
        command.arg("-p").arg(dir.path()).args(["-e", "error.log", "-c", "nginx.conf"]);
        let mut nginx = Self { child: lab.server.spawn(&mut command), dir };
        wait_until("nginx to listen", || {
            assert!(nginx.child.try_wait().unwrap().is_none(), "nginx ended");
            lab.server.run(|| TcpStream::connect((Ipv6Addr::LOCALHOST, 443)).is_ok())
        });
        nginx
    }

    /// Its self-signed certificate, for clients to trust.
    pub fn certificate(&self) -> PathBuf {
        self.dir.path().join("cert.pem")
    }
}

/// A single process of the current user: changing users needs more than the one uid that is mapped.
fn configuration(dir: &TempDir) -> String {
    let dir = dir.path().display();
    format!(
        "daemon off; master_process off; user root; pid {dir}/pid; error_log {dir}/error.log;
        events {{ worker_connections 512; }}
        http {{
            access_log off; client_body_temp_path {dir}/body; proxy_temp_path {dir}/proxy;
            fastcgi_temp_path {dir}/fastcgi; uwsgi_temp_path {dir}/uwsgi; scgi_temp_path {dir}/scgi;
            server {{
                listen 80; listen [::]:80; listen 443 ssl; listen [::]:443 ssl;
                ssl_certificate {dir}/cert.pem; ssl_certificate_key {dir}/key.pem;
                default_type text/plain;
                location / {{ return 200 \"from=$remote_addr host=$host\\n\"; }}
                location = /large {{ root {dir}/www; }}
                location = /repository.git/info/refs {{
                    return 200 \"0123456789abcdef0123456789abcdef01234567\\trefs/heads/main\\n\";
                }}
                location = /repository.git/HEAD {{ return 200 \"ref: refs/heads/main\\n\"; }}
                location = /api/v1/query {{
                    return 200 '{{\"status\":\"success\",\"data\":{{\"resultType\":\"vector\",\"result\":[]}}}}';
                }}
            }}
        }}"
    )
}

impl Drop for Nginx {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            let errors = fs::read_to_string(self.dir.path().join("error.log")).unwrap_or_default();
            eprintln!("--- nginx\n{errors}");
        }
    }
}
