//! `egret trace`: shows the steps of matching flows of the running gateway, as they happen.

use super::ask::{self, AskError, GatewayArgs, ask};
use super::output::{json_line, put};
use crate::admin::{TraceAnswer, TraceOrder, TraceStarted, TraceStep};
use crate::hostname::HostPattern;
use crate::telemetry::{LONGEST_TRACE, MOST_TRACED_FLOWS};
use crate::units;
use ipnet::IpNet;
use std::io::IsTerminal as _;
use std::net::IpAddr;
use std::path::Path;
use std::process::ExitCode;
use std::thread::sleep;
use std::time::Duration;

/// Time between two queries.
const INTERVAL: Duration = Duration::from_millis(200);

/// Arguments of `egret trace`.
#[derive(Debug, Clone, clap::Args)]
#[command(group = clap::ArgGroup::new("flows-of").required(true).multiple(true))]
pub struct TraceOptions {
    /// Only flows of this client or network
    #[arg(long, value_name = "ADDRESS", value_parser = network, group = "flows-of")]
    client: Option<IpNet>,
    /// Only flows that ask for this name; *.NAME stands for its subdomains
    #[arg(long, value_name = "NAME", value_parser = pattern, group = "flows-of")]
    name: Option<String>,
    /// Time until the trace ends, at most 10m
    #[arg(long = "for", value_name = "TIME", default_value = "1m", value_parser = time)]
    time: Duration,
    /// Number of flows after which no further one is traced, at most 1000; the trace ends with the last of them
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=i64::from(MOST_TRACED_FLOWS)))]
    flows: u32,
    /// Print each step as a line of JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    gateway: GatewayArgs,
}

fn network(text: &str) -> Result<IpNet, String> {
    let one = text.parse::<IpAddr>().map(IpNet::from);
    let network = one.or_else(|_| text.parse::<IpNet>());
    network
        .map(|network| network.trunc())
        .map_err(|_| "write an address, or a network such as 10.0.1.0/24".to_owned())
}

fn pattern(text: &str) -> Result<String, String> {
    let pattern: HostPattern = text.parse().map_err(|why| format!("it is {why}"))?;
    Ok(pattern.to_string())
}

fn time(text: &str) -> Result<Duration, String> {
    let time = units::parse_duration(text).map_err(|why| why.to_string())?;
    let is_whole = time.subsec_nanos() == 0;
    if is_whole && !time.is_zero() && time <= LONGEST_TRACE {
        Ok(time)
    } else {
        Err("write 1s to 10m".to_owned())
    }
}

/// Starts the trace and prints its steps until it ends.
pub fn run(options: &TraceOptions) -> ExitCode {
    options.gateway.asked(|socket| follow(socket, options))
}

fn follow(socket: &Path, options: &TraceOptions) -> Result<ExitCode, AskError> {
    let order = TraceOrder {
        clients: options.client,
        names: options.name.clone(),
        seconds: u32::try_from(options.time.as_secs()).unwrap_or(u32::MAX),
        flows: options.flows,
    };
    let TraceStarted { trace } = ask(socket, "POST", "/v1/trace", &json_line(&order))?;
    if std::io::stderr().is_terminal() {
        eprintln!("Tracing flows that begin in the next {} s; Ctrl-C stops.", order.seconds);
    }
    let target = ask::with_query("/v1/trace", [("trace", &*trace.to_string())].into_iter());
    let (mut width, mut traced, mut lost) = (0, 0, 0);
    loop {
        let TraceAnswer { steps, flows, dropped, over } = ask(socket, "GET", &target, "")?;
        // A trace that is gone knows nothing any more.
        (traced, lost) = (traced.max(flows), lost.max(dropped));
        let text: String = steps.iter().map(|step| line(step, options.json, &mut width)).collect();
        if let Err(code) = put(&text, 0) {
            return Ok(code);
        }
        if let Some(why) = over {
            eprintln!("{}", summary(traced, lost, &why));
            return Ok(ExitCode::from(u8::from(traced == 0)));
        }
        sleep(INTERVAL);
    }
}

/// The last line. Without a flow it names the command that tells where packets get lost.
fn summary(flows: u32, lost: u64, why: &str) -> String {
    let lost = if lost > 0 { format!("; {lost} steps were dropped") } else { String::new() };
    let hint = if flows > 0 {
        ""
    } else {
        " If the client did connect, `egret doctor --packet --from CLIENT --to DESTINATION` tells where its packets get lost."
    };
    format!("{flows} flows were traced{lost}; {why}.{hint}")
}

/// One step. The columns grow to the longest value so far.
fn line(step: &TraceStep, json: bool, width: &mut usize) -> String {
    if json {
        return json_line(step);
    }
    let TraceStep { flow, client, microseconds, step } = step;
    let who = format!("{flow} {client}");
    *width = who.len().max(*width);
    let (milliseconds, rest) = (microseconds / 1000, microseconds % 1000);
    format!("{who:width$} {milliseconds:>6}.{rest:03} ms  {step}\n", width = *width)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_have_columns() {
        let step = |client: &str, microseconds| TraceStep {
            flow: "1f-7".into(),
            client: client.parse().unwrap(),
            microseconds,
            step: "accepted destination=192.0.2.1:443".into(),
        };
        let mut width = 0;
        let first = line(&step("10.0.1.9:40000", 0), false, &mut width);
        assert_eq!(first, "1f-7 10.0.1.9:40000      0.000 ms  accepted destination=192.0.2.1:443\n");
        let second = line(&step("10.0.1.9:400", 12_034), false, &mut width);
        assert_eq!(second, "1f-7 10.0.1.9:400       12.034 ms  accepted destination=192.0.2.1:443\n");
    }

    #[test]
    fn trace_without_flows_ends_with_hint() {
        assert_eq!(
            summary(2, 7, "its time is over"),
            "2 flows were traced; 7 steps were dropped; its time is over."
        );
        assert!(summary(0, 0, "its time is over").contains("`egret doctor --packet "));
    }

    #[test]
    fn clients_and_times_are_checked() {
        assert_eq!(network("10.0.1.9").unwrap().to_string(), "10.0.1.9/32");
        assert_eq!(network("10.0.1.9/24").unwrap().to_string(), "10.0.1.0/24");
        assert!(network("acme").is_err() && time("0s").is_err() && time("11m").is_err());
        assert_eq!(time("90s"), Ok(Duration::from_secs(90)));
    }
}
