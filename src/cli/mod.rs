//! The command line: one file per subcommand.
//!
//! Exit codes are part of the interface: 0 for yes or done, 1 for no (a check that failed, a flow that would be denied,
//! something not in place), 2 for a question or a start that could not be carried out.

pub mod allow;
mod ask;
pub mod candidate;
pub mod check;
mod config_path;
pub mod doctor;
pub mod explain;
mod findings;
mod flow_log;
mod journal;
mod man;
pub mod names;
mod output;
mod past_flow;
pub mod ports;
pub mod reload;
mod replace;
mod run;
pub mod steering;
pub mod suggest;
mod tool;
pub mod trace;
pub mod why;

use crate::control;
use crate::steering::FilterFormat;
use clap::{CommandFactory, Parser, Subcommand};
use config_path::ConfigPath;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// A transparent egress gateway: allows by tenant and name, leaves from the tenant's own source ports.
#[derive(Debug, Parser)]
#[command(name = "egret", version, propagate_version = true, max_term_width = 110)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the gateway in the foreground, until SIGTERM or SIGINT
    ///
    /// Needs CAP_NET_ADMIN and no other privilege. SIGHUP reads the configuration and opens the logs anew, SIGUSR1 the logs alone. A second SIGTERM cuts the drain short.
    /// Messages go to stderr; EGRET_LOG sets their level (error, warn, info, debug, trace). Exit code 2: it could not start.
    /// With a configuration that it cannot start with, it goes by the last good one, and says so.
    Run {
        #[command(flatten)]
        path: ConfigPath,
        /// Keep the last good configuration there; without it, a broken configuration is not survived
        #[arg(long, value_name = "FOLDER", env = "STATE_DIRECTORY")]
        state: Option<PathBuf>,
    },
    /// Validate the configuration and show everything that is wrong with it
    ///
    /// Exit code 1: it cannot be used, or a test fails; 2: the tests cannot be read.
    Check {
        #[command(flatten)]
        path: ConfigPath,
        #[command(flatten)]
        options: check::CheckOptions,
    },
    /// Tell what would happen to a flow, and why
    ///
    /// From the files, or with --live as the running gateway sees it. Sends nothing to anybody else. Exit code 0: it would
    /// leave; 1: it would be denied; 2: no answer.
    Explain(#[command(flatten)] explain::ExplainOptions),
    /// Tell what became of a flow, from the flow log, and what the policy of today makes of it
    ///
    /// Exit code 1: the log has no such flow; 2: the log, or the configuration, cannot be read.
    Why {
        #[command(flatten)]
        path: ConfigPath,
        #[command(flatten)]
        options: why::WhyOptions,
    },
    /// Print or write the rule that would allow a denied flow, and the policy test that keeps it
    ///
    /// The rule is the narrowest there is: one name or address, one port. Exit code 1: no rule can help, or the log has no such
    /// flow; 2: something cannot be read or written.
    Allow {
        #[command(flatten)]
        path: ConfigPath,
        #[command(flatten)]
        options: allow::AllowOptions,
    },
    /// Suggest rules for what a tenant was seen to reach, from the flow log
    ///
    /// Rules are for names that passed: allowed, or let pass by monitor mode. What was denied is listed and never
    /// suggested. Paste the output below the tenant's `[[tenant]]`. Exit code 2: a log, or the configuration, cannot be read.
    Suggest {
        #[command(flatten)]
        path: ConfigPath,
        #[command(flatten)]
        options: suggest::SuggestOptions,
    },
    /// The packet rules and routes that bring traffic to the gateway
    #[command(subcommand)]
    Steering(SteeringCommand),
    /// Which source ports are in use on the running gateway, who has them, and when they run out
    Ports(#[command(flatten)] ports::PortsOptions),
    /// Have the running gateway read its configuration anew, and wait until it is in force
    ///
    /// What is wrong with the files is shown with file, line and column. Exit code 1: refused, and the configuration before
    /// stays in force. Exit code 2: the gateway could not be asked, or has no answer yet.
    Reload(#[command(flatten)] reload::ReloadOptions),
    /// Judge a second policy on the running gateway's flows, enforce it for some clients first, then put it in force
    Candidate(#[command(flatten)] candidate::CandidateOptions),
    /// Show the addresses of names that the running gateway knows, and which flows went to others
    Names(#[command(flatten)] names::NamesOptions),
    /// Show the steps of flows of the running gateway, as they happen
    ///
    /// Flows that begin from now on, of a client, for a name, or both. For root and the gateway's own user and group. Exit code 1:
    /// no flow matched; 2: the gateway could not be asked.
    Trace(#[command(flatten)] trace::TraceOptions),
    /// Check what the gateway needs of this machine and send packets through its rules; every finding names its cure
    ///
    /// As root, doctor plays a client of each tenant and a server outside, in network namespaces of its own: handshake, data
    /// both ways and ICMP errors pass the machine's real rules and settings, and nothing leaves the machine. Where packets
    /// get lost it names the rule and whose it is. What it sets up is removed, also when it is killed. Exit code 1:
    /// something is broken.
    Doctor {
        #[command(flatten)]
        path: ConfigPath,
        #[command(flatten)]
        options: doctor::DoctorOptions,
    },
    /// Print the completion script for a shell
    Completions {
        /// The shell
        shell: clap_complete::Shell,
    },
    /// Print the manual page, or write one page for each subcommand to a folder
    Man {
        /// Where to write the pages to
        #[arg(long, value_name = "FOLDER")]
        dir: Option<PathBuf>,
    },
}

#[derive(Debug, Subcommand)]
enum SteeringCommand {
    /// Print the shell script that puts the rules in place; run it as root, or have `systemctl restart egret-steering` do so
    Print {
        #[command(flatten)]
        path: ConfigPath,
        /// The packet filter
        #[arg(long, value_enum, default_value_t = FilterFormat::Iptables)]
        format: FilterFormat,
        /// Print the script that removes them; needs no configuration
        #[arg(long)]
        down: bool,
    },
    /// Compare what is in the kernel with what should be; exit code 1 if it differs
    Status {
        #[command(flatten)]
        path: ConfigPath,
        /// The packet filter; whichever has Egret's rules unless given
        #[arg(long, value_enum)]
        format: Option<FilterFormat>,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
}

/// Runs the command line and returns the exit code.
pub fn main() -> ExitCode {
    match Cli::parse().command {
        Command::Run { path, state } => run::run(&path.config, state),
        Command::Check { path, options } => check::run(&path.config, &options),
        Command::Explain(options) => explain::run(&options),
        Command::Why { path, options } => with(&path.config, |config| why::run(config, &options)),
        Command::Allow { path, options } => {
            with(&path.config, |config| allow::run(&path.config, config, &options))
        }
        Command::Suggest { path, options } => with(&path.config, |config| suggest::run(config, &options)),
        Command::Steering(SteeringCommand::Print { down: true, .. }) => steering::print_down(),
        Command::Steering(SteeringCommand::Print { path, format, .. }) => {
            with(&path.config, |config| steering::print(&control::steering_params(config), format))
        }
        Command::Steering(SteeringCommand::Status { path, format, json }) => {
            with(&path.config, |config| steering::status(&control::steering_params(config), format, json))
        }
        Command::Ports(options) => ports::run(&options),
        Command::Reload(options) => reload::run(&options),
        Command::Candidate(options) => candidate::run(&options),
        Command::Names(options) => names::run(&options),
        Command::Trace(options) => trace::run(&options),
        Command::Doctor { path, options } => {
            with(&path.config, |config| doctor::doctor(&doctor::Doctor::of(config), &options))
        }
        Command::Completions { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Cli::command(), "egret", &mut script);
            output::print(&String::from_utf8_lossy(&script), 0)
        }
        Command::Man { dir } => man::run(Cli::command(), dir.as_deref()),
    }
}

/// Runs an action with a configuration; if it cannot be loaded, prints all errors.
fn with(path: &Path, act: impl FnOnce(&crate::config::Config) -> ExitCode) -> ExitCode {
    match crate::config::load(path) {
        Ok(loaded) => act(&loaded.config),
        Err(report) => {
            journal::error(&report.to_string());
            if steering::fallback().is_some() {
                journal::error("egret: meanwhile steering runs on its last good rules");
            }
            ExitCode::from(2)
        }
    }
}
