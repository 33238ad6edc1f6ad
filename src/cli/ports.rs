//! `egret ports`: asks the running gateway for the source ports in use, their holders and their exhaustion; drains
//! source addresses.

mod table;

use super::ask::{self, AskError, GatewayArgs, ask};
use super::output::{json_line, print, put};
use crate::admin::{DestinationFilter, DrainAnswer, DrainOrder, PortsReport};
use crate::family::Family;
use std::fmt::Write as _;
use std::io::{self, IsTerminal};
use std::net::IpAddr;
use std::path::Path;
use std::process::ExitCode;
use std::thread;
use std::time::Duration;
use table::Extent;

const STAYS_OUT_OF_USE: u8 = 1;
/// Interval of `--watch`.
const SECOND: Duration = Duration::from_secs(1);

/// Arguments of `egret ports`.
#[derive(Debug, Clone, clap::Args)]
#[command(args_conflicts_with_subcommands = true)]
pub struct PortsOptions {
    /// Only this pool
    #[arg(long, value_name = "POOL")]
    pub pool: Option<String>,
    /// Only this tenant: its pool, its ports, its clients
    #[arg(long, value_name = "TENANT")]
    pub tenant: Option<String>,
    /// Only this destination; as ADDRESS:PORT, hot or not
    #[arg(long, value_name = "ADDRESS[:PORT]|NAME", value_parser = destination)]
    pub destination: Option<String>,
    /// Show it again every second, until interrupted
    #[arg(long)]
    pub watch: bool,
    /// Print the gateway's answer, one JSON object a line
    #[arg(long)]
    pub json: bool,
    #[command(flatten)]
    gateway: GatewayArgs,
    #[command(subcommand)]
    action: Option<PortsAction>,
}

#[derive(Debug, Clone, clap::Subcommand)]
enum PortsAction {
    /// Take a source address out of use: no new flows leave from it, those that live may finish
    ///
    /// It holds until `undrain` or a restart; `drain` of the pool in the configuration holds for good.
    ///
    /// Exit code 0: done; 2: the gateway could not be asked, or has no such address.
    Drain {
        /// A source address of a pool
        address: IpAddr,
    },
    /// Put a drained source address to use again
    ///
    /// Exit code 0: done; 1: it stays out of use; 2: the gateway could not be asked, or has no such address.
    Undrain {
        /// A source address of a pool
        address: IpAddr,
    },
}

fn destination(text: &str) -> Result<String, &'static str> {
    text.parse::<DestinationFilter>().map(|_| text.to_owned())
}

/// Asks the gateway and prints the answer.
pub fn run(options: &PortsOptions) -> ExitCode {
    options.gateway.asked(|socket| match options.action {
        Some(PortsAction::Drain { address }) => drain(socket, DrainOrder { source: address, on: true }),
        Some(PortsAction::Undrain { address }) => drain(socket, DrainOrder { source: address, on: false }),
        None if options.watch => watch(socket, options),
        None => look(socket, options).map(|report| print(&show(&report, options, &Extent::WHOLE), 0)),
    })
}

fn look(socket: &Path, options: &PortsOptions) -> Result<PortsReport, AskError> {
    let filters =
        [("pool", &options.pool), ("tenant", &options.tenant), ("destination", &options.destination)];
    let given = filters.into_iter().filter_map(|(key, value)| Some((key, value.as_deref()?)));
    ask(socket, "GET", &ask::with_query("/v1/ports", given), "")
}

fn show(report: &PortsReport, options: &PortsOptions, extent: &Extent) -> String {
    let is_part = options.pool.is_some() || options.tenant.is_some() || options.destination.is_some();
    if options.json { json_line(report) } else { table::render(report, extent, is_part) }
}

/// Continues while the gateway restarts; ends if the first query fails.
fn watch(socket: &Path, options: &PortsOptions) -> Result<ExitCode, AskError> {
    let on_screen = io::stdout().is_terminal() && !options.json;
    let mut answer = Ok(look(socket, options)?);
    loop {
        let text = match &answer {
            Ok(report) => show(report, options, &Extent::SCREEN),
            // A stream of JSON must contain nothing else.
            Err(error) if options.json => {
                eprintln!("egret: {error}");
                String::new()
            }
            Err(error) => format!("egret: {error}\n"),
        };
        let text = if on_screen { redrawn(&text) } else { text };
        if let Err(code) = put(&text, 0) {
            return Ok(code);
        }
        thread::sleep(SECOND);
        answer = look(socket, options);
    }
}

/// Overwrites the screen without flicker: from the top left, clearing the rest of each line and of the screen.
fn redrawn(text: &str) -> String {
    format!("\x1b[H{}\x1b[J", text.replace('\n', "\x1b[K\n"))
}

fn drain(socket: &Path, order: DrainOrder) -> Result<ExitCode, AskError> {
    let answer = ask(socket, "POST", "/v1/ports/drain", &json_line(&order));
    if let Err(AskError::Conflict(why)) = answer {
        eprintln!("egret: {why}");
        return Ok(ExitCode::from(STAYS_OUT_OF_USE));
    }
    let DrainAnswer { source, state, without_address } = answer?;
    let stays = !order.on && state != "available";
    let why = match &*state {
        "draining" if order.on => "no new flows leave from it; those that live may finish",
        "draining" => "the configuration drains it; take it out of `drain` in [[pool]]",
        "withdrawn" => "the host does not have it now",
        _ => "new flows may leave from it",
    };
    let mut text = format!("{source} is {state}: {why}\n");
    let family = Family::of(source);
    for pool in without_address {
        let _ = writeln!(
            text,
            "warning: pool {pool} has no available {family} address left: new {family} flows of its tenants are refused"
        );
    }
    Ok(print(&text, if stays { STAYS_OUT_OF_USE } else { 0 }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shorter_text_clears_the_screen() {
        assert_eq!(redrawn("a\nb\n"), "\x1b[Ha\x1b[K\nb\x1b[K\n\x1b[J");
    }
}
