//! Files and sockets that the configuration names, opened before anything runs.

use super::control_socket::OpenedSocket;
use super::{StartError, listeners, observe};
use crate::config::Config;
use crate::sys::liveness::Liveness;
use crate::telemetry::{AuditLog, FlowLogHandle, FlowLogThread, Metrics};
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
    pub(super) metrics_listener: Option<TcpListener>,
    pub(super) control_socket: Option<OpenedSocket>,
}

impl Opened {
    /// Opens all of them.
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
        let metrics_listener = config.gateway.metrics.map(listeners::metrics).transpose()?;
        let control_socket = config.gateway.admin.clone().map(OpenedSocket::open);
        Ok(Self { flow_log, audit_log, listen, listeners, metrics_listener, control_socket })
    }
}
