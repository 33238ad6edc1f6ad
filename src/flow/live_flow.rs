//! A flow that holds a lease, as a re-evaluation sees it.

use super::record::{AddressCheck, CertificateCheck, FlowId, FlowRecord};
use crate::addr::{ClientAddr, DialAddr, LeasedSource, OriginalDestination};
use crate::policy::{CheckSet, ClientInspection};
use std::sync::Arc;

/// Copy of what a policy judges a flow by that holds a lease.
#[derive(Debug, Clone)]
pub struct LiveFlow {
    /// ID in the flow log.
    pub id: FlowId,
    /// Tenant that it belongs to.
    pub tenant: Arc<str>,
    /// Client's address.
    pub client: ClientAddr,
    /// Source address and port.
    pub source: LeasedSource,
    /// Address that the gateway dialled.
    pub destination: DialAddr,
    /// Address that its client dialled.
    pub asked: OriginalDestination,
    /// Result of the inspection; `None` if there was none.
    pub seen: Option<ClientInspection>,
    /// True if a candidate let it out.
    pub canary: bool,
    /// True if its client speaks TLS.
    pub tls: bool,
    /// True if further requests are not judged: HTTP where no name matters, and everything after a denial that monitor
    /// mode waived.
    pub unfollowed: bool,
    /// Checks that succeeded.
    pub proof: CheckSet,
}

/// Checks that succeeded before the flow was dialled.
pub(super) fn passed_checks(record: &FlowRecord) -> CheckSet {
    CheckSet {
        address: matches!(record.address_check, Some(AddressCheck::Match | AddressCheck::Resolved)),
        certificate: record.certificate_check == Some(CertificateCheck::Valid),
    }
}

/// Reason why a live flow is reset under another policy than the one that let it out: a few words for the flow log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RevocationReason(pub &'static str);

impl RevocationReason {
    /// The client no longer belongs to its tenant.
    pub const OF_ANOTHER_TENANT: Self = Self("the client is another tenant's now, or nobody's");
}
