//! Tenants and rules: decides whether a flow may leave. Pure, no clock, no I/O, so that it can run again on reload.
//!
//! Deny rules win over allow rules; within each, the first in the order of the file that covers the flow decides.
//! A rule covers a flow if its hosts, its networks and its ports all do; an empty list covers anything.
//! `TenantRules::decide` lists the edge cases: an absent or invalid name, a private address. Everything that decides about
//! a flow asks [`TenantRules::judge`].

mod address_class;
mod compile_error;
mod decision;
mod facts;
mod judge;
mod mode;
mod names;
mod networks;
mod reach;
mod spec;
mod tenant;
#[cfg(test)]
pub(crate) mod tests;
mod waiver;

pub use compile_error::CompileError;
pub use decision::{Denial, Judgement, Permit};
pub use facts::{CheckFailure, CheckResults, CheckSet, ClientInspection, FlowFacts, Inspection};
pub use mode::TenantMode;
pub(crate) use networks::NetworkMap;
pub use reach::{AddressOwner, ConnectedNetworks, PrivateNetworks, is_specific};
pub use spec::{
    CertificateRule, DestinationRule, EchPolicy, PrivateDestinations, RuleEffect, RuleSpec, TenantSpec,
};
pub use tenant::{Explanation, MatchFinding, RuleFinding, TenantRules};
pub use waiver::can_be_waived;

use crate::addr::ClientAddr;
use reach::NameReach;
use std::sync::Arc;
use tenant::RuleScopes;

/// All tenants, compiled. Immutable; a reload makes a new one.
#[derive(Debug)]
pub struct Policy {
    tenants: Box<[Arc<TenantRules>]>,
    /// Index into `tenants` by source network.
    sources: NetworkMap<usize>,
}

impl Policy {
    /// Compiles checked tenants. Takes linear time in names and networks.
    pub fn compile(
        tenants: &[TenantSpec],
        private: impl Into<PrivateNetworks>,
    ) -> Result<Self, CompileError> {
        let reach = Arc::new(NameReach::new(&private.into(), tenants));
        let mut sources = NetworkMap::default();
        let mut places = RuleScopes::default();
        let mut compiled = Vec::with_capacity(tenants.len());
        for (index, spec) in tenants.iter().enumerate() {
            for &network in &spec.sources {
                if let Some(first) = sources.insert(network, index) {
                    let [first, second] = [first, index].map(|i: usize| tenants[i].name.clone());
                    return Err(CompileError::SourceTwice { network, first, second });
                }
            }
            compiled.push(Arc::new(TenantRules::compile(spec, index, &reach, &mut places)?));
        }
        Ok(Self { tenants: compiled.into(), sources })
    }

    /// Returns a client's tenant: the one with the longest source network that contains its address.
    pub fn tenant_of(&self, client: ClientAddr) -> Option<&Arc<TenantRules>> {
        self.sources.longest(client.ip()).map(|&index| &self.tenants[index])
    }

    /// All tenants, by `index`.
    pub fn tenants(&self) -> &[Arc<TenantRules>] {
        &self.tenants
    }
}
