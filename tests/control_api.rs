//! The control API over a real unix socket, and `egret ports` as it is run.

#![allow(clippy::unwrap_used, reason = "a test's helpers fail the test")]

use egret::admin::{
    self, CandidateControl, CandidateReport, Control, ControlSocket, DrainAnswer, ExplainQuery,
    ExplainReport, Hot, LoadAnswer, PortsQuery, PortsReport, Refusal, ReloadAnswer, Source, Target, Tenant,
};
use egret::audit::Peer;
use serde_json::{Value, json};
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use tokio::sync::oneshot;

/// The API on a thread of its own; it ends with this value.
struct Gateway {
    folder: tempfile::TempDir,
    /// What the last look asked for.
    asked: Arc<Mutex<Option<PortsQuery>>>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Gateway {
    fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let socket = ControlSocket::open(&folder.path().join("admin.sock")).unwrap();
        let asked = Arc::new(Mutex::new(None));
        let control = control(Arc::clone(&asked));
        let (stop, stopped) = oneshot::channel();
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async move {
                tokio::select! {
                    served = admin::serve_control(socket, control) => served.unwrap(),
                    stopped = stopped => stopped.unwrap(),
                }
            });
        });
        Self { folder, asked, stop: Some(stop), thread: Some(thread) }
    }

    fn socket(&self) -> PathBuf {
        self.folder.path().join("admin.sock")
    }

    /// Status and body. Reads to the end, so it would hang if the connection were kept.
    fn request(&self, method: &str, target: &str, body: &str) -> (u16, String) {
        let mut stream = UnixStream::connect(self.socket()).unwrap();
        write!(
            stream,
            "{method} {target} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n\
             Content-Length: {}\r\n\r\n{body}",
            body.len()
        )
        .unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        (head.split(' ').nth(1).unwrap().parse().unwrap(), body.to_owned())
    }

    fn json(&self, method: &str, target: &str, body: &str) -> (u16, Value) {
        let (status, body) = self.request(method, target, body);
        (status, serde_json::from_str(&body).unwrap_or_else(|error| panic!("{error}: {body}")))
    }

    /// `egret ports …` on this gateway.
    fn egret(&self, arguments: &[&str]) -> Output {
        egret(arguments, &self.socket())
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        // A thread that has panicked has said so, and listens no more.
        let _ = self.stop.take().unwrap().send(());
        let ended = self.thread.take().unwrap().join();
        if !std::thread::panicking() {
            ended.unwrap();
            assert!(!self.socket().exists(), "the socket's file stays behind");
        }
    }
}

fn egret(arguments: &[&str], socket: &std::path::Path) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_egret"));
    command.arg("ports").args(arguments).arg("--socket").arg(socket).env_remove("EGRET_CONFIG");
    command.output().unwrap()
}

/// Knows one pool and one address, of which one destination is warm.
fn control(asked: Arc<Mutex<Option<PortsQuery>>>) -> Control {
    let ports = move |query: PortsQuery| {
        if query.pool.as_deref().is_some_and(|pool| pool != "acme") {
            return Err(Refusal("no pool is called that".into()));
        }
        *asked.lock().unwrap() = Some(query);
        Ok(report())
    };
    let drain = |peer: Peer, order: admin::DrainOrder| {
        assert_eq!(peer.pid.is_some(), peer.uid.is_some());
        match (order.source.to_string().as_str(), order.on) {
            ("203.0.113.16", on) => {
                let state = if on { "draining" } else { "available" };
                Ok(DrainAnswer { source: order.source, state: state.into() })
            }
            ("203.0.113.17", false) => Ok(DrainAnswer { source: order.source, state: "draining".into() }),
            _ => Err(Refusal(format!("{} is not listed by any pool", order.source))),
        }
    };
    let reload = |_: Peer, ()| {
        let (answer, told) = oneshot::channel();
        answer.send(refused()).unwrap();
        Ok(told)
    };
    let names = |_| Err(Refusal("nobody asks".into()));
    Control {
        ports: Arc::new(ports),
        names: Arc::new(names),
        drain: Arc::new(drain),
        reload: Arc::new(reload),
        explain: Arc::new(explain),
        candidate: candidate(),
        forbidden: Arc::new(|_, _, _| panic!("the test may")),
    }
}

/// Nothing is loaded, and nothing but `good.toml` can be.
fn candidate() -> CandidateControl {
    let none = || Refusal("no candidate is loaded".into());
    let load = |_: Peer, order: admin::LoadOrder| {
        let loaded = order.file.ends_with("good.toml");
        let (answer, told) = oneshot::channel();
        let findings = if loaded { Vec::new() } else { vec!["bad.toml:3:1: error: unknown key".into()] };
        let (version, difference) = (String::from("a1b2c3"), loaded.then(Default::default));
        answer.send(LoadAnswer { loaded, version, difference, revoked: 0, findings }).unwrap();
        Ok(told)
    };
    let share = move |_: Peer, _: admin::ShareOrder| {
        let (answer, told) = oneshot::channel();
        answer.send(Err(none())).unwrap();
        Ok(told)
    };
    let promote = |_: Peer, ()| {
        let (answer, told) = oneshot::channel();
        answer.send(refused()).unwrap();
        Ok(told)
    };
    let drop = move |_: Peer, ()| {
        let (answer, told) = oneshot::channel();
        answer.send(Err(none())).unwrap();
        Ok(told)
    };
    CandidateControl {
        report: Arc::new(|()| Ok(CandidateReport { candidate: None })),
        files: Arc::new(move |()| Err(none())),
        load: Arc::new(load),
        share: Arc::new(share),
        promote: Arc::new(promote),
        drop: Arc::new(drop),
    }
}

fn refused() -> ReloadAnswer {
    ReloadAnswer {
        reloaded: false,
        config: "00c0ffee00c0ffee".into(),
        difference: None,
        revoked: 0,
        unproved: 0,
        findings: vec!["egret.toml:3:1: error: unknown key".into()],
    }
}

/// Whatever is asked, it is nobody's.
fn explain(query: ExplainQuery) -> Result<ExplainReport, Refusal> {
    let Target::Name(name, port) = query.to else { return Err(Refusal("an address already".into())) };
    Ok(ExplainReport {
        live: true,
        from: query.from,
        tenant: None,
        canary: None,
        mode: None,
        hostname: Some(name.to_string()),
        address: query.address.unwrap_or([192, 0, 2, 1].into()),
        address_assumed: query.address.is_none(),
        port,
        ech: query.ech,
        inspected: false,
        rules: Vec::new(),
        allowed: false,
        rule: None,
        destination: None,
        certificate: None,
        known_addresses: None,
        address_check: None,
        certificate_check: None,
        would_deny: None,
        outcome: None,
        pool: None,
        max_flows: None,
        flows: None,
    })
}

fn report() -> PortsReport {
    PortsReport {
        sources: vec![Source {
            pool: "acme".into(),
            source: "203.0.113.16".into(),
            public: None,
            state: "available".into(),
            capacity: 16,
            live: 8,
            held: 2,
            busiest: 10,
        }],
        hot: vec![Hot {
            pool: "acme".into(),
            source: "203.0.113.16".parse().unwrap(),
            public: None,
            destination: "[2001:db8::9]:443".parse().unwrap(),
            hostname: Some("api.example.com".into()),
            live: 8,
            held: 2,
            capacity: 16,
            growth_per_second: Some(0.5),
            exhausted_in_seconds: Some(12),
            tenants: vec![Tenant { tenant: "acme".into(), ports: 8 }],
            clients: Vec::new(),
        }],
    }
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap()
}

#[test]
fn ports_are_told_as_json_and_filters_are_read() {
    let gateway = Gateway::start();
    let (status, answer) = gateway.json("GET", "/v1/ports", "");
    assert_eq!(status, 200);
    assert_eq!(
        answer["sources"][0],
        json!({"pool": "acme", "source": "203.0.113.16", "public": null, "state": "available",
               "capacity": 16, "live": 8, "held": 2, "busiest": 10})
    );
    assert_eq!(
        answer["hot"][0],
        json!({"pool": "acme", "source": "203.0.113.16", "public": null, "destination": "[2001:db8::9]:443",
               "hostname": "api.example.com", "live": 8, "held": 2, "capacity": 16, "growth_per_second": 0.5,
               "exhausted_in_seconds": 12, "tenants": [{"tenant": "acme", "ports": 8}], "clients": []})
    );
    let target = "/v1/ports?pool=acme&tenant=&destination=%5B2001%3Adb8%3A%3A9%5D%3A443";
    assert_eq!(gateway.json("GET", target, "").0, 200);
    let asked = gateway.asked.lock().unwrap().take().unwrap();
    assert_eq!((asked.pool.as_deref(), asked.tenant), (Some("acme"), None));
    assert_eq!(asked.destination, Some("[2001:db8::9]:443".parse().unwrap()));
}

#[test]
fn what_is_wrong_is_said() {
    let gateway = Gateway::start();
    for (method, target, body, status, said) in [
        ("GET", "/v1/ports?pool=other", "", 404, "no pool is called that"),
        ("GET", "/v1/ports?colour=red", "", 400, "unknown field `colour`"),
        ("GET", "/v1/ports?destination=a%20b", "", 400, "neither ADDRESS:PORT nor ADDRESS nor a name"),
        ("POST", "/v1/ports/drain", "{}", 422, "missing field `source`"),
        ("POST", "/v1/ports/drain", r#"{"source":"x","on":true}"#, 422, "invalid IP address"),
        ("POST", "/v1/ports/drain", r#"{"source":"192.0.2.1","on":true}"#, 404, "not listed by any pool"),
        ("POST", "/v1/ports/drain", &" ".repeat(9000), 413, "length limit exceeded"),
        ("GET", "/v1/candidate/files", "", 404, "no candidate is loaded"),
        ("POST", "/v1/candidate/drop", "", 404, "no candidate is loaded"),
        ("POST", "/v1/candidate/share", r#"{"percent":10}"#, 404, "no candidate is loaded"),
        ("POST", "/v1/candidate/share", r#"{"percent":101}"#, 400, "0 to 100"),
        (
            "POST",
            "/v1/candidate/share",
            r#"{"percent":1,"max_denials":-1}"#,
            400,
            "`max_denials` is 0 to 100",
        ),
        ("POST", "/v1/candidate/load", "{}", 422, "missing field `file`"),
        ("POST", "/v1/candidate/load", r#"{"file":"good.toml","max_denials":1}"#, 400, "an absolute path"),
        ("POST", "/v1/candidate/load", r#"{"file":"/g","percent":0,"max_denials":1}"#, 400, "1 to 100"),
        ("POST", "/v1/candidate/load", r#"{"file":"/g","max_denials":101}"#, 400, "0 to 100"),
    ] {
        let (found, answer) = gateway.json(method, target, body);
        let error = answer["error"].as_str().unwrap_or_default();
        assert!(found == status && error.contains(said), "{target}: {found} {answer}");
    }
    assert_eq!(gateway.request("GET", "/nothing", "").0, 404);
    assert_eq!(gateway.request("POST", "/v1/ports", "").0, 405);
}

#[test]
fn egret_explain_asks_the_gateway_and_passes_on_all_that_is_asked() {
    let gateway = Gateway::start();
    let explain = |arguments: &[&str]| {
        let mut egret = Command::new(env!("CARGO_BIN_EXE_egret"));
        egret.args(["explain", "--live", "--from", "10.0.1.5", "--socket"]).arg(gateway.socket());
        egret.args(arguments).output().unwrap()
    };
    let output = explain(&["--to", "a.example:8443", "--address", "2001:db8::9", "--ech", "--json"]);
    let told: ExplainReport = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((told.hostname.as_deref(), told.port, told.ech), (Some("a.example"), 8443, true));
    assert_eq!((told.address.to_string().as_str(), told.live), ("2001:db8::9", true));
    assert_eq!(output.status.code(), Some(1));
    let output = explain(&["--to", "a.example"]);
    assert!(text(&output.stdout).contains("verdict  denied, by the gateway that runs\n"), "{output:?}");
    let output = explain(&["--to", "192.0.2.1"]);
    assert!(
        output.status.code() == Some(2) && text(&output.stderr).contains("an address already"),
        "{output:?}"
    );
    let (status, answer) = gateway.json("GET", "/v1/explain?from=10.0.1.5&to=a..b", "");
    assert!(status == 400 && answer["error"].as_str().unwrap().contains("empty label"), "{answer}");
}

#[test]
fn a_silent_connection_keeps_nobody_from_asking() {
    let gateway = Gateway::start();
    let silent = UnixStream::connect(gateway.socket()).unwrap();
    assert_eq!(gateway.json("GET", "/v1/ports", "").0, 200);
    drop(gateway);
    drop(silent);
}

#[test]
fn egret_ports_prints_a_table_or_the_answer_itself() {
    let gateway = Gateway::start();
    let output = gateway.egret(&["--pool", "acme", "--destination", "[2001:db8::9]:443"]);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    let asked = gateway.asked.lock().unwrap().take().unwrap();
    assert_eq!(asked.destination, Some("[2001:db8::9]:443".parse().unwrap()));
    assert_eq!(
        text(&output.stdout),
        "\
POOL  SOURCE        STATE      CAPACITY      LIVE      HELD   FREE  AT THE HOTTEST DESTINATION
acme  203.0.113.16  available        16         8         2      6  ████████████░░░░░░░░   62.5 %

HOTTEST DESTINATIONS
████████████░░░░░░░░   62.5 %  203.0.113.16 → [2001:db8::9]:443  api.example.com
                               10 of 16 in use, 2 of them held; +0.5 a second, exhausted in 12 s
                               tenants: acme 8
"
    );
    let output = gateway.egret(&["--json"]);
    let printed: PortsReport = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((printed, output.status.code()), (report(), Some(0)));
}

#[test]
fn egret_ports_shows_it_again_every_second_and_outlives_the_gateway() {
    let gateway = Gateway::start();
    let mut command = Command::new(env!("CARGO_BIN_EXE_egret"));
    command.args(["ports", "--watch", "--json", "--socket"]).arg(gateway.socket());
    let mut watching = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut said = BufReader::new(watching.stdout.take().unwrap()).lines();
    for _ in 0..2 {
        let printed: PortsReport = serde_json::from_str(&said.next().unwrap().unwrap()).unwrap();
        assert_eq!(printed, report());
    }
    let mut complaints = BufReader::new(watching.stderr.take().unwrap()).lines();
    drop(gateway);
    let complaint = complaints.next().unwrap().unwrap();
    assert!(complaint.contains("there is no control socket"), "{complaint}");
    assert!(watching.try_wait().unwrap().is_none(), "it goes on until it is interrupted");
    watching.kill().unwrap();
    watching.wait().unwrap();
}

#[test]
fn egret_ports_drains_and_says_what_became_of_it() {
    let gateway = Gateway::start();
    for (arguments, code, said) in [
        (["drain", "203.0.113.16"], 0, "203.0.113.16 is draining: no new flows leave from it"),
        (["undrain", "203.0.113.16"], 0, "203.0.113.16 is available: new flows may leave from it"),
        (["undrain", "203.0.113.17"], 1, "203.0.113.17 is draining: the configuration drains it"),
        (["drain", "192.0.2.1"], 2, "192.0.2.1 is not listed by any pool"),
        (["drain", "nonsense"], 2, "invalid IP address"),
    ] {
        let output = gateway.egret(&arguments);
        let all = format!("{}{}", text(&output.stdout), text(&output.stderr));
        assert!(output.status.code() == Some(code) && all.contains(said), "{arguments:?}: {output:?}");
    }
}

#[test]
fn a_refused_reload_is_told_with_what_is_wrong_and_exits_with_1() {
    let gateway = Gateway::start();
    let (status, answer) = gateway.json("POST", "/v1/reload", "");
    assert_eq!((status, serde_json::from_value(answer).unwrap()), (422, refused()));
    assert_eq!(gateway.request("GET", "/v1/reload", "").0, 405);
    let reload = |arguments: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_egret"));
        command.arg("reload").args(arguments).arg("--socket").arg(gateway.socket()).output().unwrap()
    };
    let output = reload(&[]);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert_eq!(text(&output.stderr), "egret.toml:3:1: error: unknown key\n");
    assert_eq!(text(&output.stdout), "refused: configuration 00c0ffee00c0ffee stays in force\n");
    let output = reload(&["--json"]);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert_eq!(serde_json::from_slice::<ReloadAnswer>(&output.stdout).unwrap(), refused());
}

#[test]
fn egret_ports_says_why_it_cannot_ask() {
    let gateway = Gateway::start();
    let folder = tempfile::tempdir().unwrap();
    let nowhere = folder.path().join("admin.sock");
    let config = folder.path().join("egret.toml");
    std::fs::write(&config, "[gateway]\nadmin = 1\n").unwrap();
    let mut by_config = Command::new(env!("CARGO_BIN_EXE_egret"));
    by_config.args(["ports", "--config"]).arg(&config);
    for (output, said) in [
        (gateway.egret(&["--pool", "other"]), "no pool is called that"),
        (gateway.egret(&["--destination", "a b"]), "neither ADDRESS:PORT nor ADDRESS nor a name"),
        (gateway.egret(&["--pool", "acme", "drain", "203.0.113.16"]), "cannot be used with"),
        (egret(&[], &nowhere), "there is no control socket"),
        (egret(&["--watch"], &nowhere), "there is no control socket"),
        (by_config.output().unwrap(), "is not a unix socket"),
    ] {
        let stderr = text(&output.stderr);
        assert!(output.status.code() == Some(2) && stderr.contains(said), "wanted {said:?}: {output:?}");
        assert!(output.stdout.is_empty());
    }
}

#[test]
fn egret_candidate_says_what_came_of_it() {
    let gateway = Gateway::start();
    let ask = |arguments: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_egret"));
        command.arg("candidate").args(arguments).arg("--socket").arg(gateway.socket());
        let output = command.env_remove("EGRET_CONFIG").output().unwrap();
        let all = format!("{}{}", text(&output.stdout), text(&output.stderr));
        (output.status.code(), all)
    };
    for (arguments, code, said) in [
        (&["status"][..], 1, "no candidate is loaded; `egret candidate load FILE`"),
        (
            &["load", "/x/good.toml"],
            0,
            "loaded a1b2c3: it is judged on every flow from now on, without effect",
        ),
        (&["load", "/x/good.toml", "--percent", "10"], 0, "enforced for 10 % of the clients"),
        (&["load", "/x/bad.toml"], 1, "bad.toml:3:1: error: unknown key"),
        (&["load", "/x/good.toml", "--percent", "0"], 2, "0 is not in 1..=100"),
        (&["load", "/x/good.toml", "--percent", "5", "--max-denials", "x"], 2, "a number from 0 to 100"),
        (&["load", "/x/good.toml", "--max-denials", "1"], 2, "--percent"),
        (&["promote"], 1, "no candidate is loaded"),
        (&["drop"], 1, "no candidate is loaded"),
    ] {
        let (found, all) = ask(arguments);
        assert!(found == Some(code) && all.contains(said), "{arguments:?}: {found:?} {all}");
    }
}
