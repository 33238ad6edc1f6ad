//! Budget of file descriptors: everything in the gateway that opens any.

use crate::admin;
use crate::gateway::MOST_WAITING;
use crate::sys::limits;
use crate::verify::{MOST_LOOKUPS, SOCKETS_OF_A_QUERY};
use std::io;

/// Descriptors whose number neither tenants nor peers of a listener change: listeners, logs, signals, event loops of the
/// control plane and of verifiers, netlink, files that a reload reads.
const FIXED: u64 = 64;
/// Connections to the metrics listener and to the control socket, and the next one of each.
const ADMIN: u64 = 2 * (admin::CONNECTIONS as u64 + 1);
/// For each worker: its event loop, and queued connections handed over by other workers.
const PER_WORKER: u64 = 8 + MOST_WAITING as u64;
/// A flow has two sockets, a pipe two ends.
const PAIR: u64 = 2;
/// Part of the descriptors for pipes; flows without a pipe copy.
const PIPES: DescriptorPart = DescriptorPart { divisor: 32, least: 0, of_few: 1 };
/// Upstream sockets beside each flow's own: of addresses that are tried at once.
const ATTEMPTS: DescriptorPart = DescriptorPart { divisor: 128, least: 64, of_few: 32 };
/// Sockets of DNS queries: 64 lookups at one server.
const LOOKUPS: DescriptorPart = DescriptorPart { divisor: 64, least: 64 * SOCKETS_OF_A_QUERY, of_few: 8 };
/// Sockets of certificate probes.
const PROBES: DescriptorPart = DescriptorPart { divisor: 256, least: 64, of_few: 32 };
/// DNS servers up to which the most lookups are possible; each lookup queries all of them.
const SERVERS: usize = 4;
/// Fewer flows than this indicate a misconfiguration.
const FEW_FLOWS: u64 = 1000;

/// A part of the descriptors that flows share with others.
struct DescriptorPart {
    /// One in this many.
    divisor: u64,
    /// Least number where there are enough.
    least: usize,
    /// One in this many, where that is less than the least.
    of_few: u64,
}

impl DescriptorPart {
    fn of(&self, rest: u64) -> u64 {
        (rest / self.divisor).max((self.least as u64).min(rest / self.of_few))
    }
}

/// Capacity for all that takes descriptors by its number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct DescriptorBudget {
    /// Flows of all workers.
    pub(super) flows: u32,
    /// Pipes of one worker.
    pub(super) pipes: usize,
    /// Attempts to dial of all workers, beside each flow's first.
    pub(super) attempts: u32,
    /// Sockets of DNS queries.
    pub(super) lookups: usize,
    /// Certificate probes.
    pub(super) probes: usize,
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
    let fixed = FIXED + ADMIN + PER_WORKER * workers as u64;
    let rest = have.saturating_sub(fixed);
    let (for_pipes, attempts) = (PIPES.of(rest), ATTEMPTS.of(rest));
    let lookups = LOOKUPS.of(rest).min(u64::from(MOST_LOOKUPS) * (SOCKETS_OF_A_QUERY * SERVERS) as u64);
    let probes = PROBES.of(rest).min(u64::from(MOST_LOOKUPS));
    let fit = u32::try_from((rest - for_pipes - attempts - lookups - probes) / PAIR).unwrap_or(u32::MAX);
    if fit == 0 {
        return Err(LimitError::TooFew { have, need: fixed + PAIR * FEW_FLOWS, workers });
    }
    let pipes = for_pipes / PAIR / workers.max(1) as u64;
    Ok(DescriptorBudget {
        flows: wanted.map_or(fit, |wanted| wanted.min(fit)),
        pipes: usize::try_from(pipes).unwrap_or(usize::MAX),
        attempts: u32::try_from(attempts).unwrap_or(u32::MAX),
        lookups: usize::try_from(lookups).unwrap_or(usize::MAX),
        probes: usize::try_from(probes).unwrap_or(usize::MAX),
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
                let pairs = PAIR * (u64::from(room.flows) + (room.pipes * workers) as u64);
                let used = pairs + u64::from(room.attempts) + (room.lookups + room.probes) as u64;
                let fixed = FIXED + ADMIN + PER_WORKER * workers as u64;
                assert!(used + fixed <= have, "{have} {workers} {room:?}");
            }
        }
        assert!(matches!(divide(128, 1, None), Err(LimitError::TooFew { .. })));
        assert_eq!(divide(20_000, 2, Some(10)).unwrap().flows, 10);
        let DescriptorBudget { attempts, lookups, probes, .. } = divide(1_048_576, 2, None).unwrap();
        assert_eq!((attempts, lookups, probes), (8189, 12_288, 512));
    }
}
