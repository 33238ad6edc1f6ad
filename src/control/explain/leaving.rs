//! Pool and source of a flow that policy allows, or the reason why it cannot leave.

use super::{ExplainInputs, UsageSource, explained_outcome};
use crate::addr::{ClientAddr, DialAddr, SourceAddr};
use crate::admin::{ExplainReport, ExplainedPool, PortsInUse};
use crate::clock;
use crate::egress::{LeaseError, PairUse, PoolSpec};
use crate::family::Family;
use crate::outcome::Outcome;
use crate::policy::{DestinationRule, Permit, TenantRules};
use crate::sys::routing::{self, RouteDecision};
use ipnet::IpNet;
use std::net::IpAddr;

/// Source address and ports of a flow.
struct SourceUse {
    source: Option<SourceAddr>,
    in_use: Option<PairUse>,
    /// Ports of the tenant towards the destination.
    tenant_ports: Option<u32>,
    /// The reason why the tenant's share of the pool gives it no port there.
    refusal: Option<LeaseError>,
    /// Addresses out of use.
    drain: Vec<SourceAddr>,
}

impl ExplainInputs<'_> {
    /// Fills in pool and source of a flow by the first permit with which it can leave; else why it cannot with the first one. The
    /// gateway dials one after another.
    pub(super) fn leave_by_any(
        &self,
        report: &mut ExplainReport,
        tenant: &TenantRules,
        client: ClientAddr,
        permits: impl Iterator<Item = Permit>,
    ) {
        let mut reports = permits.map(|permit| {
            let mut told = report.clone();
            self.leave(&mut told, tenant, client, &permit);
            told
        });
        let Some(first) = reports.next() else { return };
        let found = if first.allowed { None } else { reports.find(|told| told.allowed) };
        drop(reports);
        *report = found.unwrap_or(first);
    }

    /// Fills in pool and source of a flow that policy allows, or the reason why it cannot leave.
    fn leave(&self, report: &mut ExplainReport, tenant: &TenantRules, client: ClientAddr, permit: &Permit) {
        let Some(pool) = self.pools.iter().find(|pool| pool.name == tenant.pool) else {
            report.outcome = Some(explained_outcome(Outcome::NoSourceAddress, report));
            return;
        };
        let is_resolved = permit.destination() == DestinationRule::Resolve;
        let is_known = if is_resolved { report.address_check.is_some() } else { !report.address_assumed };
        let to = is_known.then(|| permit.dial());
        let families =
            to.map_or_else(|| self.dialled_families(tenant, permit), |to| vec![Family::of(to.ip())]);
        let is_dialled = |address: IpAddr| families.contains(&Family::of(address));
        let networks: Vec<&IpNet> =
            pool.addresses.iter().filter(|network| is_dialled(network.addr())).collect();
        let source_use = self.source_use(pool, tenant, client, to);
        let has_source = match (&self.state, to) {
            (UsageSource::Live(..), Some(_)) => source_use.source.is_some(),
            (UsageSource::Live(snapshot, _), None) => {
                let pool = &snapshot.tenants[tenant.index].pool;
                families.iter().any(|family| pool.available(*family).next().is_some())
            }
            (UsageSource::Files(..), _) => networks.iter().any(|network| pool.drain_leaves(network)),
        };
        let client_family = Family::of(client.ip());
        // Clients of a family without one are refused before the handshake, or will be in a moment.
        let has_client_family = match &self.state {
            UsageSource::Live(snapshot, _) => {
                snapshot.tenants[tenant.index].pool.available(client_family).next().is_some()
            }
            UsageSource::Files(..) => {
                let mut networks = pool.addresses.iter().filter(|network| pool.drain_leaves(network));
                networks.any(|network| Family::of(network.addr()) == client_family)
            }
        };
        let share = pool.shares.iter().find(|share| share.tenant == tenant.name);
        let SourceUse { source, in_use, tenant_ports, refusal: by_share, drain } = source_use;
        let explained = ExplainedPool {
            name: pool.name.to_string(),
            addresses: networks.iter().map(ToString::to_string).collect(),
            ports: pool.ports.to_string(),
            source: source.map(SourceAddr::ip),
            public: source.and_then(|source| pool.public.get(&source).copied()),
            in_use: in_use.map(|PairUse { capacity, live, held }| PortsInUse { capacity, live, held }),
            drain: drain.into_iter().map(SourceAddr::ip).filter(|address| is_dialled(*address)).collect(),
            tenant_ports,
            ports_floor: share.map(|share| share.floor).filter(|floor| *floor > 0),
            ports_ceiling: share.and_then(|share| share.ceiling),
        };
        let refusal = if is_reached(report.flows, report.max_flows) {
            Some(Outcome::TenantFlowLimit)
        } else if !has_client_family || !has_source {
            Some(Outcome::NoSourceAddress)
        } else if let Some(by_share) = by_share {
            Some(by_share.outcome())
        } else if in_use.is_some_and(|in_use| in_use.free() == 0) {
            Some(Outcome::PortsExhausted)
        } else if self.has_no_route(to, source) {
            Some(Outcome::DialFailed)
        } else {
            None
        };
        report.allowed = refusal.is_none();
        report.outcome = refusal.map(|refusal| explained_outcome(refusal, report));
        let detail = by_share.filter(|by| Some(by.outcome()) == refusal).and_then(LeaseError::detail);
        if let (Some(outcome), Some(detail)) = (&mut report.outcome, detail) {
            outcome.meaning = format!("{} Here {detail}.", outcome.meaning);
        }
        report.pool = Some(explained);
    }

    /// True if the running machine refuses to send packets of the flow.
    fn has_no_route(&self, to: Option<DialAddr>, source: Option<SourceAddr>) -> bool {
        let (UsageSource::Live(..), Some(to), Some(source)) = (&self.state, to, source) else { return false };
        matches!(routing::way(to.ip(), Some(source.ip()), None), Ok(RouteDecision::Nowhere))
    }

    /// Families of the addresses that the gateway may dial for the flow, in the order in which it prefers them.
    pub(super) fn dialled_families(&self, tenant: &TenantRules, permit: &Permit) -> Vec<Family> {
        if permit.destination() != DestinationRule::Resolve {
            return vec![Family::of(permit.dial().ip())];
        }
        match self.state {
            UsageSource::Files(pools, _) => {
                pools.pool(&tenant.pool).map_or_else(Vec::new, |pool| pool.families())
            }
            UsageSource::Live(snapshot, _) => snapshot.tenants[tenant.index].pool.families(),
        }
    }

    /// `to`: the destination, if it is known.
    fn source_use(
        &self,
        pool: &PoolSpec,
        tenant: &TenantRules,
        client: ClientAddr,
        to: Option<DialAddr>,
    ) -> SourceUse {
        match self.state {
            UsageSource::Files(pools, _) => {
                let known = pools.pool(&pool.name).zip(to);
                let source = known.and_then(|(pool, to)| pool.preferred(client, Family::of(to.ip())));
                SourceUse {
                    source,
                    in_use: None,
                    tenant_ports: None,
                    refusal: None,
                    drain: pool.drain.clone(),
                }
            }
            UsageSource::Live(snapshot, _) => {
                let tenant = &snapshot.tenants[tenant.index];
                let next = to.and_then(|to| tenant.pool.next(client, to, clock::now()));
                SourceUse {
                    source: next.map(|(source, _)| source),
                    in_use: next.map(|(_, in_use)| in_use),
                    tenant_ports: to.and_then(|to| tenant.share.ports(to)),
                    refusal: to.and_then(|to| tenant.share.refusal(to)),
                    drain: tenant.pool.out_of_use(),
                }
            }
        }
    }
}

fn is_reached(now: Option<u32>, most: Option<u32>) -> bool {
    now.zip(most).is_some_and(|(now, most)| now >= most)
}
