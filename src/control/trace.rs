//! Traces of flows, for the control API.

use super::audit::Auditor;
use crate::admin::{ControlError, TraceAnswer, TraceOrder, TraceQuery, TraceStarted, TraceStep};
use crate::audit::{Originator, SocketPeer, What};
use crate::telemetry::{FlowTraces, LONGEST_TRACE, MOST_TRACED_FLOWS, TraceReport, TraceRequest, TracedStep};
use std::time::Duration;
use tokio::time::sleep;
use tracing::field;

/// Time between two looks for a trace that nobody reads.
const SWEEP: Duration = Duration::from_secs(1);

/// As [`start`], with a record of it in the audit log.
pub(super) fn audited_start(
    traces: &FlowTraces,
    auditor: &Auditor,
    peer: SocketPeer,
    order: TraceOrder,
) -> Result<TraceStarted, ControlError> {
    let clients = order.clients.map_or_else(|| "any client".to_owned(), |clients| clients.to_string());
    let names = order.names.as_deref().unwrap_or("any name");
    let subject = format!("{clients}, {names}, {} s, {} flows", order.seconds, order.flows);
    let answer = start(traces, peer, order);
    let result = answer.as_ref().map(|_| ()).map_err(ToString::to_string);
    auditor.noted(What::Trace, Originator::Control(peer), subject, result);
    answer
}

/// Starts a trace. It ends by itself once its time is over, or nobody reads it.
fn start(traces: &FlowTraces, peer: SocketPeer, order: TraceOrder) -> Result<TraceStarted, ControlError> {
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

    #[tokio::test]
    async fn traces_are_in_the_audit_log() {
        let folder = tempfile::tempdir().unwrap();
        let (traces, auditor) = (FlowTraces::default(), Auditor::in_test(folder.path()));
        let peer = SocketPeer { uid: Some(7), gid: None, pid: None };
        let clients = Some("10.0.1.0/24".parse().unwrap());
        let order = TraceOrder { clients, names: None, seconds: 60, flows: 2 };
        let wrong = TraceOrder { names: Some("a..b".to_owned()), ..order.clone() };
        assert!(audited_start(&traces, &auditor, peer, order).is_ok());
        assert!(audited_start(&traces, &auditor, peer, wrong).is_err());
        let told: Vec<_> = auditor.records(folder.path());
        let told = told.iter().map(|line| [&line["change"], &line["result"], &line["subject"]]);
        assert_eq!(
            told.collect::<Vec<_>>(),
            [
                ["trace", "done", "10.0.1.0/24, any name, 60 s, 2 flows"],
                ["trace", "refused", "10.0.1.0/24, a..b, 60 s, 2 flows"],
            ]
        );
    }

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
