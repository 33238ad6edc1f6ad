//! How many flows the process's descriptors allow.

use crate::gateway;
use crate::sys::limits;
use std::io;

/// Descriptors that are no flow's: listeners, logs, epoll, metrics connections.
const OVERHEAD: u64 = 128;
/// A worker's pipes, two descriptors each.
const PER_WORKER: u64 = 2 * gateway::PIPES as u64;
/// A flow has two sockets.
const PER_FLOW: u64 = 2;
/// Below this many flows something is set wrongly.
const FEW_FLOWS: u64 = 1000;

/// Why the descriptor limit does not do.
#[derive(Debug, thiserror::Error)]
pub enum LimitError {
    /// It could not be read or raised.
    #[error("cannot read or raise the limit on open files: {0}")]
    Unreadable(#[from] io::Error),
    /// Nothing is left for flows.
    #[error(
        "too few file descriptors: the limit is {have}, and {workers} workers need at least {need}; \
         raise it (systemd: LimitNOFILE=1048576, shell: ulimit -n 1048576)"
    )]
    TooFew {
        /// The hard limit.
        have: u64,
        /// The least that makes sense.
        need: u64,
        /// As many as will run.
        workers: usize,
    },
}

/// Raises the limit on open files as far as it goes, and yields how many flows fit, at most `wanted`.
pub(super) fn max_flows(workers: usize, wanted: Option<u32>) -> Result<u32, LimitError> {
    let have = limits::raise_open_files()?;
    let fixed = OVERHEAD + PER_WORKER * workers as u64;
    let fit = have.saturating_sub(fixed) / PER_FLOW;
    if fit == 0 {
        return Err(LimitError::TooFew { have, need: fixed + PER_FLOW * FEW_FLOWS, workers });
    }
    let fit = u32::try_from(fit).unwrap_or(u32::MAX);
    match wanted {
        Some(wanted) if wanted > fit => {
            tracing::warn!(
                wanted,
                max_flows = fit,
                open_files = have,
                "max_flows does not fit the limit on open files; going on with what fits (raise LimitNOFILE)"
            );
        }
        None if u64::from(fit) < FEW_FLOWS => {
            tracing::warn!(
                max_flows = fit,
                open_files = have,
                "the limit on open files leaves few flows; going on with what fits (raise LimitNOFILE)"
            );
        }
        Some(_) | None => {}
    }
    Ok(wanted.map_or(fit, |wanted| wanted.min(fit)))
}
