//! Traces of flows, for the control API.

use crate::admin::{ControlError, TraceAnswer, TraceOrder, TraceQuery, TraceStarted, TraceStep};
use crate::audit::SocketPeer;
use crate::telemetry::{FlowTraces, LONGEST_TRACE, MOST_TRACED_FLOWS, TraceReport, TraceRequest, TracedStep};
use std::time::Duration;
use tokio::time::sleep;
use tracing::field;

/// Time between two looks for a trace that nobody reads.
const SWEEP: Duration = Duration::from_secs(1);

/// Starts a trace. It ends by itself once its time is over, or nobody reads it.
pub(super) fn start(
    traces: &FlowTraces,
    peer: SocketPeer,
    order: TraceOrder,
) -> Result<TraceStarted, ControlError> {
    let names = order.names.as_deref().map(str::parse).transpose();
    let names = names.map_err(|why| {
        ControlError::BadArgument(format!("{:?} is {why}", order.names.unwrap_or_default()))
    })?;
    let within = |value: u32, most: u64| value > 0 && u64::from(value) <= most;
    if !within(order.seconds, LONGEST_TRACE.as_secs()) || !within(order.flows, MOST_TRACED_FLOWS.into()) {
        let why = format!(
            "a trace lasts 1 to {} seconds, for 1 to {MOST_TRACED_FLOWS} flows",
            LONGEST_TRACE.as_secs()
        );
        return Err(ControlError::BadArgument(why));
    }
    let clients = order.clients.map(field::display);
    let of_names = names.as_ref().map(field::display);
    tracing::info!(%peer, clients, names = of_names, seconds = order.seconds, "an operator traces flows");
    let time = Duration::from_secs(order.seconds.into());
    let trace = traces.start(TraceRequest { clients: order.clients, names, time, flows: order.flows });
    let traces = traces.clone();
    tokio::spawn(async move {
        while traces.sweep(trace) {
            sleep(SWEEP).await;
        }
    });
    Ok(TraceStarted { trace })
}

/// Takes the steps that are waiting.
pub(super) fn read(traces: &FlowTraces, query: &TraceQuery) -> TraceAnswer {
    let TraceReport { steps, flows, dropped, over } = traces.read(query.trace);
    let step =
        |TracedStep { flow, client, microseconds, step }| TraceStep { flow, client, microseconds, step };
    TraceAnswer {
        steps: steps.into_iter().map(step).collect(),
        flows,
        dropped,
        over: over.map(str::to_owned),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn orders_out_of_range_are_bad_arguments() {
        let good = TraceOrder { seconds: 1, flows: 1, ..TraceOrder::default() };
        for order in [
            TraceOrder { seconds: 0, ..good.clone() },
            TraceOrder { seconds: 601, ..good.clone() },
            TraceOrder { flows: 0, ..good.clone() },
            TraceOrder { flows: 1001, ..good.clone() },
            TraceOrder { names: Some("a..b".to_owned()), ..good },
        ] {
            let peer = SocketPeer { uid: None, gid: None, pid: None };
            let refused = start(&FlowTraces::default(), peer, order.clone());
            assert!(matches!(refused, Err(ControlError::BadArgument(_))), "{order:?}: {refused:?}");
        }
    }
}
