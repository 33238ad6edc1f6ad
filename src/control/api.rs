//! Handlers of the control API.

use super::audit::Auditor;
use super::candidate::CandidateApi;
use super::explain::{ExplainInputs, UsageSource};
use super::handles::ControlHandles;
use super::network::LastNetworkState;
use super::reload::ReloadHandle;
use super::{probe, trace};
use crate::addr::{DialAddr, SourceAddr};
use crate::admin::{
    self, ControlError, ControlHandlers, DestinationFilter, DestinationPorts, DrainAnswer, DrainOrder,
    ExplainQuery, ExplainReport, MismatchRow, NamesQuery, NamesReport, PortsQuery, PortsReport, SourcePorts,
};
use crate::audit::{Originator, SocketPeer, What};
use crate::clock;
use crate::egress::{HotRow, PairUse, Pools, SourceState, SourceUsage};
use crate::family::Family;
use crate::gateway::{AddressMismatch, MismatchCount};
use crate::hostname::Hostname;
use std::collections::HashSet;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;

/// State behind the handlers.
pub(crate) struct ControlPlane {
    pub(crate) handles: ControlHandles,
    pub(crate) network: LastNetworkState,
    pub(crate) reloads: ReloadHandle,
    pub(crate) auditor: Auditor,
    /// The main file in force.
    pub(crate) main: PathBuf,
}

impl ControlPlane {
    pub(crate) fn control(self) -> ControlHandlers {
        let reloads = self.reloads.clone();
        let [tracing, rejecting] = std::array::from_fn(|_| self.auditor.clone());
        let candidate = CandidateApi {
            candidates: self.handles.candidates.clone(),
            reloads: self.reloads.clone(),
            gateway: Arc::clone(&self.handles.gateway),
            main: self.main.clone(),
        };
        let ports = Arc::new(self);
        let (names, drain, explain) = (Arc::clone(&ports), Arc::clone(&ports), Arc::clone(&ports));
        let [expecting, finding] = std::array::from_fn(|_| Arc::clone(&ports.handles.gateway));
        let [started, read] = std::array::from_fn(|_| ports.handles.traces.clone());
        ControlHandlers {
            ports: Arc::new(move |query| ports.ports(query)),
            names: Arc::new(move |query| names.names(query)),
            drain: Arc::new(move |peer, order| drain.audited_drain(peer, order)),
            reload: Arc::new(move |peer, ()| reloads.order(Originator::Control(peer))),
            trace: Arc::new(move |peer, order| trace::audited_start(&started, &tracing, peer, order)),
            traced: Arc::new(move |query| Ok(trace::read(&read, &query))),
            probe: Arc::new(move |peer, order| Ok(probe::expect(&expecting.table, peer, &order))),
            probed: Arc::new(move |query| Ok(probe::find(&finding.table, &query))),
            candidate: candidate.control(),
            forbidden: Arc::new(move |peer, order, why| {
                tracing::warn!(%peer, order, "refused: {why}");
                rejecting.noted(
                    What::Forbidden,
                    Originator::Control(peer),
                    order.to_owned(),
                    Err(why.to_owned()),
                );
            }),
            explain: Arc::new(move |query| explain.explain(&query)),
        }
    }

    fn pools(&self) -> Arc<Pools> {
        Arc::clone(&self.handles.in_force.current().pools)
    }

    fn ports(&self, query: PortsQuery) -> Result<PortsReport, ControlError> {
        let query = self.checked(query)?;
        let now = clock::now();
        let usage = self.pools().usage(now);
        let rows = || usage.iter().flat_map(|pool| pool.sources.iter().map(|row| (&pool.pool, row)));
        let sources = rows().map(|(pool, row)| self.source(pool, row)).collect();
        let watched = self.handles.forecast.rows(&self.pools(), now).into_iter();
        let mut hot: Vec<DestinationPorts> = watched.map(|row| self.hot_row(&row)).collect();
        if let Some(DestinationFilter::Socket(to)) = query.destination {
            // A requested destination is shown even if others are hotter, or nobody has a port towards it.
            let known: HashSet<IpAddr> =
                hot.iter().filter(|row| row.destination == to).map(|row| row.source).collect();
            let is_cool = |row: &SourceUsage| {
                let source = row.source.addr();
                is_one_address(row) && Family::of(source) == Family::of(to.ip()) && !known.contains(&source)
            };
            for (pool, row) in rows().filter(|(_, row)| is_cool(row)) {
                let source = SourceAddr::new(row.source.addr());
                let used = self.handles.ledger.pair(source, DialAddr::tcp(to), now);
                let unused = PairUse { capacity: row.capacity, live: 0, held: 0 };
                let used = used.unwrap_or(unused);
                // The free ports of an address out of use are no use to anybody.
                if row.state == SourceState::Available || used.in_use() > 0 {
                    hot.push(self.cool_row(pool, source, to, used));
                }
            }
        }
        Ok(admin::report(&query, sources, hot, &self.handles.gateway.table))
    }

    fn explain(&self, query: &ExplainQuery) -> Result<ExplainReport, ControlError> {
        let (current, snapshot) =
            (self.handles.in_force.current(), self.handles.gateway.snapshot.load_full());
        let facts = ExplainInputs {
            pools: &current.specs,
            policy: &snapshot.policy,
            unsteered: &snapshot.unsteered,
            steered: &current.steered,
            help: snapshot.help.as_deref(),
            state: UsageSource::Live(&snapshot, &self.network.load().families),
            lists_rules: true,
        };
        facts.explain(query).map_err(|why| ControlError::BadArgument(why.to_string()))
    }

    /// Adds the pool of a requested tenant. Unknown names are refused: an empty answer would look like an idle gateway.
    fn checked(&self, mut query: PortsQuery) -> Result<PortsQuery, ControlError> {
        if let Some(name) = &query.pool
            && self.pools().pool(name).is_none()
        {
            return Err(ControlError::Unknown(format!("no pool is called {name:?}")));
        }
        if let Some(name) = &query.tenant {
            let snapshot = self.handles.gateway.snapshot.load();
            let tenant = snapshot.tenants.iter().find(|tenant| *tenant.policy.name == **name);
            let tenant =
                tenant.ok_or_else(|| ControlError::Unknown(format!("no tenant is called {name:?}")))?;
            query.pool.get_or_insert_with(|| tenant.pool.name().as_ref().to_owned());
        }
        Ok(query)
    }

    fn names(&self, query: NamesQuery) -> Result<NamesReport, ControlError> {
        let name: Option<Hostname> = match query.name.map(|name| name.parse()).transpose() {
            Ok(name) => name,
            Err(why) => return Err(ControlError::BadArgument(format!("{why}"))),
        };
        let snapshot = self.handles.gateway.snapshot.load();
        let known_of = |name| {
            let families = Family::ALL;
            let mut known: Vec<_> = snapshot
                .verifiers()
                .flat_map(|verifier| verifier.names().known(name, &families, None))
                .collect();
            known.sort_unstable();
            known.dedup();
            known
        };
        let mut servers: Vec<_> = snapshot.verifiers().flat_map(|verifier| verifier.servers()).collect();
        servers.dedup();
        let row = |(mismatch, seen): (AddressMismatch, MismatchCount)| MismatchRow {
            tenant: mismatch.tenant.to_string(),
            rule: mismatch.rule.map(|rule| rule.to_string()),
            name: mismatch.name.to_string(),
            address: mismatch.address.socket(),
            flows: seen.flows,
            last: format!("{:.0}", jiff::Timestamp::try_from(seen.last).unwrap_or_default()),
        };
        let meant = |(mismatch, _): &(AddressMismatch, MismatchCount)| {
            name.as_ref().is_none_or(|name| mismatch.name == *name)
        };
        Ok(NamesReport {
            servers,
            known: snapshot.verifiers().map(|verifier| verifier.names().count()).sum(),
            addresses: name.as_ref().map(known_of),
            mismatches: self.handles.gateway.mismatches.sample().into_iter().filter(meant).map(row).collect(),
        })
    }

    fn audited_drain(&self, peer: SocketPeer, order: DrainOrder) -> Result<DrainAnswer, ControlError> {
        let what = if order.on { What::Drain } else { What::Undrain };
        let subject = order.source.to_string();
        let answer = self.drain(order);
        let result = answer.as_ref().map(|_| ()).map_err(ToString::to_string);
        self.auditor.noted(what, Originator::Control(peer), subject, result);
        answer
    }

    fn drain(&self, order: DrainOrder) -> Result<DrainAnswer, ControlError> {
        let source = SourceAddr::new(order.source);
        if !order.on && self.state(source) == Some(SourceState::Withdrawn) {
            let why = format!("{source} is withdrawn: the host does not have it; try again when it is back");
            return Err(ControlError::Conflict(why));
        }
        let wanted = if order.on { SourceState::Draining } else { SourceState::Available };
        let Some(state) = self.pools().set_state(source, wanted) else {
            let why = "is not listed by any pool; of a network whose addresses are derived per client none can be drained";
            return Err(ControlError::Unknown(format!("{source} {why}")));
        };
        tracing::info!(%source, drain = order.on, state = state.as_str(), "an operator's order");
        let without_address = self.pools().without_address(source);
        Ok(DrainAnswer { source: source.ip(), state: state.as_str().to_owned(), without_address })
    }

    fn state(&self, source: SourceAddr) -> Option<SourceState> {
        let usage = self.pools().usage(clock::now());
        let mut rows = usage.iter().flat_map(|pool| &pool.sources);
        rows.find(|row| is_one_address(row) && row.source.addr() == source.ip()).map(|row| row.state)
    }

    fn public(&self, pool: &str, source: SourceAddr) -> Option<IpAddr> {
        self.pools().pool(pool)?.public(source)
    }

    fn source(&self, pool: &Arc<str>, row: &SourceUsage) -> SourcePorts {
        let address = is_one_address(row).then(|| row.source.addr());
        SourcePorts {
            pool: Arc::clone(pool),
            source: address.map_or_else(|| row.source.to_string(), |address| address.to_string()),
            public: address.and_then(|address| self.public(pool, SourceAddr::new(address))),
            state: row.state.as_str().to_owned(),
            capacity: row.capacity,
            live: row.live as u64,
            held: row.held as u64,
            busiest: row.busiest,
        }
    }

    fn hot_row(&self, row: &HotRow) -> DestinationPorts {
        let used = PairUse { capacity: row.capacity, live: row.live, held: row.held };
        DestinationPorts {
            growth_per_second: Some(row.growth_per_second),
            exhausted_in_seconds: row.exhausted_in.map(|left| left.as_secs()),
            ..self.cool_row(&row.pool, row.source, row.destination.socket(), used)
        }
    }

    fn cool_row(
        &self,
        pool: &Arc<str>,
        source: SourceAddr,
        destination: SocketAddr,
        used: PairUse,
    ) -> DestinationPorts {
        DestinationPorts {
            pool: Arc::clone(pool),
            source: source.ip(),
            public: self.public(pool, source),
            destination,
            hostname: None,
            live: used.live,
            held: used.held,
            capacity: used.capacity,
            growth_per_second: None,
            exhausted_in_seconds: None,
            tenants: Vec::new(),
            clients: Vec::new(),
        }
    }
}

fn is_one_address(row: &SourceUsage) -> bool {
    row.source.prefix_len() == row.source.max_prefix_len()
}
