//! A next hop that seems dead, because the packet filter takes its answers.

use super::counters::Counters;
use super::cure::Cure;
use super::evidence::{ConnectionEvidence, LossCause, LostPart};
use super::path;
use super::trace::Trace;
use std::net::IpAddr;

/// The place where the packet filter ends answers of the next hop towards an address. `None` if they arrive, do not come, or are of
/// ARP, which IP's packet filter does not see. The device of the cure is the route's.
pub(super) fn filtered(to: IpAddr, from: Option<IpAddr>, cure: &Cure<'_>) -> Option<LossCause> {
    let route = path::route(to, from).or_else(|_| path::route(to, None)).ok()?;
    let (hop, device) = (route.gateway.unwrap_or(to), &route.dev);
    if hop.is_ipv4() || !path::link(device).ok()?.is_ethernet() {
        return None;
    }
    let trace = Trace::start(
        &format!("ip6 saddr {hop} icmpv6 type nd-neighbor-advert"),
        &format!("ip6 daddr {hop} icmpv6 type nd-neighbor-solicit"),
        device,
    )?;
    let answers = path::link_address(hop, device).is_some();
    let events = Some(trace.finish(&[hop])).filter(|_| !answers);
    let (before, after) = (Counters::default(), Counters::default());
    let evidence = ConnectionEvidence { events, before, after, found_gateway: false };
    let cure = Cure { device, params: cure.params, leg: cure.leg, v4: cure.v4, sources: cure.sources };
    let LossCause { found, cure } = evidence.by_trace(LostPart::Handshake, &cure)?;
    Some(LossCause { found: format!("the next hop {hop} does not answer on {device}: {found}"), cure })
}
