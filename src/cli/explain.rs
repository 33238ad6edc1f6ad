//! `egret explain`: explains the decision on a flow, rule by rule; from the configuration alone, or from the running
//! gateway. Sends nothing to anyone else.

mod text;

use super::ask::{self, AskError, GatewayArgs, ask};
use super::last_good;
use super::output::{json_page, print};
use crate::admin::{ClientTarget, ExplainQuery, ExplainReport, parse_address};
use crate::control::Explainer;
use std::net::IpAddr;
use std::path::Path;
use std::process::ExitCode;
pub(super) use text::{show, verdict_of};

const FAILED: u8 = 2;

/// Arguments of `egret explain`.
#[expect(clippy::struct_excessive_bools, reason = "independent flags of a command line")]
#[derive(Debug, Clone, clap::Args)]
pub struct ExplainOptions {
    /// The client's address
    #[arg(long, value_name = "ADDRESS", value_parser = parse_address)]
    pub from: IpAddr,
    /// Target of the client: a URL, a name or an address, with a port unless it is 443 or the URL's scheme says it. For certificates, port 80 is taken for plain HTTP and any other for TLS, whatever the scheme
    #[arg(long, value_name = "URL|NAME[:PORT]|ADDRESS[:PORT]")]
    pub to: ClientTarget,
    /// The address that the client dials for the name
    #[arg(long, value_name = "ADDRESS", value_parser = parse_address)]
    pub address: Option<IpAddr>,
    /// The client offers an encrypted ClientHello, or GREASE that looks like one
    #[arg(long)]
    pub ech: bool,
    /// The client speaks neither TLS nor HTTP; `--to` is an address then
    #[arg(long)]
    pub other_protocol: bool,
    /// Ask the running gateway, rather than the files: by the policy in force, or by the candidate where that is enforced for the client, with ports, limits and addresses as they are now
    #[arg(long)]
    pub live: bool,
    /// Print JSON for programs
    #[arg(long)]
    pub json: bool,
    #[command(flatten)]
    gateway: GatewayArgs,
}

/// Prints the explanation and returns the exit code.
pub fn run(options: &ExplainOptions) -> ExitCode {
    let ExplainOptions { from, to, address, ech, other_protocol, .. } = options.clone();
    let query = ExplainQuery { from, to, address, ech, other_protocol };
    let told = if options.live {
        of_the_gateway(&options.gateway, &query)
    } else {
        of_the_files(&options.gateway, &query)
    };
    match told {
        Ok(report) => {
            let text = if options.json { json_page(&report) } else { show(&report) };
            print(&text, u8::from(!report.allowed))
        }
        Err(why) => {
            eprintln!("egret explain: {}", why.trim_end());
            ExitCode::from(FAILED)
        }
    }
}

fn of_the_files(gateway: &GatewayArgs, query: &ExplainQuery) -> Result<ExplainReport, String> {
    let hint = |report| format!("{report}\nmeanwhile the gateway that runs may answer: ask with --live");
    let usable = last_good::load(&gateway.config()).map_err(hint)?;
    let explainer = Explainer::new(&usable.config).map_err(|error| error.to_string())?;
    explainer.explain(query).map_err(|error| error.to_string())
}

fn of_the_gateway(gateway: &GatewayArgs, query: &ExplainQuery) -> Result<ExplainReport, String> {
    live(&gateway.socket()?, query).map_err(|error| error.to_string())
}

/// Asks the running gateway.
pub(super) fn live(socket: &Path, query: &ExplainQuery) -> Result<ExplainReport, AskError> {
    let (from, to) = (query.from.to_string(), query.to.to_string());
    let address = query.address.map(|address| address.to_string());
    let given = [("from", Some(&*from)), ("to", Some(&*to)), ("address", address.as_deref())];
    let flags = [("ech", query.ech), ("other_protocol", query.other_protocol)];
    let flags = flags.into_iter().filter_map(|(key, is)| is.then_some((key, "true")));
    let pairs = given.into_iter().filter_map(|(key, value)| Some((key, value?))).chain(flags);
    ask(socket, "GET", &ask::with_query("/v1/explain", pairs), "")
}
