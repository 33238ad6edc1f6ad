//! Steering on the gateway, by the scripts that an operator runs.

use super::{EGRET, Files, unprivileged};
use crate::lab::Lab;
use crate::namespace::text;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::{Command, Output};

const STEER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/scripts/steer.sh");

/// Packet filter used for steering.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rules {
    Iptables,
    Nftables,
    /// iptables with its legacy backend instead of that of nftables.
    Legacy,
}

impl Rules {
    /// The two tools, each with its usual backend.
    pub const BOTH: [Self; 2] = [Self::Iptables, Self::Nftables];

    fn as_str(self) -> &'static str {
        match self {
            Self::Iptables | Self::Legacy => "iptables",
            Self::Nftables => "nftables",
        }
    }
}

/// Output of `egret check` on the gateway.
pub fn check(lab: &Lab, files: &Files) -> String {
    text(&lab.gateway.output(&mut unprivileged("", &["check"], &files.config())))
}

impl Lab {
    /// Runs `steer.sh` on the gateway.
    pub fn steer(&self, action: &str, config: &Path, rules: Rules) -> Output {
        let mut command = Command::new(STEER);
        command.env("EGRET_STEERING_STATE", self.run.path().join("steering/state"));
        if rules == Rules::Legacy {
            command.env("PATH", self.legacy_first());
        }
        command.arg(action).arg("--config").arg(config).args(["--egret", EGRET, "--format", rules.as_str()]);
        self.gateway.output(&mut command)
    }

    /// A PATH in which `iptables` is the legacy backend.
    fn legacy_first(&self) -> String {
        let dir = self.run.path().join("legacy");
        if fs::create_dir(&dir).is_ok() {
            for program in ["iptables", "ip6tables"] {
                for tool in ["", "-save", "-restore"] {
                    let legacy = format!("/usr/sbin/{program}-legacy{tool}");
                    symlink(legacy, dir.join(format!("{program}{tool}"))).unwrap();
                }
            }
        }
        format!("{}:{}", dir.display(), std::env::var("PATH").unwrap())
    }

    /// Runs `steer.sh` on the gateway; it must succeed.
    pub fn must_steer(&self, action: &str, config: &Path, rules: Rules) {
        let output = self.steer(action, config, rules);
        assert!(output.status.success(), "steer.sh {action}: {}\n{}", output.status, text(&output));
    }

    /// Runs a shell line on the gateway as its root; it must succeed.
    pub fn carry_out(&self, line: &str, config: &Path) {
        let mut command = Command::new("sh");
        let path = format!("{}:/usr/sbin:/usr/bin:/bin", Path::new(EGRET).parent().unwrap().display());
        command.args(["-c", line]).env("PATH", path).env("EGRET_CONFIG", config);
        self.gateway.check(command.env("EGRET_STEERING_STATE", self.run.path().join("steering/state")));
    }
}
