//! The record of a flow: one line of the flow log. docs/flow-log.md explains its keys.

use super::policy_change::PolicyChange;
use crate::addr::{ClientAddr, DialAddr, LeasedSource, OriginalDestination};
use crate::hostname::Hostname;
use crate::inspect::Protocol;
use crate::outcome::Outcome;
use crate::transport::Transport;
use serde::Serialize;
use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

/// The tenant of clients that belong to none, in metrics and answers; no tenant may be called so.
pub const UNKNOWN_TENANT: &str = "unknown";

/// Record of a flow that has ended: one line of the flow log. Field names are the log's keys.
#[derive(Debug, Clone, Serialize)]
pub struct FlowRecord {
    /// Time of accept, RFC 3339 in UTC with microseconds.
    #[serde(serialize_with = "crate::clock::microseconds")]
    pub time: jiff::Timestamp,
    /// Unique over all gateways and restarts.
    pub flow: FlowId,
    /// Tenant of the client; `null` if it has none.
    pub tenant: Option<Arc<str>>,
    /// Client's address.
    pub client: ClientAddr,
    /// Transport protocol of `destination` and `dialled`, as a key of its own in the log.
    pub transport: Transport,
    /// Address that the client dialled.
    pub destination: OriginalDestination,
    /// The name the client asked for, canonical.
    pub hostname: Option<Hostname>,
    /// The name of a later HTTP request on the same connection, for which the flow was ended.
    pub denied_hostname: Option<Hostname>,
    /// Source of the name.
    pub hostname_from: Option<NameSource>,
    /// Protocol of the client: `tls`, `http`, `other`; `null` if it was not inspected.
    pub protocol: Option<Protocol>,
    /// HTTP: requests that were judged and let through; `null` where they were not followed.
    pub requests: Option<u32>,
    /// TLS: the application protocols offered, comma-separated.
    pub alpn: Option<Box<str>>,
    /// TLS: true if there was an `encrypted_client_hello` extension.
    pub ech: bool,
    /// The rule that decided: its name, else `file:line`.
    pub rule: Option<Arc<str>>,
    /// Verdict of the policy; `null` where it was never asked.
    pub verdict: Option<PolicyVerdict>,
    /// Reason for the denial that monitor mode waived.
    pub would_deny: Option<Outcome>,
    /// Change that the loaded candidate would have made.
    pub candidate: Option<PolicyChange>,
    /// True if the candidate decided, as the client is in the share that it is enforced for.
    pub canary: bool,
    /// Result of the address check; `null` where the rule has none.
    pub address_check: Option<AddressCheck>,
    /// Result of the certificate check; `null` where the rule has none.
    pub certificate_check: Option<CertificateCheck>,
    /// Outcome.
    pub outcome: Outcome,
    /// More on the outcome, or on the waived denial, where there is more to say.
    pub detail: Option<&'static str>,
    /// Source address and port.
    pub source: Option<LeasedSource>,
    /// Public address that the source address is mapped to, as noted in the pool.
    pub public: Option<IpAddr>,
    /// Pool of the source address.
    pub pool: Option<Arc<str>>,
    /// Address dialled.
    pub dialled: Option<DialAddr>,
    /// Payload bytes from client to server.
    pub bytes_up: u64,
    /// Payload bytes from server to client.
    pub bytes_down: u64,
    /// From accept to end, in milliseconds.
    #[serde(rename = "duration_ms", serialize_with = "milliseconds")]
    pub duration: Duration,
    /// From accept to the end of the inspection, in milliseconds; `null` if it was not inspected.
    #[serde(rename = "inspect_ms")]
    pub inspect: Option<CompactDuration>,
    /// From the SYN to the server's answer, in milliseconds; `null` if it did not answer.
    #[serde(rename = "connect_ms")]
    pub connect: Option<CompactDuration>,
}

impl FlowRecord {
    /// Record of a flow of which no more is known yet.
    pub fn begin(
        time: jiff::Timestamp,
        flow: FlowId,
        client: ClientAddr,
        destination: OriginalDestination,
    ) -> Self {
        Self {
            time,
            flow,
            tenant: None,
            client,
            transport: destination.transport(),
            destination,
            hostname: None,
            denied_hostname: None,
            hostname_from: None,
            protocol: None,
            requests: None,
            alpn: None,
            ech: false,
            rule: None,
            verdict: None,
            would_deny: None,
            candidate: None,
            canary: false,
            address_check: None,
            certificate_check: None,
            outcome: Outcome::InternalError,
            detail: None,
            source: None,
            public: None,
            pool: None,
            dialled: None,
            bytes_up: 0,
            bytes_down: 0,
            duration: Duration::ZERO,
            inspect: None,
            connect: None,
        }
    }
}

/// A flow's ID in logs: the process's random number and a count, in hex. Unique over gateways and restarts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct FlowId {
    /// Random, drawn once per process.
    pub process: u32,
    /// Sequence number in the process.
    pub number: u64,
}

impl fmt::Display for FlowId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:08x}-{:x}", self.process, self.number)
    }
}

impl FromStr for FlowId {
    type Err = NotAFlowId;
    fn from_str(text: &str) -> Result<Self, NotAFlowId> {
        let number = |text| u64::from_str_radix(text, 16).ok();
        let (process, number) =
            text.split_once('-').and_then(|(a, b)| number(a).zip(number(b))).ok_or(NotAFlowId)?;
        let id = Self { process: u32::try_from(process).map_err(|_| NotAFlowId)?, number };
        // Only the canonical spelling: IDs are searched for as text.
        if id.to_string() == text { Ok(id) } else { Err(NotAFlowId) }
    }
}

/// The text is not a [`FlowId`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a flow's ID: it is as in 00c0ffee-1f, from the refusal or the key `flow` of the flow log")]
pub struct NotAFlowId;

impl Serialize for FlowId {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// Duration of a step, to the microsecond and up to 71 minutes: half the size of a [`Duration`], and every flow has
/// several.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CompactDuration(u32);

impl From<Duration> for CompactDuration {
    fn from(took: Duration) -> Self {
        Self(u32::try_from(took.as_micros()).unwrap_or(u32::MAX))
    }
}

impl Serialize for CompactDuration {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        milliseconds(&Duration::from_micros(self.0.into()), serializer)
    }
}

/// Source of a hostname.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum NameSource {
    /// TLS `server_name`.
    Sni,
    /// HTTP/1 Host header or absolute-form request target.
    HttpHost,
}

/// Verdict of the policy on a flow.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum PolicyVerdict {
    /// It is allowed.
    Allow,
    /// It is denied.
    Deny,
}

macro_rules! checks {
    ($(#[$about:meta])* $name:ident: $($(#[$doc:meta])* $variant:ident = $word:literal,)+) => {
        $(#[$about])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum $name {
            $($(#[$doc])* $variant,)+
        }

        impl $name {
            /// All variants; `check as usize` is the index here.
            pub const ALL: &[Self] = &[$(Self::$variant,)+];

            /// Identifier in the flow log and the metric label.
            pub fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $word,)+ }
            }
        }

        impl Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(self.as_str())
            }
        }
    };
}

checks! {
    /// Result of checking whether the address is one of the name's.
    AddressCheck:
    /// The address is one of the name's.
    Match = "match",
    /// The name has other addresses.
    Mismatch = "mismatch",
    /// The name has no address of that family.
    Absent = "absent",
    /// No answer.
    Unknown = "unknown",
    /// Egret resolved the name itself.
    Resolved = "resolved",
}

checks! {
    /// Result of checking the server's certificate.
    CertificateCheck:
    /// It has one for the name.
    Valid = "valid",
    /// It has none.
    Invalid = "invalid",
    /// Egret cannot check such a server, though clients may.
    Unsupported = "unsupported",
    /// It could not be asked.
    Unknown = "unknown",
}

fn milliseconds<S: serde::Serializer>(d: &Duration, s: S) -> Result<S::Ok, S::Error> {
    s.serialize_f64(in_milliseconds(*d))
}

/// To the microsecond: more digits would claim more than was measured.
#[expect(clippy::cast_precision_loss, reason = "exact up to 2^53 µs, 285 years")]
fn in_milliseconds(d: Duration) -> f64 {
    d.as_micros() as f64 / 1000.0
}

/// A record with every field filled in, for tests.
#[cfg(test)]
pub(crate) fn example_record(number: u64) -> FlowRecord {
    FlowRecord {
        time: jiff::Timestamp::from_microsecond(1_764_500_000_250_000).unwrap(),
        flow: FlowId { process: 0x00c0_ffee, number },
        tenant: Some("acme".into()),
        client: ClientAddr::new("10.0.1.7:40000".parse().unwrap()),
        transport: Transport::Tcp,
        destination: OriginalDestination::tcp("[2001:db8::443]:443".parse().unwrap()),
        hostname: Some("api.example.com".parse().unwrap()),
        denied_hostname: None,
        hostname_from: Some(NameSource::Sni),
        requests: None,
        protocol: Some(Protocol::Tls),
        alpn: Some("h2,http/1.1".into()),
        ech: false,
        rule: Some("egret.toml:12".into()),
        verdict: Some(PolicyVerdict::Allow),
        would_deny: None,
        candidate: Some(PolicyChange::Same),
        canary: false,
        address_check: Some(AddressCheck::Match),
        certificate_check: Some(CertificateCheck::Valid),
        outcome: Outcome::Closed,
        detail: None,
        source: Some(LeasedSource::new("203.0.113.16:50000".parse().unwrap())),
        public: Some("52.1.2.3".parse().unwrap()),
        pool: Some("acme".into()),
        dialled: Some(DialAddr::tcp("[2001:db8::443]:443".parse().unwrap())),
        bytes_up: 517,
        bytes_down: 1 << 40,
        duration: Duration::from_micros(1_234_567),
        inspect: Some(Duration::from_micros(789).into()),
        connect: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flow_record_is_one_json_line() {
        let line = serde_json::to_string(&example_record(255)).unwrap();
        assert_eq!(
            line,
            "{\"time\":\"2025-11-30T10:53:20.250000Z\",\"flow\":\"00c0ffee-ff\",\"tenant\":\"acme\",\
             \"client\":\"10.0.1.7:40000\",\"transport\":\"tcp\",\"destination\":\"[2001:db8::443]:443\",\"hostname\":\"api.example.com\",\
             \"denied_hostname\":null,\"hostname_from\":\"sni\",\"protocol\":\"tls\",\"requests\":null,\"alpn\":\"h2,http/1.1\",\"ech\":false,\
             \"rule\":\"egret.toml:12\",\"verdict\":\"allow\",\"would_deny\":null,\"candidate\":\"same\",\"canary\":false,\"address_check\":\"match\",\"certificate_check\":\"valid\",\"outcome\":\"closed\",\
             \"detail\":null,\"source\":\"203.0.113.16:50000\",\"public\":\"52.1.2.3\",\"pool\":\"acme\",\"dialled\":\"[2001:db8::443]:443\",\
             \"bytes_up\":517,\"bytes_down\":1099511627776,\"duration_ms\":1234.567,\"inspect_ms\":0.789,\
             \"connect_ms\":null}"
        );
    }

    #[test]
    fn flow_id_round_trips() {
        let id = FlowId { process: 0x00c0_ffee, number: 0x1f };
        assert_eq!("00c0ffee-1f".parse(), Ok(id));
        for other in
            ["", "-", "c0ffee-1f", "00C0FFEE-1f", "00c0ffee-01f", "00c0ffee", "100000000-1", "00c0ffee-+1"]
        {
            assert_eq!(other.parse::<FlowId>(), Err(NotAFlowId), "{other}");
        }
    }

    #[test]
    fn flow_log_reference_is_exact() {
        let page = include_str!("../../docs/flow-log.md");
        let stated =
            page.lines().filter_map(|line| line.strip_prefix("| `")?.split_once('`').map(|(key, _)| key));
        let record = serde_json::to_value(example_record(0)).unwrap();
        let keys: std::collections::BTreeSet<_> =
            record.as_object().unwrap().keys().map(String::as_str).collect();
        assert_eq!(stated.collect::<std::collections::BTreeSet<_>>(), keys);
    }
}
