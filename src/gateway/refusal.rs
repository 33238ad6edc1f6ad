//! Answers to refused clients, which people can read.

use super::worker::Worker;
use crate::flow::{FlowRecord, UNKNOWN_TENANT};
use crate::hostname::Hostname;
use crate::inspect::Protocol;
use crate::outcome::Outcome;
use crate::relay::{self, WorkerScratch};
use crate::sys::socket::Socket;
use std::time::Duration;

/// The name that `egret doctor` asks for. Nobody has it (RFC 6761), so that no rule but one for every name allows it.
pub const PROBE_NAME: &str = "egret-doctor.invalid";
/// Bytes that pad the refusal of [`PROBE_NAME`]: several full packets, which show whether large answers reach clients.
const PROBE_PADDING: usize = 16 * 1024;

/// Time for a refused client to read its answer and close.
const PATIENCE: Duration = Duration::from_secs(2);

/// A fatal TLS alert (RFC 8446 §6): record type 21, version 3.3, two bytes, level 2.
const fn alert(description: u8) -> [u8; 7] {
    [21, 3, 3, 0, 2, 2, description]
}

/// RFC 8446 §6.2
const ACCESS_DENIED: u8 = 49;
const INTERNAL_ERROR: u8 = 80;

/// Answer in the client's protocol; `None` if that is not known. `asked` is the name that was refused.
pub(super) fn answer(
    worker: &Worker,
    record: &FlowRecord,
    asked: Option<&Hostname>,
    outcome: Outcome,
) -> Option<Vec<u8>> {
    let ours =
        matches!(outcome, Outcome::PortsExhausted | Outcome::NoSourceAddress | Outcome::TenantPortCeiling);
    match record.protocol? {
        Protocol::Tls => Some(alert(if ours { INTERNAL_ERROR } else { ACCESS_DENIED }).into()),
        Protocol::Http => {
            let help = worker.gateway.snapshot.load().help.clone();
            Some(http(record, asked, outcome, ours, help.as_deref()).into_bytes())
        }
        Protocol::Other => None,
    }
}

/// Sends the answer, if there is one. If the client does not take it in time, dropping the leg resets it.
pub(super) async fn send(answer: Option<Vec<u8>>, client: &Socket, scratch: &WorkerScratch) {
    if let Some(answer) = answer {
        relay::refuse(client, &answer, PATIENCE, scratch).await;
    }
}

/// Lets a client that has the server's last bytes read them and close; adds no answer.
pub(super) async fn say_nothing(client: &Socket, scratch: &WorkerScratch) {
    relay::refuse(client, &[], PATIENCE, scratch).await;
}

fn http(
    record: &FlowRecord,
    asked: Option<&Hostname>,
    outcome: Outcome,
    ours: bool,
    help: Option<&str>,
) -> String {
    let status = if ours { "503 Service Unavailable" } else { "403 Forbidden" };
    let tenant = record.tenant.as_deref().unwrap_or(UNKNOWN_TENANT);
    let port = record.destination.port();
    let to = match asked {
        Some(name) => format!("{name}:{port}"),
        None => record.destination.to_string(),
    };
    let more = record.detail.map(|detail| format!(" ({detail})")).unwrap_or_default();
    let help = help.map(|help| format!("{help}\n")).unwrap_or_default();
    let padding = if asked.is_some_and(|name| name.as_str() == PROBE_NAME) { PROBE_PADDING } else { 0 };
    let body = format!(
        "Egret, the egress gateway, refused this request.\ntenant: {tenant}\ndestination: {to}\nreason: {outcome}{more}\nflow: {}\n{}\n{help}{}",
        record.flow,
        outcome.meaning(),
        ".".repeat(padding),
    );
    format!(
        "HTTP/1.1 {status}\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Length: {}\r\nConnection: close\r\nCache-Control: no-store\r\n\r\n{body}",
        body.len(),
    )
}
