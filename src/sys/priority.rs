//! Scheduling priority of threads.

/// Far below the workers' weight, but enough for a reload to finish on a fully loaded machine.
const NICE: libc::c_int = 10;

/// Lowers the calling thread's priority below that of the workers. Needs no privilege; cannot be undone.
#[expect(unsafe_code, reason = "setpriority(2)")]
pub fn yield_to_others() {
    // SAFETY: setpriority takes three numbers and touches no memory. 0 names the calling thread: on Linux each has a
    // priority of its own. If it fails, the thread goes on with the priority that it has.
    let _ = unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, NICE) };
}
