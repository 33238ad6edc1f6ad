//! A gateway with a candidate, and its operator's commands.

use crate::clients::{ACCESS_DENIED, connect_from, expect_alert};
use crate::config::Config;
use crate::gateway::Gateway;
use crate::hello::Hello;
use crate::lab::{Family, Lab, Tenant};
use crate::namespace::text;
use crate::servers::Server;
use crate::traffic::expect_delivery;
use crate::wait::{PATIENCE, wait_for};
use serde_json::Value;
use std::fs;
use std::io::Write;
use std::net::IpAddr;
use std::path::PathBuf;
use std::process::Output;

/// A running gateway with a control socket.
pub struct Rollout<'lab> {
    pub lab: &'lab Lab,
    pub gateway: Gateway<'lab>,
}

/// Denies what alpha may reach, and permits another name.
pub const STRICTER: &str = "  [[tenant.deny]]\n  name = \"no-more\"\n  hosts = [\"allowed.example.org\"]\n\
                        [[tenant.allow]]\n  name = \"opened\"\n  hosts = [\"opened.example.org\"]\n";

impl<'lab> Rollout<'lab> {
    pub fn new(lab: &'lab Lab) -> Self {
        Self::with(lab, &Self::config(lab, ""))
    }

    /// Starts it with another configuration.
    pub fn with(lab: &'lab Lab, config: &Config) -> Self {
        Self { lab, gateway: lab.start_gateway(config) }
    }

    pub fn config(lab: &Lab, rules: &str) -> Config {
        let gateway = format!("admin = \"unix:{}\"", lab.control_socket());
        Config { gateway, alpha_rules: rules.to_owned(), ..Config::default() }
    }

    /// Path of the candidate, beside the active configuration.
    pub fn candidate_file(&self) -> PathBuf {
        self.gateway.flow_log().with_file_name("candidate.toml")
    }

    pub fn write(&self, config: &Config) {
        fs::write(self.candidate_file(), config.render(&self.gateway.flow_log())).unwrap();
    }

    pub fn ask(&self, arguments: &[&str]) -> Output {
        self.gateway.egret(&[&["candidate"], arguments].concat())
    }

    pub fn must(&self, arguments: &[&str]) -> String {
        let output = self.ask(arguments);
        assert!(output.status.success(), "{arguments:?}: {}", text(&output));
        text(&output)
    }

    /// Loads alpha's rules with additional ones as the candidate.
    pub fn load(&self, rules: &str, more: &[&str]) {
        self.load_config(&Self::config(self.lab, rules), more);
    }

    pub fn load_config(&self, config: &Config, more: &[&str]) {
        self.write(config);
        let file = self.candidate_file().display().to_string();
        self.must(&[&["load", &file], more].concat());
    }

    pub fn status(&self) -> Value {
        let output = self.ask(&["status", "--json"]);
        let report: Value =
            serde_json::from_slice(&output.stdout).unwrap_or_else(|e| panic!("{e}: {}", text(&output)));
        report["candidate"].clone()
    }

    /// Waits until every flow so far is in the status, and returns its counts.
    pub fn counts(&self, tenant: &str) -> [u64; 4] {
        let status = self.status();
        let rows = status["tenants"].as_array().unwrap();
        let row = rows.iter().find(|row| row["tenant"] == tenant).unwrap_or_else(|| panic!("{status:#}"));
        ["same", "would_deny", "would_allow", "unjudged"].map(|change| row[change].as_u64().unwrap())
    }

    /// Alpha requests the name; true if it was permitted.
    pub fn asks(&self, server: &Server, name: &str) -> (bool, Value) {
        let family = if server.address().is_ipv4() { Family::V4 } else { Family::V6 };
        self.asks_from(Tenant::Alpha.client(family), server, name)
    }

    pub fn asks_from(&self, client: IpAddr, server: &Server, name: &str) -> (bool, Value) {
        let hello = Hello::to(name).record();
        let to = server.address();
        let mut stream = self.lab.client.run(|| connect_from(client, to, PATIENCE)).unwrap();
        let local = stream.local_addr().unwrap();
        stream.write_all(&hello).unwrap();
        let let_out = wait_for("the flow to be permitted or denied", || {
            if let Some(upstream) = server.accept_those_that_came().pop() {
                return Ok(Some(upstream));
            }
            stream.set_nonblocking(true).unwrap();
            let peeked = stream.peek(&mut [0]);
            stream.set_nonblocking(false).unwrap();
            if peeked.is_ok() { Ok(None) } else { Err("neither yet") }
        });
        let allowed = let_out.is_some();
        if let Some(upstream) = let_out {
            expect_delivery(stream, upstream, &hello);
        } else {
            expect_alert(&stream, ACCESS_DENIED);
            drop(stream); // its record is written when it has closed
        }
        (allowed, self.gateway.flow_from(local))
    }
}
