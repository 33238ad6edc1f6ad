//! Warnings for allow rules that match the public names of encrypted ClientHellos.

use super::diagnostic::Diagnostics;
use super::tenants::TenantDraft;
use crate::hostname::Hostname;
use crate::policy::{EchPolicy, RuleEffect};

/// Public names of client-facing servers (RFC 9849): the SNI when the real name is encrypted. Their sources, in order:
/// <https://developers.cloudflare.com/ssl/edge-certificates/ech/>, curl's page on ECH for defo.ie, and the HTTPS
/// record of tls-ech.dev (a copy is in mitmproxy, test/mitmproxy/contentviews/test__view_dns.py).
const PUBLIC_NAMES: [&str; 3] = ["cloudflare-ech.com", "cover.defo.ie", "public.tls-ech.dev"];

/// Warns of rules that give a tenant access to every site behind such a server.
pub(super) fn check(tenant: &TenantDraft, out: &mut Diagnostics) {
    if tenant.spec.ech == EchPolicy::Deny {
        return;
    }
    let names: Vec<Hostname> = PUBLIC_NAMES.iter().filter_map(|name| name.parse().ok()).collect();
    let rules = tenant.spec.rules.iter().zip(&tenant.rules_at);
    for (rule, at) in rules.filter(|(rule, _)| rule.effect == RuleEffect::Allow) {
        for name in names.iter().filter(|name| rule.hosts.iter().any(|pattern| pattern.matches(name))) {
            let message =
                format!("`hosts`: {name} is what the SNI says of every site whose name ECH encrypts there");
            let help = "remove it, or set `ech = \"deny\"`: the sites behind it cannot be told apart";
            out.warning(at.hosts, message, help);
        }
    }
}
