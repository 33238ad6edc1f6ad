//! Outcomes of flows: one closed enum that the flow log, the metric label and docs/outcomes.md share.

use serde::{Serialize, Serializer};
use std::fmt;

/// Party that caused an outcome, and so has to look into it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum OutcomeCause {
    /// The client behind the gateway.
    Client,
    /// The server, or the path to it.
    Upstream,
    /// The operator's policy, limits or pools.
    Policy,
    /// The gateway itself.
    Gateway,
}

impl OutcomeCause {
    /// Name used in the docs.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Client => "client",
            Self::Upstream => "upstream",
            Self::Policy => "policy",
            Self::Gateway => "gateway",
        }
    }
}

macro_rules! outcomes {
    ($($(#[$group:meta])* $variant:ident = $name:literal, $cause:ident, $kind:ident: $meaning:literal => $remedy:literal;)+) => {
        /// Outcome of a flow. Every accepted connection ends in exactly one of these.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum Outcome {
            $(#[doc = $meaning] $(#[$group])* $variant,)+
        }

        impl Outcome {
            /// All outcomes, in the order of the docs; `outcome as usize` is the index here.
            pub const ALL: &[Self] = &[$(Self::$variant,)+];

            /// Identifier in the flow log and the metric label.
            pub fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $name,)+ }
            }
            /// Meaning, in a sentence.
            pub fn meaning(self) -> &'static str {
                match self { $(Self::$variant => $meaning,)+ }
            }
            /// Remedy, in a sentence or two.
            pub fn remedy(self) -> &'static str {
                match self { $(Self::$variant => $remedy,)+ }
            }
            /// Party that caused it.
            pub fn cause(self) -> OutcomeCause {
                match self { $(Self::$variant => OutcomeCause::$cause,)+ }
            }
            /// Phase of the flow in which it happens.
            pub fn phase(self) -> FlowPhase {
                match self { $(Self::$variant => FlowPhase::$kind,)+ }
            }
        }
    };
}

/// Phase of a flow in which an outcome happens.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum FlowPhase {
    /// Before a decision was possible, and without a denial: the client left.
    Early,
    /// The flow was refused; counted in `egret_denials_total`.
    Denied,
    /// It was allowed, and the upstream could not be reached.
    Dial,
    /// It was relayed.
    Relayed,
}

impl FlowPhase {
    /// The heading used in the docs.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Early => "Before a decision",
            Self::Denied => "Denied",
            Self::Dial => "Allowed, not connected",
            Self::Relayed => "Relayed",
        }
    }
}

const INTRO: &str = "\
# Outcomes

<!-- Generated from src/outcome.rs. Do not edit: run `EGRET_BLESS=1 cargo test --test integration generated_docs`. -->

Every accepted connection ends in exactly one of these. The same word is `outcome` in the flow log and a label of
`egret_flows_total`; those under *Denied* are the `reason` of `egret_denials_total` too. *Cause* says where to look first:
the client behind the gateway, the upstream server or the path to it, the operator's policy, limits and pools, or the gateway
itself.

`verdict` in the flow log is what was decided before a source port was asked for. So it is `deny` for all under *Denied* except
`no_source_address`, `tenant_port_ceiling` and `ports_exhausted`: these were allowed, and got no port.
";

const CLOSED: &str = "
## What counts as closed

Resets end many a flow that went well: servers and clients reset what still comes when they are done with a connection. So a flow is
`closed` if **its answer was delivered in full, whatever reset came after**, and what cut an answer short is never `closed`, whatever it
looked like.

*Delivered* means that the client's host has acknowledged every byte. If the client reset, the last two segments may be unacknowledged:
hosts delay acknowledgements, and a reset carries none that Linux takes note of.

**HTTP/1 that is followed** (inspection.md) shows where answers end. The flow is `closed` if every request that passed has its whole
answer, by `Content-Length`, by its chunks, or by the server's FIN where the answer ends with the connection. If not, it is not `closed` even
if both sides finished: it is `upstream_reset` if the server finished first, else `client_reset`, and `detail` says so.

Answers are read as curl, browsers and other clients read them, which take more than RFC 9112 allows: repeated lengths, folded lines, padded chunk
sizes. What the server sends beyond its answers, such as a 408 to a client that asks for nothing more, changes nothing. Where clients disagree about
the end of an answer, only what TCP tells counts, as below.

A server may close a connection that it has kept open just when the next request is on its way. Clients know that, and repeat the request on
another connection (RFC 9112 §9.3.1). So a request does not count if there was an answer before it, and the server's FIN acknowledged none of it.
The client's second try is a flow of its own, with its own outcome. Of a reset nobody can tell whether the request had arrived: it counts.

**Everything else**, TLS included, shows only what TCP tells. The flow is `closed` if

- both sides finished (FIN) and everything was delivered. A client that finished first and then refused more than 64 bytes by a reset has left its
  download: `client_reset`;
- the server finished, everything was delivered, and then either side reset;
- the client finished and then reset what still came, if that was no more than 64 bytes (`close_notify`, or HTTP/2's GOAWAY), and the server finished or
  reset as well within a second;
- the client finished and then the server reset, having sent something before and nothing since that the client took;
- the server's last bytes were TLS's `close_notify` (by the size of the record), all was delivered, and then either side reset;
- the client reset, and the server finished within 50 ms with no more than 64 bytes.

Any other reset is `client_reset` or `upstream_reset`, by who sent it.

Some failures do not show. In TLS, and in HTTP whose answer ends with the connection, a server that dies finishes like one that is done (its kernel
sends FIN). In TLS, a client that gives up waiting and closes looks like one that has its answer. Bytes that the client's host has
acknowledged and its program never read count as delivered.

The share of connections to servers that went well, over all tenants. `tenant:egret_flows_closed:ratio_rate5m` of
deploy/prometheus/egret-rules.yml is the same for each tenant. Both count connections, not requests, and leave out those that were denied, and
those that a reload or the gateway's stop has ended.

```promql
";

/// The share of `closed` among the flows that were let out and that no operator has ended.
fn success_query() -> String {
    let counts = |outcome: &Outcome| match outcome.phase() {
        FlowPhase::Early | FlowPhase::Denied => false,
        FlowPhase::Dial | FlowPhase::Relayed => !matches!(outcome, Outcome::Drained | Outcome::PolicyRevoked),
    };
    let counted: Vec<_> =
        Outcome::ALL.iter().filter(|outcome| counts(outcome)).map(|outcome| outcome.as_str()).collect();
    format!(
        "sum(rate(egret_flows_total{{outcome=\"closed\"}}[5m]))\n  / sum(rate(egret_flows_total{{outcome=~\"{}\"}}[5m]))\n",
        counted.join("|")
    )
}

/// docs/outcomes.md: for each outcome what it means, who caused it and what to do.
pub fn reference() -> String {
    let mut text = INTRO.to_owned();
    for phase in [FlowPhase::Early, FlowPhase::Denied, FlowPhase::Dial, FlowPhase::Relayed] {
        let rows = Outcome::ALL.iter().filter(|outcome| outcome.phase() == phase).map(|outcome| {
            let (meaning, remedy) = (outcome.meaning(), outcome.remedy());
            let more = if *outcome == Outcome::Closed { " *What counts as closed* is below." } else { "" };
            format!("| `{outcome}` | {} | {meaning}{more} | {remedy} |\n", outcome.cause().as_str())
        });
        let heading = format!("\n## {}\n\n", phase.as_str());
        text.push_str(&heading);
        text.push_str("| outcome | cause | meaning | what to do |\n|---|---|---|---|\n");
        text.extend(rows);
    }
    text + CLOSED + &success_query() + "```\n"
}

outcomes! {
    Closed = "closed", Client, Relayed: "The answer was delivered in full, and the connection ended: by both sides' FIN, or by a reset after it."
        => "Nothing: this is how a flow should end.";
    ClientReset = "client_reset", Client, Relayed: "The client reset the connection, or closed it, before its answer was delivered in full; the server was reset."
        => "Usual for clients that time out or are killed. Many at one destination: compare `duration_ms` with the client's own time-out.";
    UpstreamReset = "upstream_reset", Upstream, Relayed: "The server, or something on the way to it, reset the connection before its answer was delivered, or finished in the middle of it (HTTP/1); the end was passed on to the client."
        => "Look at the server's log at that time, and for a middlebox with a shorter idle time-out than the client's.";
    ClientLost = "client_lost", Client, Relayed: "The client stopped answering: keepalive or unacknowledged data timed out, maybe after an ICMP error, or its network is unreachable."
        => "The client's host went away without closing. Look at its instance and the route back to it.";
    UpstreamLost = "upstream_lost", Upstream, Relayed: "The server stopped answering: keepalive or unacknowledged data timed out, maybe after an ICMP error, or its network became unreachable."
        => "Look at the server and the path to it; something may drop its packets silently.";
    IdleTimeout = "idle_timeout", Policy, Relayed: "No byte moved either way for the operator's `idle_timeout`; both ends were reset."
        => "Raise `[gateway] idle_timeout`, or turn it off: keepalive alone finds dead peers.";
    HalfOpenTimeout = "half_open_timeout", Policy, Relayed: "One side had finished, or had to wait for an answer, and no byte came from the other for `half_open_timeout`; both ends were reset."
        => "Raise `[gateway] half_open_timeout` if a protocol really answers that long after the request's end.";
    Drained = "drained", Gateway, Relayed: "The gateway was stopping and the flow outlived the `drain` period; both ends were reset."
        => "Raise `[gateway] drain`, or stop the gateway when traffic is low.";
    PolicyRevoked = "policy_revoked", Policy, Relayed: "The configuration was exchanged, and the new one does not allow the flow any more, or gives its client to another tenant; both ends were reset."
        => "`rule` is the one that had allowed it, `detail` what stands against it now: the outcome of a new flow, or what was found of its address or server. `egret explain` says what the new rules say. The audit log has who changed them. If live flows are to go on, set `[policy] on_reload = \"keep\"`.";
    RelayFailed = "relay_failed", Gateway, Relayed: "The kernel refused to move bytes for a reason that neither end gave (no memory, no descriptors)."
        => "See the gateway's log for the errno; run `egret doctor`.";
    ClientLeft = "client_left", Client, Early: "The client closed or reset the connection before it had said what it wants, or before the upstream answered."
        => "Health checks and port scans do this. From real clients: their connect time-out is shorter than the server needs.";
    InternalError = "internal_error", Gateway, Early: "A bug: the flow's task ended without an outcome. The flow was reset."
        => "Please report it with the gateway's log.";
    UnknownTenant = "unknown_tenant", Policy, Denied: "No tenant's `sources` contain the client's address."
        => "Add the client's network to a tenant, or do not steer it here.";
    DestinationLocal = "destination_local", Client, Denied: "The client dialled the gateway's own address (its interfaces', its pools', its local routes', loopback) or came from one, which would loop; or it dialled a broadcast, multicast or anycast address."
        => "Clients must dial real destinations. Packet rules do not intercept packets to most such addresses: look for a client that dials the listener's port itself, or, under `destination = \"resolve\"`, for DNS that leads there. If this is a health check, point it at the metrics listener.";
    DestinationPrivate = "destination_private", Policy, Denied: "A rule allows the name, but the address dialled is private, link-local or a metadata service."
        => "If the address is meant to be reached, allow it by a CIDR rule; or set `[policy] private_destinations = \"allow\"` (private ranges only).";
    DestinationMismatch = "destination_mismatch", Client, Denied: "The rule verifies addresses, and the one dialled is none of the name's (`destination = \"verify\"`)."
        => "Either the client lies about the name, or it gets other answers than Egret: `egret names NAME` shows what Egret knows. Ask the same DNS servers as the clients (`[resolver] servers`), or use `destination = \"resolve\"`. docs/verify.md";
    NameUnresolved = "name_unresolved", Policy, Denied: "The rule has Egret resolve names, and DNS says that this one has no address that the pool can reach (`destination = \"resolve\"`)."
        => "Ask the servers of `[resolver]` for the name (`dig @SERVER NAME`); a pool without IPv6 addresses needs names with IPv4 ones.";
    ResolverUnavailable = "resolver_unavailable", Gateway, Denied: "The rule needs the name's addresses, no DNS server said what they are, and none is known from before."
        => "`detail` says why. Look at `egret_resolver_lookups_total` and at the servers of `[resolver]`; runbook EgretResolverUnavailable.";
    CertificateInvalid = "certificate_invalid", Upstream, Denied: "The rule requires a certificate for the name, and the server at the address has none that is valid (`certificate = \"require\"`)."
        => "`detail` says why. Either the client claims a name that is not the server's, or the authority is not trusted: `[certificates] roots`. `openssl s_client -connect ADDRESS:PORT -servername NAME` shows the certificate.";
    CertificateUnavailable = "certificate_unavailable", Upstream, Denied: "The rule requires a certificate for the name, and the server could not be asked for one (`certificate = \"require\"`)."
        => "`detail` says why: the server does not answer or speaks no TLS, Egret cannot ask such a server though clients may (`certificate_check` is `unsupported`; docs/verify.md lists them: use `destination = \"resolve\"` or `cidrs` there instead), the client speaks no TLS, or too many servers were being asked.";
    InspectTimeout = "inspect_timeout", Client, Denied: "The client did not send a whole ClientHello or HTTP request head within `[inspect] deadline`."
        => "If the server speaks first on this port, allow it by a CIDR rule with `inspect = \"none\"`.";
    HelloTooLarge = "hello_too_large", Client, Denied: "The ClientHello or HTTP request head is larger than `[inspect] max_hello`."
        => "Raise `[inspect] max_hello` if the client is yours; a hello of more than 16 KiB is unusual.";
    InspectionBusy = "inspection_busy", Policy, Denied: "The tenant has `[inspect] max_pending` connections in inspection already; those in the middle of a later request head, or of a second hello, count."
        => "A client opens connections, or begins requests, and sends nothing more: find it by client address. Raise `[inspect] max_pending` if the load is real.";
    MalformedTls = "malformed_tls", Client, Denied: "The bytes start like TLS and are not a valid ClientHello."
        => "Capture the first packets. Something is broken, or tries to slip by.";
    MalformedHttp = "malformed_http", Client, Denied: "The bytes start like an HTTP request and are not a valid or unambiguous request head; or a later request of the connection is not, or ends in more than one place."
        => "`detail` says what is wrong; docs/inspection.md, what is refused and why. Capture the request. For clients that cannot be mended there is `http = \"first-request\"`.";
    HelloChanged = "hello_changed", Client, Denied: "The client sent a second ClientHello (after a HelloRetryRequest) that asks for another name than the first; both ends were reset."
        => "No TLS library does this. Find out what runs there: it tries to slip by.";
    EchDenied = "ech_denied", Policy, Denied: "The ClientHello offers to be an encrypted one (ECH), and the tenant's `ech` is `\"deny\"`."
        => "Turn ECH off in the client (browsers send it, or GREASE that looks like it, with every hello), or set `ech = \"outer\"` for the tenant.";
    InvalidHostname = "invalid_hostname", Client, Denied: "The SNI or Host is there and is not a hostname."
        => "The client uses an IP address, an empty label or a forbidden character as a name. Allow the address by CIDR if it is meant.";
    NoHostname = "no_hostname", Policy, Denied: "The client sent no SNI or Host, or speaks neither TLS nor HTTP, and no CIDR rule allows the address."
        => "Have the client send a name, or allow the destination by CIDR.";
    UnknownProtocol = "unknown_protocol", Policy, Denied: "The client speaks neither TLS nor HTTP as far as Egret can tell, and a deny rule by name covers address and port, or the tenant's `ech` is `\"deny\"`: what it asks for may be what is denied."
        => "If the protocol is meant to pass, set `other_protocols = \"allow\"` on the allow rule (or `inspect = \"none\"`, which lets TLS and HTTP through unjudged as well), or give the deny rule `ports`. Otherwise something tries to slip by: capture the first packets.";
    DeniedByRule = "denied_by_rule", Policy, Denied: "A deny rule names this destination."
        => "If it should leave, remove that rule, or make it narrower: docs/policy.md.";
    NotAllowed = "not_allowed", Policy, Denied: "No allow rule covers this name, address and port."
        => "If it should leave, add an allow rule: `egret allow FLOW` writes it for a denied flow, by its ID.";
    TenantFlowLimit = "tenant_flow_limit", Policy, Denied: "The tenant has as many flows as its `limits.flows` allows; or the gateway is nearly full, and the tenant has more than an equal part of it."
        => "Find the client that leaks connections, or raise the limit: `limits.flows`; or LimitNOFILE of the service, if `detail` says that the gateway is nearly full.";
    GatewayFull = "gateway_full", Gateway, Denied: "The gateway has as many flows as its file descriptors allow, or the kernel had no room for one more; the client was reset."
        => "Raise LimitNOFILE of the service, or add a gateway. If `detail` says what else there is none of, see the gateway's log for the errno.";
    NoSourceAddress = "no_source_address", Policy, Denied: "The tenant's pool has no address of the destination's family that gives out ports: none at all, or all are draining or withdrawn."
        => "Add an IPv4 or IPv6 address to the pool, or take the drain back; an address is withdrawn while the host does not have it.";
    TenantPortCeiling = "tenant_port_ceiling", Policy, Denied: "The tenant has as many ports towards this destination as its `ports_ceiling` allows; or it has its own `ports_floor`, and the free ports are kept for the floors of other tenants of the pool."
        => "`detail` says which. Find who of the tenant holds the ports; raise its ceiling or floor, or add addresses to the pool.";
    PortsExhausted = "ports_exhausted", Policy, Denied: "Every port of every address of the pool is in use towards this destination."
        => "Add addresses to the pool, or find who holds the ports.";
    UpstreamRefused = "upstream_refused", Upstream, Dial: "The server refused the connection; the client was reset at once."
        => "Nothing listens there, or its firewall rejects the source address: see `source` in the flow log.";
    UpstreamUnreachable = "upstream_unreachable", Upstream, Dial: "The network says that the server cannot be reached; the client was reset at once."
        => "Look at the gateway's routes and the network between (`ip route get DESTINATION from SOURCE`).";
    ConnectTimeout = "connect_timeout", Upstream, Dial: "The server did not answer within `[gateway] connect_timeout`; the client was reset."
        => "A firewall drops the packets, or the way back to the source address is missing.";
    DialFailed = "dial_failed", Gateway, Dial: "The gateway's own machine did not let the connection out: no socket could be had or bound, or one of its routes or `ip rule` entries refuses the server."
        => "`detail` and the gateway's log say why. Run `egret doctor`: are the pool's addresses local? Where a route refuses it: `ip route get DESTINATION from SOURCE`, `ip rule`.";
}

impl Outcome {
    /// Returns the outcome with this identifier.
    pub fn named(word: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|outcome| outcome.as_str() == word)
    }

    /// True if the flow was refused.
    pub fn is_denial(self) -> bool {
        self.phase() == FlowPhase::Denied
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl Serialize for Outcome {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn outcome_words_and_indices_are_unique() {
        let mut words: Vec<_> = Outcome::ALL.iter().map(|o| o.as_str()).collect();
        words.sort_unstable();
        words.dedup();
        assert_eq!(words.len(), Outcome::ALL.len());
        assert_eq!(Outcome::named("open"), None);
        for (index, outcome) in Outcome::ALL.iter().enumerate() {
            assert_eq!(*outcome as usize, index);
            assert_eq!(Outcome::named(outcome.as_str()), Some(*outcome));
        }
    }

    #[test]
    fn outcome_reference_is_complete() {
        let text = reference();
        for outcome in Outcome::ALL {
            assert_eq!(text.matches(&format!("\n| `{outcome}` |")).count(), 1, "{outcome}");
            assert!(text.contains(outcome.remedy()), "{outcome}");
            // Commands print both, so neither may refer to the page.
            for text in [outcome.meaning(), outcome.remedy()] {
                assert!(!text.contains(['|', '*']) && !text.contains("is below"), "{outcome}: {text}");
            }
        }
    }
}
