//! A finding's remedy: commands that can be pasted into a shell, words, or both.

use crate::steering::Remedy;
use serde::Serialize;
use std::fmt;

/// A remedy. What is text is words; a command is given as such.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
pub(super) struct Mend {
    /// Commands, separated by `; `.
    #[serde(rename = "mend", skip_serializing_if = "String::is_empty")]
    commands: String,
    #[serde(rename = "help", skip_serializing_if = "String::is_empty")]
    words: String,
}

impl Mend {
    /// Commands that run in a shell as they stand.
    pub(super) fn run(commands: impl Into<String>) -> Self {
        let commands = commands.into();
        #[cfg(test)]
        tests::assert_commands(&commands);
        Self { commands, words: String::new() }
    }

    /// With these words beside it.
    pub(super) fn and(mut self, words: impl Into<String>) -> Self {
        self.words = words.into();
        self
    }

    /// Puts steering in place anew.
    pub(super) fn renew() -> Self {
        Self::run("systemctl restart egret-steering")
            .and("or as root `egret steering print | sh`, with your --config and --format")
    }

    pub(super) fn commands(&self) -> &str {
        &self.commands
    }

    pub(super) fn words(&self) -> &str {
        &self.words
    }
}

impl From<String> for Mend {
    fn from(words: String) -> Self {
        Self { commands: String::new(), words }
    }
}

impl From<&str> for Mend {
    fn from(words: &str) -> Self {
        words.to_owned().into()
    }
}

impl From<Remedy> for Mend {
    fn from(remedy: Remedy) -> Self {
        match remedy {
            Remedy::Renew => Self::renew(),
            Remedy::RestartBoth => Self::run("systemctl restart egret-steering egret"),
            Remedy::Loopback => {
                Self::run("sysctl -w net.ipv6.conf.lo.disable_ipv6=0; systemctl restart egret-steering")
            }
            Remedy::SourceValidation => Self::run("sysctl -w net.ipv4.conf.all.src_valid_mark=0")
                .and("the same for that interface in place of `all`"),
            Remedy::DeleteRoute
            | Remedy::DeleteRule
            | Remedy::ClearPlace
            | Remedy::MoveRule
            | Remedy::Interfaces
            | Remedy::CorrectFiles
            | Remedy::Reload => remedy.as_str().into(),
        }
    }
}

impl fmt::Display for Mend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&*self.commands, &*self.words) {
            (commands, "") => f.write_str(commands),
            ("", words) => f.write_str(words),
            (commands, words) => write!(f, "{commands} ({words})"),
        }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::cli::Cli;
    use clap::Parser as _;
    use std::process::Command;

    /// Programs that remedies call.
    const PROGRAMS: [&str; 18] = [
        "apt",
        "curl",
        "dig",
        "egret",
        "firewall-cmd",
        "ip",
        "ip6tables",
        "iptables",
        "journalctl",
        "modprobe",
        "nft",
        "nstat",
        "sed",
        "sudo",
        "sysctl",
        "systemctl",
        "tc",
        "ss",
    ];

    /// A shell parses it, and each part of it is a known program's call.
    pub(in crate::cli) fn assert_runnable(commands: &str) {
        let parsed = Command::new("bash").args(["-n", "-c", commands]).output().unwrap();
        assert!(parsed.status.success() && parsed.stderr.is_empty(), "{commands}: {parsed:?}");
        assert_commands(commands);
    }

    /// Each part of it is a known program's call, without words behind it.
    pub(in crate::cli) fn assert_commands(commands: &str) {
        for command in commands.split("; ") {
            let program = command.split(' ').next().unwrap_or_default();
            assert!(PROGRAMS.contains(&program), "{program:?} of {commands:?} is no program");
            assert!(!command.contains(", and ") && !command.ends_with([';', ',']), "{commands}");
            if program == "egret" {
                let parsed = Cli::try_parse_from(command.split(' '));
                assert!(parsed.is_ok(), "{command:?}: {}", parsed.unwrap_err());
            }
        }
    }

    #[test]
    fn remedies_of_steering_run_in_shells() {
        for remedy in Remedy::ALL {
            let mend = Mend::from(remedy);
            assert!(!mend.to_string().is_empty(), "{remedy:?}");
            if !mend.commands().is_empty() {
                assert_runnable(mend.commands());
            }
        }
    }

    #[test]
    #[should_panic(expected = "is no program")]
    fn words_are_no_commands() {
        Mend::run("sysctl -w a=1; to make them last: save");
    }
}
