//! Capacity by the limit on file descriptors.

use crate::gateway::MOST_WAITING;
use crate::sys::limits;
use std::io;

/// Descriptors for anything but flows and pipes: listeners, logs, epoll, metrics connections.
const OVERHEAD: u64 = 128;
/// For each worker: its event loop, and queued connections handed over by other workers.
const PER_WORKER: u64 = 8 + MOST_WAITING as u64;
/// A flow has two sockets, a pipe two ends.
const PAIR: u64 = 2;
/// Fraction of the descriptors for pipes, as a divisor; flows without a pipe copy.
const PIPE_SHARE: u64 = 16;
/// Fewer flows than this indicate a misconfiguration.
const FEW_FLOWS: u64 = 1000;

/// Capacity for flows and pipes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct DescriptorBudget {
    /// Flows of all workers.
    pub(super) flows: u32,
    /// Pipes of one worker.
    pub(super) pipes: usize,
}

/// Reason why the descriptor limit is unsuitable.
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
        /// The smallest useful limit.
        need: u64,
        /// Number of workers.
        workers: usize,
    },
}

/// Raises the limit on open files as far as possible, and returns the capacity, with at most `wanted` flows.
pub(super) fn descriptor_budget(workers: usize, wanted: Option<u32>) -> Result<DescriptorBudget, LimitError> {
    let have = limits::raise_open_files()?;
    let room = divide(have, workers, wanted)?;
    match wanted {
        Some(wanted) if wanted > room.flows => {
            tracing::warn!(
                wanted,
                max_flows = room.flows,
                open_files = have,
                "max_flows does not fit the limit on open files; going on with what fits (raise LimitNOFILE)"
            );
        }
        None if u64::from(room.flows) < FEW_FLOWS => {
            tracing::warn!(
                max_flows = room.flows,
                open_files = have,
                "the limit on open files leaves few flows; going on with what fits (raise LimitNOFILE)"
            );
        }
        Some(_) | None => {}
    }
    Ok(room)
}

fn divide(have: u64, workers: usize, wanted: Option<u32>) -> Result<DescriptorBudget, LimitError> {
    let fixed = OVERHEAD + PER_WORKER * workers as u64;
    let rest = have.saturating_sub(fixed);
    let for_pipes = rest / PIPE_SHARE;
    let fit = u32::try_from((rest - for_pipes) / PAIR).unwrap_or(u32::MAX);
    if fit == 0 {
        return Err(LimitError::TooFew { have, need: fixed + PAIR * FEW_FLOWS, workers });
    }
    let pipes = for_pipes / PAIR / workers.max(1) as u64;
    Ok(DescriptorBudget {
        flows: wanted.map_or(fit, |wanted| wanted.min(fit)),
        pipes: usize::try_from(pipes).unwrap_or(usize::MAX),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn descriptor_budget_is_never_exceeded() {
        for have in [150, 256, 1024, 20_000, 1_048_576, u64::from(u32::MAX) * 4] {
            for workers in [1, 2, 64] {
                let Ok(room) = divide(have, workers, None) else { continue };
                let used = PAIR * (u64::from(room.flows) + (room.pipes * workers) as u64);
                assert!(used + OVERHEAD + PER_WORKER * workers as u64 <= have, "{have} {workers} {room:?}");
            }
        }
        assert!(matches!(divide(128, 1, None), Err(LimitError::TooFew { .. })));
        assert_eq!(divide(20_000, 2, Some(10)).unwrap().flows, 10);
    }
}
