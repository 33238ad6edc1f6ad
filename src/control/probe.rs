//! Flows of `egret doctor`'s own, for the control API.

use crate::addr::{ClientAddr, DialAddr, LeasedSource};
use crate::admin::{ProbeExpected, ProbeOrder, ProbeQuery, ProbedFlow, ProbedFlowAnswer};
use crate::audit::SocketPeer;
use crate::flow::{FlowEntry, FlowState, FlowTable};

/// Expects a probe's connection, whose flow is left out of a candidate's figures. The log names who asked, once for all probes of a
/// client that are expected at a time.
pub(super) fn expect(table: &FlowTable, peer: SocketPeer, order: &ProbeOrder) -> ProbeExpected {
    let client = ClientAddr::new(order.client);
    if table.probes().announce(client) {
        tracing::info!(%peer, client = %client.ip(), "probes are expected, which do not count in a candidate's figures");
    }
    ProbeExpected {}
}

/// Tells how far a probe's last flow has come.
pub(super) fn find(table: &FlowTable, query: &ProbeQuery) -> ProbedFlowAnswer {
    ProbedFlowAnswer { flow: table.probes().find(ClientAddr::new(query.client)).map(|entry| told(&entry)) }
}

fn told(entry: &FlowEntry) -> ProbedFlow {
    let has_ended = entry.state() == FlowState::Closed;
    let record = entry.record();
    ProbedFlow {
        flow: record.flow.to_string(),
        outcome: has_ended.then(|| record.outcome.to_string()),
        detail: record.detail.map(str::to_owned),
        inspected: record.inspect.is_some(),
        dialled: record.dialled.map(DialAddr::socket),
        source: record.source.map(LeasedSource::socket),
        public: record.public,
        connected: record.connect.is_some(),
        bytes_up: record.bytes_up,
        bytes_down: record.bytes_down,
    }
}
