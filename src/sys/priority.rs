//! How much of a busy processor a thread gets.

/// Far below the workers' weight, and not so little that a reload on a machine without a free moment never ends.
const NICE: libc::c_int = 10;

/// From now on the calling thread gives way to those that carry flows. Needs no privilege; it cannot be taken back.
#[expect(unsafe_code, reason = "setpriority(2)")]
pub fn yield_to_others() {
    // SAFETY: setpriority takes three numbers and touches no memory. 0 names the calling thread: on Linux each has a
    // priority of its own. If it fails, the thread goes on with the priority that it has.
    let _ = unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, NICE) };
}
