//! Serves the control socket. One that cannot be opened is tried again, and keeps nobody's traffic from passing.

use crate::admin::{self, ControlHandlers, ControlSocket};
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::time::sleep;

/// Time between two attempts.
const PAUSE: Duration = Duration::from_secs(1);

/// A control socket, open if it could be.
pub(super) struct OpenedSocket {
    path: PathBuf,
    socket: Option<ControlSocket>,
}

impl OpenedSocket {
    /// Opens the socket, or logs the reason why it is not open.
    pub(super) fn open(path: PathBuf) -> Self {
        let socket = ControlSocket::open(&path).map_err(|error| {
            tracing::error!(
                "{error}; until it is open, which is tried each second, this gateway answers no questions and takes no \
                 orders, such as `egret ports` and `egret reload`"
            );
        });
        Self { path, socket: socket.ok() }
    }

    /// Serves it, as soon as it is open.
    pub(super) async fn serve(self, control: ControlHandlers) {
        let socket = match self.socket {
            Some(socket) => socket,
            None => opened(&self.path).await,
        };
        if let Err(error) = admin::serve_control(socket, control).await {
            tracing::error!(%error, "the control socket {} has failed", self.path.display());
        }
    }
}

async fn opened(path: &Path) -> ControlSocket {
    loop {
        sleep(PAUSE).await;
        if let Ok(socket) = ControlSocket::open(path) {
            tracing::info!("the control socket {} is open now", path.display());
            return socket;
        }
    }
}
