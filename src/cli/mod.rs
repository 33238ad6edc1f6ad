//! The command line: one file per subcommand.
//!
//! Exit codes are part of the interface: 0 for yes or done, 1 for no (a check that failed, a flow that would be denied,
//! something not in place), 2 for a question or a start that could not be carried out. Each command's help states its own,
//! in a paragraph that begins with "Exit code 0:", and docs/commands.md is made of these.

pub mod allow;
mod ask;
pub mod candidate;
pub mod check;
mod config_path;
pub mod doctor;
pub mod explain;
mod findings;
mod flow_log;
mod interrupted;
mod journal;
mod last_good;
mod man;
mod mend;
pub mod names;
mod output;
mod past_flow;
pub mod ports;
mod reference;
pub mod reload;
mod replace;
mod run;
pub mod steering;
pub mod suggest;
mod tool;
pub mod trace;
pub mod why;

use crate::config::{self, Config};
use crate::control;
use crate::steering::FilterFormat;
use clap::{CommandFactory, Parser, Subcommand};
use config_path::ConfigPath;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

pub use reference::reference;

/// A transparent egress gateway: allows by tenant and name, leaves from the tenant's own source ports.
#[derive(Debug, Parser)]
#[command(name = "egret", version, propagate_version = true, max_term_width = 110, after_help = PAGES)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

const PAGES: &str = "Pages that messages name, as in docs/config.md, are in /usr/share/doc/egret.";

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the gateway in the foreground, until SIGTERM or SIGINT
    ///
    /// Needs CAP_NET_ADMIN and no other privilege. SIGHUP reads the configuration and opens the logs anew, SIGUSR1 the logs alone. A second SIGTERM cuts the drain short.
    /// Messages go to stderr; EGRET_LOG sets their level (error, warn, info, debug, trace).
    /// With a configuration that it cannot start with, it goes by the last good one, and says so.
    ///
    /// Exit code 0: it was stopped; 2: it could not start.
    Run {
        #[command(flatten)]
        path: ConfigPath,
        /// Keep the last good configuration there; without it, a broken configuration is not survived. Other commands look for it in
        /// /var/lib/egret, unless STATE_DIRECTORY names this folder
        #[arg(long, value_name = "FOLDER", env = "STATE_DIRECTORY")]
        state: Option<PathBuf>,
    },
    /// Validate the configuration and show everything that is wrong with it
    ///
    /// Exit code 0: it can be used, and every test passes; 1: it cannot be used, a reload on this steered machine would refuse its interfaces, or a test
    /// fails; 2: the tests cannot be read.
    Check {
        #[command(flatten)]
        path: ConfigPath,
        #[command(flatten)]
        options: check::CheckOptions,
    },
    /// Tell what would happen to a flow, and why
    ///
    /// From the files, or with --live as the running gateway sees it. Sends nothing to anybody else. While the files have errors, it
    /// goes by the last good configuration, of STATE_DIRECTORY (/var/lib/egret unless set).
    ///
    /// Exit code 0: it would leave; 1: it would be denied, or never reaches Egret; 2: no answer.
    Explain(#[command(flatten)] explain::ExplainOptions),
    /// Tell what became of a flow, from the flow log, and what the policy of today makes of it
    ///
    /// While the files have errors, it goes by the last good configuration, of STATE_DIRECTORY (/var/lib/egret unless set), or tells
    /// what the log has.
    ///
    /// Exit code 0: told; 1: the log has no such flow; 2: the log cannot be read, or nothing tells where it is.
    Why {
        #[command(flatten)]
        path: ConfigPath,
        #[command(flatten)]
        options: why::WhyOptions,
    },
    /// Print or write the rule that would allow a denied flow, and the policy test that keeps it
    ///
    /// The rule is the narrowest there is: one name or address, one port. While the files have errors, it goes by the last good
    /// configuration, of STATE_DIRECTORY (/var/lib/egret unless set).
    ///
    /// Exit code 0: printed or written, or not needed; 1: no rule can help, or the log has no such flow; 2: something cannot be read or
    /// written.
    Allow {
        #[command(flatten)]
        path: ConfigPath,
        #[command(flatten)]
        options: allow::AllowOptions,
    },
    /// Suggest rules for what a tenant was seen to reach, from the flow log
    ///
    /// Rules are for names that passed: allowed, or let pass by monitor mode. What was denied is listed and never
    /// suggested. Paste the output below the tenant's `[[tenant]]`. While the files have errors, it goes by the last good
    /// configuration, of STATE_DIRECTORY (/var/lib/egret unless set).
    ///
    /// Exit code 0: told, also if there is nothing to suggest; 2: a log or the configuration cannot be read, there is no log, or no
    /// such tenant.
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
    ///
    /// Exit code 0: told; 2: the gateway could not be asked, or has no such pool or tenant.
    Ports(#[command(flatten)] ports::PortsOptions),
    /// Have the running gateway read its configuration anew, and wait until it is in force
    ///
    /// Errors in the files are shown with file, line and column.
    ///
    /// Exit code 0: in force; 1: refused, and the configuration before stays in force; 2: the gateway could not be asked, or has no
    /// answer yet.
    Reload(#[command(flatten)] reload::ReloadOptions),
    /// Judge a second policy on the running gateway's flows, enforce it for some clients first, then put it in force
    Candidate(#[command(flatten)] candidate::CandidateOptions),
    /// Show the addresses of names that the running gateway knows, and which flows went to others
    ///
    /// Exit code 0: told; 1: the gateway knows no address of the name; 2: it could not be asked.
    Names(#[command(flatten)] names::NamesOptions),
    /// Show the steps of flows of the running gateway, as they happen
    ///
    /// Flows that begin from now on, of a client, for a name, or both. For root and the gateway's own user and group.
    ///
    /// Exit code 0: flows were traced; 1: no flow matched; 2: the gateway could not be asked.
    Trace(#[command(flatten)] trace::TraceOptions),
    /// Check what the gateway needs of this machine and send packets through its rules; every finding names its cure
    ///
    /// As root, doctor plays a client of each tenant and a server outside, in network namespaces of its own: handshake, data
    /// both ways and ICMP errors pass the machine's real rules and settings, and nothing leaves the machine. Where packets
    /// get lost it names the rule and whose it is. What it sets up is removed, also when it is killed.
    ///
    /// While the files have errors, that is one more finding, and doctor goes by the last good configuration, of STATE_DIRECTORY (/var/lib/egret unless set).
    ///
    /// Exit code 0: nothing is broken; 1: something is; 2: the configuration has errors, and there is no last good one.
    Doctor {
        #[command(flatten)]
        path: ConfigPath,
        #[command(flatten)]
        options: doctor::DoctorOptions,
    },
    /// Print the completion script for a shell
    ///
    /// Exit code 0: printed; 2: it could not be written.
    Completions {
        /// The shell
        shell: clap_complete::Shell,
    },
    /// Print the manual page, or write one page for each subcommand to a folder
    ///
    /// Exit code 0: printed or written; 2: it could not be written.
    Man {
        /// Where to write the pages to
        #[arg(long, value_name = "FOLDER")]
        dir: Option<PathBuf>,
    },
}

#[derive(Debug, Subcommand)]
enum SteeringCommand {
    /// Print the shell script that puts the rules in place; run it as root, or have `systemctl restart egret-steering` do so
    ///
    /// Exit code 0: printed; 2: the configuration has errors, there is nothing to steer, or the rules would cut this machine off.
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
    /// Compare what is in the kernel with what should be
    ///
    /// While the files have errors, that is one more finding, and it goes by the last good configuration, of STATE_DIRECTORY (/var/lib/egret unless set).
    ///
    /// Exit code 0: all is in place; 1: something is not; 2: the configuration has errors and there is no last good one, or there
    /// is nothing to steer.
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
        Command::Why { path, options } => why::run(&path.config, &options),
        Command::Allow { path, options } => {
            with_usable(&path.config, |usable| allow::run(&path.config, &usable.config, &options))
        }
        Command::Suggest { path, options } => {
            with_usable(&path.config, |usable| suggest::run(&usable.config, &options))
        }
        Command::Steering(SteeringCommand::Print { down: true, .. }) => steering::print_down(),
        Command::Steering(SteeringCommand::Print { path, format, .. }) => {
            let print = |config: &Config| {
                let params = control::steering_params(config);
                let waits = doctor::port_in_force(&params, config.gateway.metrics, &path.config);
                steering::print(&params, waits, format)
            };
            steering::end_print(with(&path.config, print))
        }
        Command::Steering(SteeringCommand::Status { path, format, json }) => {
            with_in_force(&path.config, |usable| {
                let mut params = control::steering_params(&usable.config);
                let (port, found) = doctor::go_by_gateway(&mut params, usable.config.gateway.metrics);
                let first = usable.finding(&path.config).into_iter().chain(found).collect();
                steering::status(&params, port, first, format, json)
            })
        }
        Command::Ports(options) => ports::run(&options),
        Command::Reload(options) => reload::run(&options),
        Command::Candidate(options) => candidate::run(&options),
        Command::Names(options) => names::run(&options),
        Command::Trace(options) => trace::run(&options),
        Command::Doctor { path, options } => with_in_force(&path.config, |usable| {
            let doctor = doctor::Doctor::of(&usable.config, usable.finding(&path.config));
            doctor::doctor(&doctor, &options)
        }),
        Command::Completions { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Cli::command(), "egret", &mut script);
            output::print(&String::from_utf8_lossy(&script), 0)
        }
        Command::Man { dir } => man::run(Cli::command(), dir.as_deref()),
    }
}

/// Runs an action with the configuration of the files; if they have errors, prints all.
fn with(path: &Path, act: impl FnOnce(&Config) -> ExitCode) -> ExitCode {
    config::load(path).map_or_else(|report| last_good::refused(&report), |loaded| act(&loaded.config))
}

/// Runs an action with what is in force: the files or, while they are refused, the last good configuration.
fn with_in_force(path: &Path, act: impl FnOnce(&last_good::UsableConfig) -> ExitCode) -> ExitCode {
    last_good::load_in_force(path).map_or_else(|report| last_good::refused(&report), |usable| act(&usable))
}

/// Runs an action with the configuration of the files or, while they have errors, with the last good one.
fn with_usable(path: &Path, act: impl FnOnce(&last_good::UsableConfig) -> ExitCode) -> ExitCode {
    last_good::load(path).map_or_else(|report| last_good::refused(&report), |usable| act(&usable))
}
