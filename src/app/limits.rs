//! Budget of file descriptors: everything in the gateway that opens any.

use crate::admin;
use crate::gateway::MOST_WAITING;
use crate::sys::limits;
use crate::verify::{MOST_CHECKS, SOCKETS_OF_A_LOOKUP};
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
/// Sockets of DNS queries: where there are enough, 64 lookups at one server without DNSSEC, or more.
const LOOKUPS: DescriptorPart = DescriptorPart { divisor: 64, least: 64 * SOCKETS_OF_A_LOOKUP, of_few: 8 };
/// Sockets of certificate probes.
const PROBES: DescriptorPart = DescriptorPart { divisor: 256, least: 64, of_few: 32 };
/// Fewer flows than this indicate a misconfiguration.
const FEW_FLOWS: u32 = 1000;

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

/// How many of each there may be at once, so that descriptors never run out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct DescriptorBudget {
    /// Flows of all workers.
    pub(super) flows: u32,
    /// Pipes of one worker.
    pub(super) pipes: usize,
    /// Attempts to dial of all workers, beside each flow's first.
    pub(super) attempts: u32,
    /// Sockets of DNS queries.
    pub(super) lookup_sockets: usize,
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
        "too few file descriptors: the limit is {have}, and {workers} workers need {need} for {FEW_FLOWS} flows; \
         raise it (systemd: LimitNOFILE=1048576, shell: ulimit -n 1048576)"
    )]
    TooFew {
        /// The hard limit.
        have: u64,
        /// Limit for [`FEW_FLOWS`].
        need: u64,
        /// Number of workers.
        workers: usize,
    },
}

/// Raises the limit on open files as far as possible, and returns the capacity, with at most `wanted` flows.
pub(super) fn descriptor_budget(workers: usize, wanted: Option<u32>) -> Result<DescriptorBudget, LimitError> {
    let have = limits::raise_open_files()?;
    let room = divide(have, workers);
    if room.flows == 0 {
        return Err(LimitError::TooFew { have, need: descriptors_for(FEW_FLOWS, workers), workers });
    }
    match wanted {
        Some(wanted) if wanted > room.flows => {
            tracing::warn!(
                wanted,
                max_flows = room.flows,
                open_files = have,
                needed = descriptors_for(wanted, workers),
                "max_flows does not fit the limit on open files; going on with what fits (raise LimitNOFILE to what is needed)"
            );
        }
        None if room.flows < FEW_FLOWS => {
            tracing::warn!(
                max_flows = room.flows,
                open_files = have,
                needed = descriptors_for(FEW_FLOWS, workers),
                "the limit on open files leaves few flows; going on with what fits (raise LimitNOFILE to what is needed)"
            );
        }
        Some(_) | None => {}
    }
    Ok(DescriptorBudget { flows: room.flows.min(wanted.unwrap_or(u32::MAX)), ..room })
}

/// Returns the least limit on open files that has room for so many flows.
pub fn descriptors_for(flows: u32, workers: usize) -> u64 {
    let (mut too_few, mut enough) = (0, u64::from(u32::MAX) * 4);
    while too_few + 1 < enough {
        let middle = too_few.midpoint(enough);
        if divide(middle, workers).flows >= flows {
            enough = middle;
        } else {
            too_few = middle;
        }
    }
    enough
}

fn divide(have: u64, workers: usize) -> DescriptorBudget {
    let fixed = FIXED + ADMIN + PER_WORKER * workers as u64;
    let rest = have.saturating_sub(fixed);
    let (for_pipes, attempts, lookup_sockets) = (PIPES.of(rest), ATTEMPTS.of(rest), LOOKUPS.of(rest));
    let probes = PROBES.of(rest).min(u64::from(MOST_CHECKS));
    let flows = (rest - for_pipes - attempts - lookup_sockets - probes) / PAIR;
    let pipes = for_pipes / PAIR / workers.max(1) as u64;
    DescriptorBudget {
        flows: u32::try_from(flows).unwrap_or(u32::MAX),
        pipes: usize::try_from(pipes).unwrap_or(usize::MAX),
        attempts: u32::try_from(attempts).unwrap_or(u32::MAX),
        lookup_sockets: usize::try_from(lookup_sockets).unwrap_or(usize::MAX),
        probes: usize::try_from(probes).unwrap_or(usize::MAX),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn descriptor_budget_is_never_exceeded() {
        for have in [150, 256, 1024, 20_000, 1_048_576, u64::from(u32::MAX) * 4] {
            for workers in [1, 2, 64] {
                let room = divide(have, workers);
                if room.flows == 0 {
                    continue;
                }
                let pairs = PAIR * (u64::from(room.flows) + (room.pipes * workers) as u64);
                let used = pairs + u64::from(room.attempts) + (room.lookup_sockets + room.probes) as u64;
                let fixed = FIXED + ADMIN + PER_WORKER * workers as u64;
                assert!(used + fixed <= have, "{have} {workers} {room:?}");
            }
        }
        assert_eq!(divide(128, 1).flows, 0);
        let DescriptorBudget { attempts, lookup_sockets, probes, .. } = divide(1_048_576, 2);
        assert_eq!((attempts, lookup_sockets, probes), (8189, 16_378, 512));
    }

    #[test]
    fn least_limit_has_room_for_flows() {
        for flows in [1, 1000, 10_000, 1_000_000, u32::MAX] {
            for workers in [1, 2, 64] {
                let least = descriptors_for(flows, workers);
                assert!(divide(least, workers).flows >= flows, "{flows} {workers}");
                assert!(divide(least - 1, workers).flows < flows, "{flows} {workers}");
            }
        }
    }
}
