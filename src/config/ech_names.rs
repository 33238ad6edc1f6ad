//! Allow rules for the names behind which encrypted ClientHellos hide.

use super::diagnostic::Diagnostics;
use super::tenants::TenantDraft;
use crate::hostname::Hostname;
use crate::policy::{Ech, Effect};

/// Public names of client-facing servers (RFC 9849): what the SNI says where the name that is meant is encrypted. In their
/// order, as <https://developers.cloudflare.com/ssl/edge-certificates/ech/> says, docs/ECH.md of curl shows for defo.ie,
/// and the HTTPS record of tls-ech.dev has (a copy is in mitmproxy, test/mitmproxy/contentviews/test__view_dns.py).
const PUBLIC_NAMES: [&str; 3] = ["cloudflare-ech.com", "cover.defo.ie", "public.tls-ech.dev"];

/// Warns of rules that let a tenant reach every site behind such a server.
pub(super) fn check(tenant: &TenantDraft, out: &mut Diagnostics) {
    if tenant.spec.ech == Ech::Deny {
        return;
    }
    let names: Vec<Hostname> = PUBLIC_NAMES.iter().filter_map(|name| name.parse().ok()).collect();
    let rules = tenant.spec.rules.iter().zip(&tenant.rules_at);
    for (rule, at) in rules.filter(|(rule, _)| rule.effect == Effect::Allow) {
        for name in names.iter().filter(|name| rule.hosts.iter().any(|pattern| pattern.matches(name))) {
            let message =
                format!("`hosts`: {name} is what the SNI says of every site whose name ECH encrypts there");
            let help = "remove it, or set `ech = \"deny\"`: the sites behind it cannot be told apart";
            out.warning(at.hosts, message, help);
        }
    }
}
