//! Flows for tests.

use super::{FlowHandle, FlowId, FlowListing, FlowOpener, FlowState, FlowTable};
use crate::addr::{ClientAddr, DialAddr, LeasedSource, OriginalDestination};
use crate::hostname::AskedName;
use crate::policy::ClientInspection;
use std::rc::Rc;

/// Flow that was accepted from `client` to `to`.
pub(crate) fn accepted(opener: &Rc<FlowOpener>, number: u64, client: &str, to: &str) -> FlowHandle {
    let client = ClientAddr::new(client.parse().unwrap());
    opener.open(FlowId { process: 0, number }, client, OriginalDestination::tcp(to.parse().unwrap()))
}

/// Flow of a tenant with a lease of this source address. The listing is dropped before the handle.
pub(crate) fn leased<'t>(
    table: &'t FlowTable,
    opener: &Rc<FlowOpener>,
    (number, tenant, client): (u64, &str, &str),
    (source, to): (&str, &str),
    hostname: Option<&str>,
) -> (FlowListing<'t>, FlowHandle) {
    let mut handle = accepted(opener, number, client, to);
    let mut record = handle.record();
    record.tenant = Some(tenant.into());
    record.pool = Some("pool".into());
    record.rule = Some("egret.toml:12".into());
    record.source = Some(LeasedSource::new(source.parse().unwrap()));
    record.dialled = Some(DialAddr::tcp(to.parse().unwrap()));
    record.hostname = hostname.map(|name| name.parse().unwrap());
    drop(record);
    let seen = hostname.map(|name| ClientInspection::Asked {
        name: AskedName::from_bytes(name.as_bytes()),
        ech: false,
        unframed: false,
    });
    let listing = handle.list(table, seen);
    handle.set_state(FlowState::Dialling);
    (listing, handle)
}
