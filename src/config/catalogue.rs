//! Definition of every table and key of the configuration. The reader takes its keys and defaults only from here, and
//! docs/config.md is generated from here.

use super::UdpSetting;
use super::host_type::HostType;
use super::moment::MomentType;
use super::network_types::{
    DnsServerType, InterfaceType, LineType, ListenAddressType, NameType, NetworkType, OwnedNetworkType,
    PortType, RoutingTableType,
};
use super::path_types::{
    AuditTargetType, ControlSocketType, FileNameType, LogTargetType, RequestFileType, WordOrFileType,
};
use super::schema::KeyPresence::{Default, Optional, Required};
use super::schema::{ConfigKey, ConfigSection};
use super::source_types::{MappedSourceType, SourceType};
use super::value_types::{
    ChoiceType, CountType, EitherType, FlagType, ListType, NestedType, SizeType, SpanType, UnsupportedType,
    seconds, span,
};
use crate::egress::SourceSelection;
use crate::policy::{CertificateRule, DestinationRule, EchPolicy, PrivateDestinations, TenantMode};
use crate::verify::{TrustedRoots, ZoneKey};
use rustls::pki_types::CertificateDer;

macro_rules! section {
    ($module:ident, $header:literal, $about:literal, elsewhere $elsewhere:expr;
     $($key:ident: $kind:ty = $value:expr, $name:literal, $presence:expr, $example:literal, $doc:literal;)+) => {
        pub(super) mod $module {
            use super::*;
            $(pub(in crate::config) static $key: ConfigKey<$kind> =
                ConfigKey { name: $name, kind: $value, presence: $presence, example: $example, about: $doc };)+
            pub(in crate::config) static SECTION: ConfigSection =
                ConfigSection { header: $header, about: $about, keys: &[$(&$key),+], elsewhere: $elsewhere };
        }
    };
}

/// All sections, in the order of the reference.
pub(super) static ALL: [&ConfigSection; 14] = [
    &gateway::SECTION,
    &keepalive::SECTION,
    &steering::SECTION,
    &inspect::SECTION,
    &policy::SECTION,
    &resolver::SECTION,
    &certificates::SECTION,
    &flow_log::SECTION,
    &audit::SECTION,
    &pool::SECTION,
    &tenant::SECTION,
    &limits::SECTION,
    &allow::SECTION,
    &deny::SECTION,
];

section! { main_file, "the main file", "", elsewhere |_| None;
    GATEWAY: NestedType = NestedType(&gateway::SECTION), "gateway", Optional, "", "";
    STEERING: NestedType = NestedType(&steering::SECTION), "steering", Optional, "", "";
    INSPECT: NestedType = NestedType(&inspect::SECTION), "inspect", Optional, "", "";
    POLICY: NestedType = NestedType(&policy::SECTION), "policy", Optional, "", "";
    RESOLVER: NestedType = NestedType(&resolver::SECTION), "resolver", Optional, "", "";
    FLOW_LOG: NestedType = NestedType(&flow_log::SECTION), "flow_log", Optional, "", "";
    CERTIFICATES: NestedType = NestedType(&certificates::SECTION), "certificates", Optional, "", "";
    AUDIT: NestedType = NestedType(&audit::SECTION), "audit", Optional, "", "";
    POOL: NestedType = NestedType(&pool::SECTION), "pool", Optional, "", "";
    TENANT: NestedType = NestedType(&tenant::SECTION), "tenant", Optional, "", "";
}

section! { policy_file, "a file of policy.d", "",
    elsewhere |key| matches!(key, "gateway" | "steering" | "inspect" | "policy" | "resolver" | "certificates" | "flow_log" | "audit")
        .then_some("it belongs in the main file; files of policy.d hold [[tenant]] and [[pool]] alone");
    POOL: NestedType = NestedType(&pool::SECTION), "pool", Optional, "", "";
    TENANT: NestedType = NestedType(&tenant::SECTION), "tenant", Optional, "", "";
}

section! { gateway, "[gateway]", "The daemon: its listeners, workers and time-outs.", elsewhere |_| None;
    LISTEN: ListenAddressType = ListenAddressType, "listen", Default(r#""[::]:15001""#), r#""[::]:15001""#,
        "The transparent listener, one socket per worker. The address is a wildcard, since clients dial any address: `[::]` takes IPv4 and IPv6, `0.0.0.0` IPv4 alone. Pools never hand out this port.";
    WORKERS: EitherType<CountType> = EitherType("auto", CountType { min: 1, max: 1024 }), "workers", Default(r#""auto""#), "4",
        "Threads that carry flows. `\"auto\"` is one per core.";
    METRICS: EitherType<ListenAddressType> = EitherType("off", ListenAddressType), "metrics", Default(r#""127.0.0.1:9915""#), r#""127.0.0.1:9915""#,
        "Where `/metrics`, `/healthz` and `/readyz` are served. Pools never hand out this port. A listener that cannot be opened is logged and tried again each second; the gateway goes on without it.";
    ADMIN: EitherType<ControlSocketType> = EitherType("off", ControlSocketType), "admin", Default(r#""unix:/run/egret/admin.sock""#), r#""unix:/run/egret/admin.sock""#,
        "The control socket, by which `egret ports`, `names`, `reload`, `candidate`, `trace`, `doctor` and `explain --live` reach the gateway. Its user and group may connect (mode 0660); what changes the gateway takes root, or the gateway's own user or group. A socket that cannot be opened is logged and tried again each second; the gateway goes on without it.";
    DRAIN: SpanType = span(0, 3_600_000), "drain", Default(r#""30s""#), r#""30s""#,
        "How long flows may go on after the order to stop. Those that are left are reset at both ends. New connections are not answered from the order on until the gateway has started again: set it shorter where clients cannot wait for that at a restart. The unit's `TimeoutStopSec` (90 s) has to be longer, or systemd kills the gateway before: `systemctl edit egret` sets it, and `egret doctor` warns.";
    CONNECT_TIMEOUT: SpanType = span(100, 300_000), "connect_timeout", Default(r#""10s""#), r#""10s""#,
        "How long a server may take to answer a connection request.";
    IDLE_TIMEOUT: EitherType<SpanType> = EitherType("off", span(1000, 30 * 86_400_000)), "idle_timeout", Default(r#""off""#), r#""4h""#,
        "Resets flows on which no byte has moved for so long. `\"off\"`: they live as long as keepalive finds both ends alive.";
    HALF_OPEN_TIMEOUT: SpanType = span(1000, 30 * 86_400_000), "half_open_timeout", Default(r#""1h""#), r#""1h""#,
        "Resets flows whose one side has finished and whose other side has sent nothing for so long.";
    KEEPALIVE: NestedType = NestedType(&keepalive::SECTION), "keepalive", Optional, r#"{ idle = "60s", interval = "15s", probes = 4 }"#,
        "TCP keepalive towards client and server: see `[gateway.keepalive]`.";
    USER_TIMEOUT: EitherType<SpanType> = EitherType("off", span(1000, 3_600_000)), "user_timeout", Default(r#""off""#), r#""5m""#,
        "How long sent bytes may stay unacknowledged, or a reader's window closed, until the peer counts as lost (`TCP_USER_TIMEOUT`). It ends flows whose reader is merely slow, and overrules `keepalive.probes`, so it should not be shorter than `idle + interval × probes`. `\"off\"`: unacknowledged bytes are given up after some 15 minutes (`tcp_retries2`), and slow readers never.";
    DSCP: ChoiceType<bool> = ChoiceType { words: &[("keep", true), ("clear", false)], later: &[] }, "dscp", Default(r#""keep""#), r#""clear""#,
        "The class (DSCP) of the packets of both legs. `\"keep\"`: that of the client's SYN, as without a gateway; the server's own marks end at Egret, and what a client changes later is not followed. `\"clear\"`: none. Choose that where a network beyond the gateway gives precedence by DSCP, and clients are not to claim it.";
    MAX_FLOWS: EitherType<CountType> = EitherType("auto", CountType { min: 1, max: 10_000_000 }), "max_flows", Default(r#""auto""#), "100000",
        "Flows at once; further ones end as `gateway_full`. `\"auto\"` is what the limit on file descriptors allows.";
}

section! { keepalive, "[gateway.keepalive]", "TCP keepalive on both legs of every flow: a peer that is gone without a word is found after `idle + interval × probes`.", elsewhere |_| None;
    IDLE: SpanType = seconds(1, 32_767), "idle", Default(r#""60s""#), r#""60s""#,
        "Silence before the first probe. Shorter than the idle time-out of every firewall on the way.";
    INTERVAL: SpanType = seconds(1, 32_767), "interval", Default(r#""15s""#), r#""15s""#,
        "Time between probes.";
    PROBES: CountType = CountType { min: 1, max: 127 }, "probes", Default("4"), "4",
        "Unanswered probes until the peer counts as lost.";
}

section! { steering, "[steering]", "The packet rules that bring traffic to the listener; `egret steering print` renders them.", elsewhere |_| None;
    INTERFACES: ListType<InterfaceType> = ListType(InterfaceType), "interfaces", Required, r#"["ens6"]"#,
        "Where tenants' packets come in, by name or by how names begin: `\"veth*\"` covers interfaces that come later, too.";
    PORTS: EitherType<ListType<PortType>> = EitherType("all", ListType(PortType)), "ports", Default("[80, 443]"), r#"[80, 443, "8000-8100"]"#,
        "TCP destination ports that are intercepted.";
    UDP: ChoiceType<UdpSetting> = ChoiceType { words: &[("reject", UdpSetting::Reject), ("drop", UdpSetting::Drop)], later: &["nat"] }, "udp", Default(r#""reject""#), r#""reject""#,
        "What happens to UDP towards the same ports. Rejected QUIC falls back to TCP at once, dropped QUIC after a time-out.";
    MARK: CountType = CountType { min: 1, max: u32::MAX }, "mark", Default("1"), "1",
        "The firewall mark of intercepted packets. Change it if something else on the host uses it.";
    TABLE: RoutingTableType = RoutingTableType, "table", Default("100"), "100",
        "The routing table that delivers marked packets to the listener. Change it if something else on the host uses it.";
    WATCH: FlagType = FlagType, "watch", Default("true"), "true",
        "Whether the gateway watches its packet rules, routes and interfaces. While something is missing `/readyz` answers 503, `egret_steering_intact` is 0, and repair is asked for. `false` is for those who bring traffic here by rules of their own.";
    REPAIR: EitherType<RequestFileType> = EitherType("off", RequestFileType), "repair", Default(r#""/run/egret/repair-steering""#), r#""/run/egret/repair-steering""#,
        "The file that the gateway makes when steering has to be put in place (again). `egret-steering-heal.path` waits for the default one, and restarts `egret-steering`. The gateway has no right to do that itself.";
}

section! { inspect, "[inspect]", "Bounds on finding out which name a client asks for.", elsewhere |_| None;
    DEADLINE: SpanType = span(100, 60_000), "deadline", Default(r#""5s""#), r#""5s""#,
        "From the connection to a whole ClientHello or HTTP request head; later is `inspect_timeout`.";
    MAX_HELLO: SizeType = SizeType { min: 1 << 10, max: 256 << 10 }, "max_hello", Default(r#""64KiB""#), r#""64KiB""#,
        "Bytes of a ClientHello or HTTP request head; more is `hello_too_large`.";
    MAX_PENDING: CountType = CountType { min: 1, max: 1_000_000 }, "max_pending", Default("4096"), "4096",
        "Connections of one tenant in inspection at once, those in the middle of a later request head included; further ones end as `inspection_busy`.";
}

section! { policy, "[policy]", "What holds for the rules of all tenants.", elsewhere |_| None;
    PRIVATE_DESTINATIONS: ChoiceType<PrivateDestinations> = ChoiceType { words: &[("by-cidr", PrivateDestinations::ByCidr), ("allow", PrivateDestinations::Allow)], later: &[] },
        "private_destinations", Default(r#""by-cidr""#), r#""by-cidr""#,
        "Whether a rule without `cidrs` reaches private addresses. `\"by-cidr\"` means no, so that nobody gets to internal services by pointing a name at them. Loopback, link-local, metadata and multicast addresses are never reached by name.";
    PRIVATE_NETWORKS: ListType<NetworkType> = ListType(NetworkType), "private_networks", Optional, r#"["2001:db8:40::/48", "198.51.100.0/24"]"#,
        "Networks with public addresses that are your own, and count as private: by name they are reached under `private_destinations = \"allow\"` alone. Tenants' `sources`, the pools' `public` addresses and the networks of the gateway's own links count without being listed; list what lies behind a router, and public addresses that a cloud maps to hosts of yours.";
    ECH: ChoiceType<EchPolicy> = ECH_WORDS, "ech", Default(r#""outer""#), r#""outer""#,
        "What becomes of clients whose ClientHello carries an `encrypted_client_hello` extension. `\"outer\"`: they are judged by the name outside it, which with real ECH is that of the provider, not of the site. `\"deny\"`: they end as `ech_denied`, browsers too, since GREASE cannot be told from the real thing; and rules by address let out TLS and HTTP alone, unless they have `other_protocols = \"allow\"`.";
    ON_RELOAD: ChoiceType<bool> = ChoiceType { words: &[("revoke", true), ("keep", false)], later: &[] }, "on_reload", Default(r#""revoke""#), r#""keep""#,
        "What becomes of live flows when another configuration comes into force. `\"revoke\"`: each is judged again by what it was let out for, and reset (`policy_revoked`) if it would not be now; a permission that is taken back ends with the reload, not with the last connection that had it. `\"keep\"`: they go on until they end.";
    WATCH: FlagType = FlagType, "watch", Default("false"), "true",
        "Whether a change of the files is a reload by itself: of the main file, of `policy.d/` and of every hosts file. They are looked at each second, and read when they have rested for one. Replace files by renaming (as editors do), so that no half-written one is read.";
    HELP: LineType = LineType, "help", Optional, r#""ask #net-egress in the chat""#,
        "Where people who are denied find help. It is shown in the body of HTTP refusals, by `egret explain` and by `egret why`. Whoever can reach Egret can read it.";
}

/// Values of `ech`, of the policy and of a tenant.
const ECH_WORDS: ChoiceType<EchPolicy> =
    ChoiceType { words: &[("outer", EchPolicy::Outer), ("deny", EchPolicy::Deny)], later: &[] };

section! { resolver, "[resolver]", "Who is asked for the addresses of names, by rules whose `destination` is not `\"original\"`. Without such a rule nobody is. A change takes effect at a reload, and forgets what was known.", elsewhere |_| None;
    SERVERS: EitherType<ListType<DnsServerType>> = EitherType("system", ListType(DnsServerType)), "servers", Default(r#""system""#), r#"["10.0.0.2", "[2001:db8::53]:5353"]"#,
        "The DNS servers, port 53 unless given; at most eight. All of them are asked at once and their answers add up: name those that the clients ask. They are reached from the gateway's own address, over UDP, and TCP for long answers. `\"system\"` is those of `/etc/resolv.conf` as it is at the start or reload.";
    GRACE: SpanType = span(0, 7 * 86_400_000), "grace", Default(r#""1h""#), r#""6h""#,
        "How long an address counts as the name's after the TTL of the last answer that named it. Content networks rotate their addresses, and clients keep them longer than they should. The same addresses serve while no server answers.";
    DNSSEC: ChoiceType<bool> = ChoiceType { words: &[("off", false), ("require", true)], later: &[] }, "dnssec", Default(r#""off""#), r#""require""#,
        "`\"require\"`: Egret validates every answer itself, from the root's keys on, and takes what is neither signed nor provably unsigned for no answer. The servers must pass signatures on.";
    TRUST_ANCHORS: ListType<WordOrFileType<ZoneKey>> = ListType(WordOrFileType { word: "root", file: "file of DNSKEY records", read: ZoneKey::parse }), "trust_anchors", Default(r#"["root"]"#), r#"["root"]"#,
        "The keys from which on `dnssec = \"require\"` believes signatures: `\"root\"` is those of the DNS root, which Egret carries; a path is a file of DNSKEY records as `dig +noall +answer DNSKEY ZONE` prints them, for private zones. Name every key of such a zone; below it everything must be signed. Without `\"root\"` public names are no longer validated, and so count as not answered.";
}

section! { certificates, "[certificates]", "Whose word counts for rules that ask for certificates. A change takes effect at a reload, and forgets what was known.", elsewhere |_| None;
    ROOTS: ListType<WordOrFileType<CertificateDer<'static>>> = ListType(WordOrFileType { word: "system", file: "PEM file", read: TrustedRoots::parse }), "roots", Default(r#"["system"]"#), r#"["system"]"#,
        "The authorities that are trusted: `\"system\"` is those of the machine, as they are at the start or reload; a path is a PEM file of one or more.";
}

section! { flow_log, "[flow_log]", "One JSON line per flow.", elsewhere |_| None;
    PATH: LogTargetType = LogTargetType, "path", Default(r#""stdout""#), r#""/var/log/egret/flows.jsonl""#,
        "Where lines go. A file is appended to, and opened anew on SIGUSR1 and SIGHUP. One that cannot be opened is tried again; the gateway goes on without.";
    QUEUE: CountType = CountType { min: 16, max: 16_777_216 }, "queue", Default("16384"), "16384",
        "Lines that wait to be written. When it is full, lines are dropped and counted; flows never wait. The default bridges a disk that stalls for a second at sixteen thousand flows a second, in some 8 MiB.";
}

section! { audit, "[audit]", "One JSON line for each change of the gateway: reloads, drains, whatever the control socket is asked to change, and for each trace.", elsewhere |_| None;
    PATH: AuditTargetType = AuditTargetType, "path", Default(r#""stderr""#), r#""/var/log/egret/audit.jsonl""#,
        "Where lines go. `\"stderr\"` is beside the gateway's messages: under systemd, the journal. A file is appended to, and opened anew on SIGUSR1 and SIGHUP. docs/audit.md explains the lines.";
}

section! { pool, "[[pool]]", "Source addresses that flows leave from. No two pools overlap.", elsewhere |_| None;
    NAME: NameType = NameType, "name", Required, r#""acme""#,
        "Unique; a metric label.";
    ADDRESSES: ListType<OwnedNetworkType> = ListType(OwnedNetworkType), "addresses", Required, r#"["203.0.113.16/30", "2001:db8:100::/64"]"#,
        "Every address of a network is used, the first and last too. Without an IPv6 address the pool's tenants cannot reach IPv6 destinations, and the like for IPv4.";
    PORTS: PortType = PortType, "ports", Default(r#""1024-65535""#), r#""1024-65535""#,
        "One range of source ports. The gateway's own ports and those below 1024, which are privileged, are left out of it.";
    SELECT: ChoiceType<SourceSelection> = ChoiceType { words: &[("paired", SourceSelection::Paired), ("least-used", SourceSelection::LeastUsed)], later: &[] }, "select", Default(r#""paired""#), r#""paired""#,
        "`\"paired\"`: a client keeps one address. `\"least-used\"`: the address with the fewest ports in use towards the destination. Either goes on to another address of the pool when one is full.";
    REST: SpanType = span(0, 600_000), "rest", Default(r#""0s""#), r#""1s""#,
        "How long a port that was connected is left alone at least, towards the same destination. Linux would give most back at once; NAT devices and firewalls on the way may need longer to forget the connection before.";
    DRAIN: ListType<SourceType> = ListType(SourceType), "drain", Optional, r#"["203.0.113.17"]"#,
        "Addresses of the pool that take no new flows; those that they have go on until they end. Not for addresses of IPv6 networks wider than /120 and IPv4 networks wider than /20, which are chosen per client.";
    PUBLIC: MappedSourceType = MappedSourceType, "public", Optional, r#"{ "203.0.113.18" = "198.51.100.18" }"#,
        "Which public address the network outside maps a source address to, one to one, as clouds do. Noted in the flow log and by `egret explain`; it changes nothing else.";
}

section! { tenant, "[[tenant]]", "Who may reach what, and from where. A client belongs to the tenant with the longest prefix that holds its address.", elsewhere |_| None;
    NAME: NameType = NameType, "name", Required, r#""acme""#,
        "Unique; a metric label.";
    SOURCES: ListType<OwnedNetworkType> = ListType(OwnedNetworkType), "sources", Required, r#"["10.0.1.0/24", "10.0.2.7"]"#,
        "The clients' networks. Two tenants cannot have the same one.";
    POOL: NameType = NameType, "pool", Required, r#""acme""#,
        "The pool that its flows leave from.";
    PORTS_FLOOR: CountType = CountType { min: 1, max: 10_000_000 }, "ports_floor", Optional, "2000",
        "Source ports towards each destination that the other tenants of the pool leave to this one, whether it uses them or not. What all tenants of a pool are assured of must fit its addresses, of each family.";
    PORTS_CEILING: CountType = CountType { min: 1, max: 10_000_000 }, "ports_ceiling", Optional, "20000",
        "Source ports towards each destination that it has at most, over all addresses of the pool; further flows end as `tenant_port_ceiling`. Ports that rest after their flow count.";
    MODE: ChoiceType<TenantMode> = ChoiceType { words: &[("enforce", TenantMode::Enforce), ("monitor", TenantMode::Monitor { until: None })], later: &[] }, "mode", Default(r#""enforce""#), r#""monitor""#,
        "`\"enforce\"`: what is not allowed is denied. `\"monitor\"`: what policy would deny leaves all the same, and is recorded as `would_deny`; docs/modes.md says what stays closed.";
    MONITOR_UNTIL: MomentType = MomentType, "monitor_until", Optional, r#""2026-12-31""#,
        "When a tenant in monitor mode begins to enforce, by itself and without a reload. A date is its beginning in UTC.";
    ECH: ChoiceType<EchPolicy> = ECH_WORDS, "ech", Optional, r#""deny""#,
        "As `ech` of `[policy]`, for this tenant.";
    LIMITS: NestedType = NestedType(&limits::SECTION), "limits", Optional, "{ flows = 20000 }",
        "Bounds on what it may use: see `[tenant.limits]`.";
    ALLOW: NestedType = NestedType(&allow::SECTION), "allow", Optional, r#"[{ hosts = ["example.com"] }]"#,
        "What may leave: see `[[tenant.allow]]`.";
    DENY: NestedType = NestedType(&deny::SECTION), "deny", Optional, "[{ ports = [25] }]",
        "What may not, whatever is allowed: see `[[tenant.deny]]`.";
}

section! { limits, "[tenant.limits]", "Bounds on what a tenant may use, so that one does not starve the others.", elsewhere |_| None;
    FLOWS: CountType = CountType { min: 1, max: 10_000_000 }, "flows", Optional, "20000",
        "Flows at once, those included that are being refused, and those whose last bytes are not acknowledged yet; further ones end as `tenant_flow_limit`. Whatever it says, the last eighth of `max_flows` is for tenants that have less than an equal part.";
    NEW_FLOWS: UnsupportedType = UnsupportedType("leave the key out"), "new_flows", Optional, r#""500/s""#, "New flows per second.";
    BANDWIDTH: UnsupportedType = UnsupportedType("leave the key out"), "bandwidth", Optional, r#""1Gbit/s""#, "Bits per second.";
    BYTES: UnsupportedType = UnsupportedType("leave the key out"), "bytes", Optional, r#""5TB/month""#, "Bytes per period.";
}

section! { allow, "[[tenant.allow]]", "One allow rule. It needs `hosts`, `hosts_file` or `cidrs`; a flow must be covered by every kind of key that is given: by one of the names, one of the networks and one of the ports.", elsewhere |_| None;
    NAME: NameType = NameType, "name", Optional, r#""payments""#,
        "How the flow log calls the rule. Without it, by `file:line`.";
    HOSTS: ListType<HostType> = ListType(HostType), "hosts", Optional, r#"["api.example.com", "*.example.net"]"#,
        "The names that the client may ask for. `*.example.net` is every subdomain at any depth, and not `example.net` itself.";
    HOSTS_FILE: FileNameType = FileNameType, "hosts_file", Optional, r#""allow/acme.txt""#,
        "A file with more names, one a line; `#` starts a comment.";
    CIDRS: ListType<NetworkType> = ListType(NetworkType), "cidrs", Optional, r#"["198.51.100.0/24"]"#,
        "The destinations that it may dial.";
    PORTS: ListType<PortType> = ListType(PortType), "ports", Optional, r#"[443, "8000-8100"]"#,
        "The destination ports. Without it, every port that is steered.";
    INSPECT: ChoiceType<bool> = ChoiceType { words: &[("auto", true), ("none", false)], later: &[] }, "inspect", Default(r#""auto""#), r#""none""#,
        "`\"none\"` lets flows through before the client has said anything, for servers that speak first. It needs `cidrs` and takes no names.";
    OTHER_PROTOCOLS: ChoiceType<bool> = ChoiceType { words: &[("auto", false), ("allow", true)], later: &[] }, "other_protocols", Default(r#""auto""#), r#""allow""#,
        "What becomes of clients that speak neither TLS nor HTTP. `\"auto\"`: they pass, except where a deny rule with names covers address and port, or `ech` is `\"deny\"`; there they end as `unknown_protocol`, since a server may read a name where Egret does not. `\"allow\"`: they pass there too, unjudged; TLS and HTTP are judged as before. It takes no names; docs/inspection.md.";
    DESTINATION: ChoiceType<DestinationRule> = ChoiceType { words: &[("original", DestinationRule::Original), ("observe", DestinationRule::Observe), ("verify", DestinationRule::Verify), ("resolve", DestinationRule::Resolve)], later: &[] },
        "destination", Default(r#""original""#), r#""verify""#,
        "Which address is dialled. `\"original\"`: the one that the client dialled. `\"observe\"`: the same, and the flow log and `egret_verify_total` say whether it is one of the name's. `\"verify\"`: only if it is, else `destination_mismatch`. `\"resolve\"`: one that Egret resolves the name to, whatever the client dialled. All but `\"original\"` need names, and ask the servers of `[resolver]`; docs/verify.md says what each promises.";
    HTTP: ChoiceType<bool> = ChoiceType { words: &[("every-request", false), ("first-request", true)], later: &[] }, "http", Default(r#""every-request""#), r#""first-request""#,
        "Which requests of an HTTP/1 connection are judged. `\"first-request\"` is for clients that do not keep to the framing that docs/inspection.md asks for: what follows their first request head is relayed unseen, requests for other names included.";
    CERTIFICATE: ChoiceType<CertificateRule> = ChoiceType { words: &[("off", CertificateRule::Unasked), ("observe", CertificateRule::Observe), ("require", CertificateRule::Require)], later: &[] },
        "certificate", Default(r#""off""#), r#""require""#,
        "Whether Egret asks the server itself for a certificate for the name, in a TLS handshake of its own from an address of the pool. `\"observe\"`: the flow log and `egret_certificate_checks_total` say what came of it. `\"require\"`: only flows whose server has a valid one leave, else `certificate_invalid` or `certificate_unavailable`; clients that do not speak TLS do not. It needs names; docs/verify.md.";
}

section! { deny, "[[tenant.deny]]", "One deny rule. It needs one key at least beside `name`; what is covered is as with `[[tenant.allow]]`.",
    elsewhere |key| matches!(key, "inspect" | "other_protocols" | "destination" | "certificate" | "http").then_some("deny rules only deny; the key belongs to [[tenant.allow]]");
    NAME: NameType = NameType, "name", Optional, r#""no-mail""#,
        "How the flow log calls the rule. Without it, by `file:line`.";
    HOSTS: ListType<HostType> = ListType(HostType), "hosts", Optional, r#"["admin.example.com"]"#,
        "The names that the client may not ask for.";
    HOSTS_FILE: FileNameType = FileNameType, "hosts_file", Optional, r#""deny/acme.txt""#,
        "A file with more names, one a line; `#` starts a comment.";
    CIDRS: ListType<NetworkType> = ListType(NetworkType), "cidrs", Optional, r#"["198.51.100.128/25"]"#,
        "The destinations that it may not dial.";
    PORTS: ListType<PortType> = ListType(PortType), "ports", Optional, "[25]",
        "The destination ports. Without it, every port.";
}
