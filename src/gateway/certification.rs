//! Certificate checks: does the server prove the name? docs/verify.md says what each result guarantees.

use super::effective_rules::VerificationHandles;
use super::flow::Flow;
use super::flow_end::{FlowEnd, NO_TLS};
use super::snapshot::TenantRuntime;
use super::verification::{CheckedName, MOST_TRIED};
use crate::addr::{ClientAddr, DialAddr};
use crate::clock;
use crate::egress::Dialler;
use crate::flow::CertificateCheck;
use crate::hostname::Hostname;
use crate::inspect::Protocol;
use crate::outcome::Outcome;
use crate::policy::Permit;
use crate::sys::event_loop::{spawn, timeout};
use crate::sys::traffic_class::TrafficClass;
use crate::verify::{CertificateVerdict, StartedConnection};
use std::iter;
use std::sync::Arc;
use std::time::Duration;

/// Asks a server for its certificate, from a source address and port of the tenant's.
pub(super) struct CertificateProber<'a> {
    pub(super) tenant: &'a TenantRuntime,
    pub(super) verification: &'a VerificationHandles,
    pub(super) dialler: Dialler,
    pub(super) client: ClientAddr,
    pub(super) name: &'a Hostname,
}

impl CertificateProber<'_> {
    /// Checks the certificate; never fails. The caller bounds the time.
    pub(super) async fn check(&self, to: DialAddr) -> CertificateVerdict {
        let VerificationHandles { verifier, asker, .. } = self.verification;
        verifier.certificates().check(self.name, to.socket(), asker, || self.begin(to)).await
    }

    /// True if the server proves the name.
    pub(super) async fn proves(&self, to: DialAddr) -> bool {
        certificate_refusal(self.check(to).await).is_none()
    }

    async fn check_within(&self, time: Duration, to: DialAddr) -> CertificateVerdict {
        let late =
            CertificateVerdict::Unknown("the server did not prove anything within `[inspect] deadline`");
        timeout(time, self.check(to)).await.unwrap_or(late)
    }

    fn begin(&self, to: DialAddr) -> Result<StartedConnection, &'static str> {
        let TenantRuntime { pool, share, .. } = self.tenant;
        let lease = pool.lease(self.client, to, share, clock::now());
        let lease = lease.map_err(|_| "the pool has no port left to ask the server from")?;
        let begun = self.dialler.begin(self.client, to, TrafficClass::default(), lease);
        let (socket, mut lease) = begun.map_err(|_| "the server could not be reached")?;
        lease.connected();
        Ok((socket, Box::new(lease)))
    }

    /// Counts the result, and returns it as the flow log has it.
    fn count(&self, found: CertificateVerdict) -> CertificateCheck {
        let check = CertificateCheck::from(found);
        self.verification.certificate_checks[check as usize].increment(1);
        let why = certificate_refusal(found).map(|(_, why)| why);
        tracing::debug!(found = check.as_str(), detail = why, "checked the server's certificate");
        check
    }
}

impl CheckedName<'_> {
    /// Returns the first of the addresses whose server proves the name, and those after it, of which nothing is known yet.
    pub(super) async fn certified(
        &self,
        permits: Vec<Permit>,
        flow: &mut Flow,
    ) -> Result<Vec<Permit>, FlowEnd> {
        let unavailable = |detail| FlowEnd { outcome: Outcome::CertificateUnavailable, detail: Some(detail) };
        if !speaks_tls(flow) {
            return Err(unavailable(NO_TLS));
        }
        let (mut last, mut refused) = (CertificateVerdict::Unknown(""), None);
        let mut permits = permits.into_iter().take(MOST_TRIED);
        while let Some(permit) = permits.next() {
            last = self.prober(flow).check_within(self.time_left(flow), permit.dial()).await;
            let Some((outcome, why)) = certificate_refusal(last) else {
                flow.record().certificate_check = Some(self.prober(flow).count(last));
                return Ok(iter::once(permit).chain(permits).collect());
            };
            // A wrong certificate says more than another server's silence.
            if refused.is_none() || outcome == Outcome::CertificateInvalid {
                refused = Some(FlowEnd { outcome, detail: Some(why) });
            }
        }
        flow.record().certificate_check = Some(self.prober(flow).count(last));
        Err(refused.unwrap_or_else(|| unavailable("there is no address to ask")))
    }

    /// Checks the certificate in the background; the flow does not wait for it.
    pub(super) fn observe_certificate(&self, flow: &mut Flow) {
        let (true, Some(to)) = (speaks_tls(flow), flow.dialled()) else { return };
        let Some(slot) = self.tenant.inspections.enter() else { return };
        let entry = Arc::clone(flow.entry());
        let (tenant, verification) = (Arc::clone(self.tenant), Arc::clone(self.verification));
        let (name, client) = (self.name.clone(), flow.client());
        let (dialler, time) = (self.worker.settings.dialler, self.worker.settings.inspect_deadline);
        spawn(async move {
            let _slot = slot;
            let (tenant, verification) = (&tenant, &verification);
            let prober = CertificateProber { tenant, verification, dialler, client, name: &name };
            let found = prober.check_within(time, to).await;
            entry.note_certificate_check(prober.count(found));
        });
    }

    pub(super) fn prober(&self, flow: &Flow) -> CertificateProber<'_> {
        let Self { worker, tenant, verification, name, .. } = *self;
        CertificateProber {
            tenant,
            verification,
            dialler: worker.settings.dialler,
            client: flow.client(),
            name,
        }
    }
}

/// Outcome and detail of a flow whose server has to prove the name; `None` if it does.
pub fn certificate_refusal(found: CertificateVerdict) -> Option<(Outcome, &'static str)> {
    match found {
        CertificateVerdict::Valid => None,
        CertificateVerdict::Invalid(why) => Some((Outcome::CertificateInvalid, why)),
        CertificateVerdict::Unsupported(why) | CertificateVerdict::Unknown(why) => {
            Some((Outcome::CertificateUnavailable, why))
        }
    }
}

impl From<CertificateVerdict> for CertificateCheck {
    fn from(found: CertificateVerdict) -> Self {
        match found {
            CertificateVerdict::Valid => Self::Valid,
            CertificateVerdict::Invalid(_) => Self::Invalid,
            CertificateVerdict::Unsupported(_) => Self::Unsupported,
            CertificateVerdict::Unknown(_) => Self::Unknown,
        }
    }
}

pub(super) fn speaks_tls(flow: &Flow) -> bool {
    flow.protocol() == Some(Protocol::Tls)
}
