//! Explains the decision on a flow, rule by rule: from a configuration alone, or with the state of the running gateway.
//! Sends nothing and resolves no name; for the running gateway it asks the kernel for routes.

mod checks;
mod leaving;

use super::network::RefusedFamilies;
use crate::addr::{ClientAddr, OriginalDestination};
use crate::admin::{
    ClientTarget, ExplainQuery, ExplainReport, ExplainedCanary, ExplainedOutcome, ExplainedRule,
    FamilyRefusal, canary_remedy,
};
use crate::clock;
use crate::config::{Config, SteeringPorts, TenantLimits};
use crate::egress::{Ledger, PoolSpec, Pools};
use crate::family::Family;
use crate::gateway::{CandidateView, EffectiveRules, Snapshot, UnsteeredAddresses};
use crate::hostname::{AskedName, NotAHostname};
use crate::outcome::Outcome;
use crate::policy::{
    self, CheckResults, ClientInspection, CompileError, ConnectedNetworks, Explanation, FlowFacts,
    Inspection, Judgement, MatchFinding, Policy, TenantRules,
};
use crate::sys::addresses::LocalAddresses;
use ipnet::IpNet;
use std::collections::BTreeMap;
use std::iter;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;

/// Placeholder for a name's public address of the client's family, from a documentation range (RFC 5737, RFC 3849).
fn some_public_address(family: Family) -> IpAddr {
    match family {
        Family::V4 => Ipv4Addr::new(192, 0, 2, 1).into(),
        Family::V6 => Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1).into(),
    }
}

/// Reason why a query has no answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ExplainError {
    /// The query gives an address for a target that is an address.
    #[error("the target is an address already; an address beside it goes with a name")]
    TwoAddresses,
    /// The query gives a name for a protocol in which no name is read.
    #[error("a client that speaks neither TLS nor HTTP asks for no name; give the address")]
    NameUnread,
    /// A connection has one address family.
    #[error("{client} cannot connect to {to}: they are of two families; give the client's {} address", Family::of(*to))]
    OtherFamily {
        /// The client's address.
        client: IpAddr,
        /// The address that it would have to dial.
        to: IpAddr,
    },
}

/// Explains by configuration files alone.
pub struct Explainer<'c> {
    config: &'c Config,
    policy: Policy,
    pools: Pools,
    unsteered: UnsteeredAddresses,
}

impl<'c> Explainer<'c> {
    /// Compiles the policy once, for any number of queries.
    pub fn new(config: &'c Config) -> Result<Self, CompileError> {
        Self::with_link_address(config, None)
    }

    /// The same where this address is known to be of a network of the gateway's own links, which files do not tell.
    pub fn with_link_address(config: &'c Config, address: Option<IpAddr>) -> Result<Self, CompileError> {
        let connected = ConnectedNetworks::default();
        connected.replace(address.map(IpNet::from), &[]);
        let policy = Policy::compile(&config.tenants, config.private(Arc::new(connected)))?;
        // Pools of its own, so that every port is free.
        let pools = Pools::new(&config.pools, &config.reserved_ports(), &Arc::new(Ledger::new()));
        let networks = config.pools.iter().flat_map(|pool| pool.addresses.iter().copied()).collect();
        let unsteered = UnsteeredAddresses::new(networks, LocalAddresses::default());
        Ok(Self { config, policy, pools, unsteered })
    }

    /// Explains the decision on the flow.
    pub fn explain(&self, query: &ExplainQuery) -> Result<ExplainReport, ExplainError> {
        self.inputs(true).explain(query)
    }

    /// The same without what each rule says, so that the number of rules does not matter.
    pub fn decide(&self, query: &ExplainQuery) -> Result<ExplainReport, ExplainError> {
        self.inputs(false).explain(query)
    }

    fn inputs(&self, lists_rules: bool) -> ExplainInputs<'_> {
        let Self { config, policy, pools, unsteered } = self;
        ExplainInputs {
            pools: &config.pools,
            policy,
            unsteered,
            steered: &config.steering.ports,
            help: config.help.as_deref(),
            state: UsageSource::Files(pools, &config.limits),
            lists_rules,
        }
    }
}

/// Inputs of an explanation.
pub(crate) struct ExplainInputs<'a> {
    pub(crate) pools: &'a [PoolSpec],
    pub(crate) policy: &'a Policy,
    pub(crate) unsteered: &'a UnsteeredAddresses,
    /// TCP ports that are steered to the gateway.
    pub(crate) steered: &'a SteeringPorts,
    /// `[policy] help`.
    pub(crate) help: Option<&'a str>,
    pub(crate) state: UsageSource<'a>,
    /// False to leave out what each rule says.
    pub(crate) lists_rules: bool,
}

/// Source of the current usage of ports and flow slots.
pub(crate) enum UsageSource<'a> {
    /// None: pools and limits as configured.
    Files(&'a Pools, &'a BTreeMap<Arc<str>, TenantLimits>),
    /// The running gateway.
    Live(&'a Snapshot, &'a RefusedFamilies),
}

/// The queried flow.
struct ExplainedFlow {
    name: AskedName,
    ech: bool,
    client: ClientAddr,
    to: OriginalDestination,
}

impl ExplainInputs<'_> {
    /// Explains the flow, with a contact if it would not be allowed.
    pub(crate) fn explain(&self, query: &ExplainQuery) -> Result<ExplainReport, ExplainError> {
        let mut report = self.explained(query)?;
        report.help = self.help.filter(|_| !report.allowed).map(ToOwned::to_owned);
        Ok(report)
    }

    fn explained(&self, query: &ExplainQuery) -> Result<ExplainReport, ExplainError> {
        let asked = ExplainedFlow::of(query)?;
        let mut report = blank(query, &asked);
        report.live = matches!(self.state, UsageSource::Live(..));
        let never_to = if report.address_assumed { None } else { self.unsteered.never_to(asked.to.ip()) };
        report.never_steered = never_to.or_else(|| self.unsteered.never_from(asked.client.ip()));
        report.steered = report.never_steered.is_none() && self.steered.contain(asked.to.port());
        if !report.steered {
            report.outcome = None;
        }
        let Some(tenant) = self.policy.tenant_of(asked.client) else { return Ok(report) };
        report.tenant = Some(tenant.name.to_string());
        report.max_flows = match self.state {
            UsageSource::Files(_, limits) => limits.get(&tenant.name).and_then(|limits| limits.flows),
            UsageSource::Live(snapshot, _) => snapshot.tenants[tenant.index].most_flows,
        };
        if !report.steered {
            return Ok(report);
        }
        if self.unsteered.leads_back(asked.to.ip()) && !report.address_assumed {
            report.outcome = Some(explained_outcome(Outcome::DestinationLocal, &report));
            return Ok(report);
        }
        let UsageSource::Live(snapshot, families) = self.state else {
            let effective = EffectiveRules { rules: tenant, verification: None };
            self.judge(&mut report, &asked, tenant, Some(effective));
            return Ok(report);
        };
        let refused = families.refusal(&tenant.pool, asked.to.ip());
        let own = &snapshot.tenants[tenant.index];
        report.flows = Some(own.flows.taken());
        let views = snapshot.views(asked.client);
        let mut in_force = report.clone();
        self.judge(&mut in_force, &asked, tenant, views.in_force);
        refuse_family(&mut in_force, refused);
        let Some(CandidateView { rules, share: Some(percent), .. }) = views.candidate else {
            return Ok(in_force);
        };
        let is_let_out = in_force.is_let_out();
        report.canary = Some(ExplainedCanary {
            percent,
            tenant: rules.map(|own| own.rules.name.to_string()),
            in_force: Box::new(in_force),
        });
        self.judge(&mut report, &asked, tenant, rules);
        refuse_family(&mut report, refused);
        if let Some(outcome) = &mut report.outcome
            && let Some(remedy) = canary_remedy(is_let_out, Outcome::named(&outcome.name))
        {
            remedy.clone_into(&mut outcome.remedy);
        }
        Ok(report)
    }

    /// Applies these rules to a flow of the tenant; `None`: a candidate that has no tenant for the client.
    fn judge(
        &self,
        report: &mut ExplainReport,
        asked: &ExplainedFlow,
        tenant: &TenantRules,
        effective: Option<EffectiveRules<'_>>,
    ) {
        let ExplainedFlow { name, ech, client, to } = asked;
        let (ech, client, to, now) = (*ech, *client, *to, clock::policy_time());
        if let Some(EffectiveRules { rules, .. }) = effective.filter(|_| self.lists_rules) {
            let Explanation { inspected, rules: findings, .. } = rules.explain(name, ech, to);
            report.inspected = inspected;
            if findings.iter().any(|rule| rule.finding == MatchFinding::PrivateDestination) {
                report.private = rules.owner_of(to.ip()).map(|owner| owner.to_string());
            }
            report.rules = findings.into_iter().map(explained_rule).collect();
            report.mode = Some(if rules.mode.monitors(now) { "monitor" } else { "enforce" }.to_owned());
        }
        let Some(effective) = effective else { return };
        let EffectiveRules { rules, .. } = effective;
        let seen = ClientInspection::Asked { name: name.clone(), ech, unframed: false };
        let facts = FlowFacts::new(to, Inspection::First(&seen), now);
        let mut others = Vec::new();
        let judgement = match rules.judge(&facts) {
            Judgement::Permit { permit, needs } if permit.would_deny().is_none() => {
                let families = self.dialled_families(tenant, &permit);
                match checks::checked(report, effective, name, permit, &facts, &families) {
                    Ok((permit, after_it)) => {
                        others = after_it;
                        Judgement::Permit { permit, needs }
                    }
                    Err(outcome) => {
                        rules.judge(&FlowFacts { checks: CheckResults::failed(outcome), ..facts })
                    }
                }
            }
            judgement @ (Judgement::NeedsInspection | Judgement::Permit { .. } | Judgement::Deny(_)) => {
                judgement
            }
        };
        report.rule = judgement.rule().map(ToString::to_string);
        match judgement {
            Judgement::Permit { permit, .. } => {
                report.would_deny = permit.would_deny().map(|waived| explained_outcome(waived, report));
                self.leave_by_any(report, tenant, client, iter::once(permit).chain(others));
            }
            Judgement::Deny(denial) => report.outcome = Some(explained_outcome(denial.outcome, report)),
            Judgement::NeedsInspection => {} // its result is given
        }
    }
}

/// Replaces the verdict of a flow whose family is refused before the handshake, and so before any rule.
fn refuse_family(report: &mut ExplainReport, refused: Option<FamilyRefusal>) {
    report.refused_family = refused;
    if refused.is_some() {
        (report.allowed, report.outcome, report.would_deny) = (false, None, None);
    }
}

impl ExplainedFlow {
    fn of(query: &ExplainQuery) -> Result<Self, ExplainError> {
        let client = ClientAddr::new(SocketAddr::new(query.from, 0));
        let (name, socket) = match (&query.to, query.address) {
            (ClientTarget::Address(_) | ClientTarget::NotHostname(_), Some(_)) => {
                return Err(ExplainError::TwoAddresses);
            }
            (ClientTarget::Name(..) | ClientTarget::NotHostname(_), _) if query.other_protocol => {
                return Err(ExplainError::NameUnread);
            }
            (ClientTarget::NotHostname(socket), None) => {
                (AskedName::Invalid(NotAHostname::IpLiteral), *socket)
            }
            (ClientTarget::Address(socket), None) if query.other_protocol => (AskedName::Unread, *socket),
            (ClientTarget::Address(socket), None) => (AskedName::Absent, *socket),
            (ClientTarget::Name(name, port), address) => {
                let address = address.unwrap_or_else(|| some_public_address(Family::of(client.ip())));
                (AskedName::Valid(name.clone()), SocketAddr::new(address, *port))
            }
        };
        let to = OriginalDestination::tcp(socket);
        if Family::of(client.ip()) != Family::of(to.ip()) {
            return Err(ExplainError::OtherFamily { client: client.ip(), to: to.ip() });
        }
        Ok(Self { name, ech: query.ech, client, to })
    }
}

/// Initial report: the client belongs to no tenant.
fn blank(query: &ExplainQuery, asked: &ExplainedFlow) -> ExplainReport {
    let ExplainedFlow { client, to, .. } = asked;
    let hostname = if let ClientTarget::Name(name, _) = &query.to { Some(name.to_string()) } else { None };
    let mut report = ExplainReport {
        live: false,
        from: client.ip(),
        tenant: None,
        canary: None,
        mode: None,
        address_assumed: hostname.is_some() && query.address.is_none(),
        hostname,
        address: to.ip(),
        port: to.port(),
        ech: query.ech,
        not_hostname: matches!(asked.name, AskedName::Invalid(_)),
        refused_family: None,
        steered: true,
        never_steered: None,
        other_protocol: query.other_protocol,
        inspected: false,
        rules: Vec::new(),
        allowed: false,
        rule: None,
        destination: None,
        certificate: None,
        private: None,
        known_addresses: None,
        address_check: None,
        certificate_check: None,
        would_deny: None,
        outcome: None,
        help: None,
        pool: None,
        max_flows: None,
        flows: None,
    };
    report.outcome = Some(explained_outcome(Outcome::UnknownTenant, &report));
    report
}

fn explained_rule(rule: policy::RuleFinding) -> ExplainedRule {
    let policy::RuleFinding { rule, effect, finding } = rule;
    ExplainedRule {
        rule: rule.to_string(),
        effect: effect.as_str().to_owned(),
        finding: finding.as_str().to_owned(),
        text: finding.text().to_owned(),
    }
}

fn explained_outcome(outcome: Outcome, report: &ExplainReport) -> ExplainedOutcome {
    let name = report.hostname.as_deref();
    let to = match name.filter(|_| report.address_assumed) {
        Some(name) => format!("{name}:{}", report.port),
        None => SocketAddr::new(report.address, report.port).to_string(),
    };
    ExplainedOutcome {
        name: outcome.as_str().to_owned(),
        meaning: outcome.meaning().to_owned(),
        remedy: remedy(outcome, name, &to),
    }
}

/// The outcome's remedy for a flow that is asked about, which has no ID. `to` is ADDRESS:PORT, or NAME:PORT if the address was
/// assumed.
pub(crate) fn remedy(outcome: Outcome, name: Option<&str>, to: &str) -> String {
    if outcome == Outcome::NotAllowed {
        return "If it should leave, add an allow rule to the tenant: docs/policy.md.".to_owned();
    }
    let remedy = outcome.remedy().replace("ADDRESS:PORT", to);
    name.map_or(remedy.clone(), |name| remedy.replace("NAME", name))
}

#[cfg(test)]
mod tests;
