//! A candidate and later requests of HTTP/1 connections: they are compared, and count against a canary.

use crate::clients::expect_http_denial;
use crate::lab::{Family, Host, Lab, Tenant};
use crate::rollout::{Rollout, STRICTER};
use crate::servers::Server;
use std::io::{Read, Write};
use std::net::TcpStream;

crate::trials! {
    both families: ;
    once:
        later_requests_are_compared_by_policy,
        denied_later_requests_roll_back_the_canary
}

/// A keep-alive connection whose requests are answered one by one.
struct Kept {
    client: TcpStream,
    upstream: TcpStream,
}

impl Kept {
    fn open(lab: &Lab, server: &Server, host: &str) -> Self {
        let mut client = lab.connect(Tenant::Alpha, server.address());
        client.write_all(&request(host)).unwrap();
        let mut kept = Self { client, upstream: server.accept() };
        kept.serve(host);
        kept
    }

    fn ask(&mut self, host: &str) {
        self.client.write_all(&request(host)).unwrap();
        self.serve(host);
    }

    fn serve(&mut self, host: &str) {
        self.upstream.read_exact(&mut vec![0; request(host).len()]).unwrap();
        self.upstream.write_all(ANSWER).unwrap();
        self.client.read_exact(&mut [0; ANSWER.len()]).unwrap();
    }

    fn expect_denial(mut self, host: &str) {
        self.client.write_all(&request(host)).unwrap();
        expect_http_denial(&self.client, 403, &["denied_by_rule"]);
    }
}

const ANSWER: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";

fn request(host: &str) -> Vec<u8> {
    format!("GET / HTTP/1.1\r\nHost: {host}\r\n\r\n").into_bytes()
}

fn later_requests_are_compared_by_policy() {
    let lab = Lab::new();
    let rollout = Rollout::new(&lab);
    let server = lab.listen(Host::Named, Family::V4, 80);
    rollout.load(STRICTER, &[]);
    let mut kept = Kept::open(&lab, &server, "a.wild.example.org");
    for _ in 0..3 {
        kept.ask("a.wild.example.org");
    }
    kept.ask("allowed.example.org");
    kept.ask("allowed.example.org");
    kept.client.write_all(&request("opened.example.org")).unwrap();
    expect_http_denial(&kept.client, 403, &["not_allowed"]);
    let status = rollout.status();
    let row = &status["tenants"][0];
    assert_eq!(rollout.counts("alpha"), [1, 0, 0, 0]);
    assert_eq!(
        row["requests"],
        serde_json::json!({ "same": 3, "would_deny": 2, "would_allow": 1 }),
        "{status:#}"
    );
    let change = &status["changes"][0];
    assert_eq!(
        (&change["flows"], &change["requests"], &change["rule"], &change["candidate_rule"]),
        (&0.into(), &2.into(), &"alpha-names".into(), &"no-more".into())
    );
    assert_eq!(change["examples"][0]["requests"], 2);
    let decisions = |change| {
        let labels = [("tenant", "alpha"), ("change", change)];
        rollout.gateway.metric("egret_candidate_decisions_total", &labels)
    };
    assert_eq!(["same", "would_deny", "would_allow"].map(decisions), [4, 2, 1]);
    assert!(rollout.must(&["status"]).contains("2 later requests now let out by rule alpha-names"));
}

fn denied_later_requests_roll_back_the_canary() {
    let lab = Lab::new();
    let rollout = Rollout::new(&lab);
    let server = lab.listen(Host::Named, Family::V4, 80);
    rollout.load(STRICTER, &["--percent", "100"]);
    for _ in 0..5 {
        let mut kept = Kept::open(&lab, &server, "a.wild.example.org");
        kept.ask("a.wild.example.org");
        kept.expect_denial("allowed.example.org");
    }
    assert_eq!(rollout.status()["canary"]["fell_back"]["denied"], 5);
    let mut kept = Kept::open(&lab, &server, "a.wild.example.org");
    kept.ask("allowed.example.org");
}
