//! Files and sockets that the configuration names, opened before anything runs.

use super::late_listener::LateListener;
use super::{StartError, listeners, observe};
use crate::admin::ControlSocket;
use crate::config::Config;
use crate::sys::liveness::Liveness;
use crate::telemetry::{AuditLog, FlowLogHandle, FlowLogThread, Metrics, StandingProblem};
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;

/// The flow log's queue and thread.
pub(super) type RunningFlowLog = (FlowLogHandle, FlowLogThread);

/// The files and sockets that the configuration names, opened before anything runs.
pub(super) struct Opened {
    pub(super) flow_log: Option<RunningFlowLog>,
    pub(super) audit_log: AuditLog,
    /// The transparent listeners' address.
    pub(super) listen: SocketAddr,
    pub(super) listeners: Vec<TcpListener>,
    pub(super) metrics_listener: Option<LateListener<tokio::net::TcpListener>>,
    pub(super) control_socket: Option<LateListener<ControlSocket>>,
}

impl Opened {
    /// Opens all of them. Only the traffic's listeners and the logs' threads can fail it; the other listeners are opened later.
    pub(super) fn open(
        config: &Config,
        workers: usize,
        liveness: &Liveness,
        metrics: &Arc<Metrics>,
    ) -> Result<Self, StartError> {
        let flow_log = observe::open_flow_log(config, metrics)?;
        let audit_log = observe::open_audit_log(config, metrics)?;
        let listen = listeners::usable(config.gateway.listen);
        let listeners = listeners::transparent(listen, workers, liveness, config.gateway.keeps_class)?;
        let metrics_listener = config.gateway.metrics.map(|address| {
            let missing = "nothing can ask this gateway for metrics, health and readiness";
            LateListener::open(format!("the metrics listener {address}"), missing, move || {
                listeners::metrics(address)
            })
        });
        let control_socket = config.gateway.admin.clone().map(|path| {
            let missing = "this gateway answers no questions and takes no orders, such as `egret ports` and `egret reload`";
            LateListener::open(format!("the control socket {}", path.display()), missing, move || {
                ControlSocket::open(&path)
            })
        });
        Ok(Self { flow_log, audit_log, listen, listeners, metrics_listener, control_socket })
    }

    /// Problems that readiness mentions. That of the metrics listener cannot be asked for.
    pub(super) fn problems(&self) -> Vec<StandingProblem> {
        let flow_log = self.flow_log.as_ref().map(|(handle, _)| handle.problem());
        let control_socket = self.control_socket.as_ref().map(LateListener::problem);
        [Some(self.audit_log.problem()), flow_log, control_socket].into_iter().flatten().collect()
    }
}
