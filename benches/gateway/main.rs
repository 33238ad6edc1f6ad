//! Egret beside haproxy, kernel NAT and plain routing: end to end, in network namespaces, on this machine alone.
//!
//! `scripts/bench.sh` runs it and writes docs/performance.md, which explains the method. Without `--bench`, that is with
//! `cargo test --benches`, it does a little of everything and measures nothing that means anything.

#![allow(clippy::unwrap_used, reason = "what is shared with the tests of the gateway fails by panicking")]
#![allow(clippy::missing_panics_doc, missing_docs, unreachable_pub, reason = "not a public interface")]
#![allow(clippy::disallowed_methods, reason = "what is shared with the tests measures real time")]
#![allow(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "statistics are good to three digits"
)]

mod bare;
mod bytes;
mod calls;
mod generator;
mod growth;
mod inside;
mod journal;
mod load;
mod machine;
mod measure;
mod memory;
mod net;
mod page;
mod peer;
mod plan;
mod plot;
mod poller;
mod results;
mod scenario;
mod server;
mod stats;
mod table;
mod wire;

#[path = "../../netns-tests/hello.rs"]
mod hello;
#[path = "../../netns-tests/namespace.rs"]
mod namespace;
#[path = "../../netns-tests/process.rs"]
mod process;
#[path = "../../netns-tests/wait.rs"]
mod wait;

use clap::Parser;
use std::num::NonZero;
use std::path::PathBuf;
use std::process::ExitCode;

/// Measures Egret side by side with haproxy, kernel NAT and plain routing.
#[derive(Parser)]
struct Arguments {
    /// A look: fewer rounds, smaller sizes, and nothing is written but with --page and --json
    #[arg(long)]
    quick: bool,
    /// These parts only: side, crowded, idle, waves, calls, growth
    #[arg(long, value_delimiter = ',')]
    only: Vec<plan::Part>,
    /// Rounds instead of 9 (2 with --quick)
    #[arg(long)]
    rounds: Option<NonZero<usize>>,
    /// Writes the page and its plots to docs/performance.md and docs/performance/ of this folder
    #[arg(long, value_name = "FOLDER", conflicts_with = "only")]
    page: Option<PathBuf>,
    /// Writes each measurement as a line of JSON
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Flag that cargo adds to a measured run
    #[arg(long, hide = true)]
    bench: bool,
    #[command(subcommand)]
    role: Option<Role>,
}

/// Helpers that this program starts itself as.
#[derive(clap::Subcommand)]
#[command(hide = true)]
enum Role {
    Serve,
    Load { job: String },
    Relay { setup: String },
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let done = match &arguments.role {
        Some(Role::Serve) => {
            server::serve();
            Ok(())
        }
        Some(Role::Load { job }) => {
            let job = serde_json::from_str(job).map_err(|e| format!("the job: {e}"));
            job.and_then(|job| load::run(&job))
        }
        Some(Role::Relay { setup }) => {
            let setup = serde_json::from_str(setup).map_err(|e| format!("the setup: {e}"));
            setup.and_then(|setup| bare::run(&setup).map_err(|e| format!("the bare relay: {e}")))
        }
        None if !inside::is_inside() => return inside::enter(),
        None => inside::prepare().and_then(|folder| run(&arguments, &folder)),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(reason) => {
            eprintln!("gateway benchmark: {reason}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &Arguments, folder: &std::path::Path) -> Result<(), String> {
    let plan = plan::Plan::new(arguments);
    let mut journal = journal::Journal::new(arguments.json.as_deref())?;
    let results = results::Results::measure(&plan, folder, &mut journal)?;
    println!("{}", page::tables(&results));
    if let Some(root) = &arguments.page {
        page::write(&results, root)?;
    }
    results.verdict()
}
