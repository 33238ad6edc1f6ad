//! Bulk transfer at full rate, on every connection.

use super::dial::{Established, establish};
use super::window::Window;
use super::{Job, Kind, Report, ready, tell};
use crate::bytes::{Payload, discard};
use crate::poller::{Poller, READABLE, WRITABLE};

pub fn run(job: &Job) -> Result<(), String> {
    let Established { sockets, failures, failure } = establish(job)?;
    if !ready() {
        return Ok(());
    }
    let down = job.kind == Kind::Down;
    let mut poller = Poller::new();
    let payload = Payload::new();
    let mut offsets = vec![0; sockets.len()];
    let mut buffer = vec![0; 1 << 20];
    let mut window = Window::new(job);
    for (key, socket) in sockets.iter().enumerate() {
        if down {
            socket.send(b"!").map_err(|e| format!("the order to send could not be sent: {e}"))?;
        }
        poller.watch(socket, key, if down { READABLE } else { WRITABLE });
    }
    let mut shares = vec![0; sockets.len()];
    while window.goes_on() {
        for event in 0..poller.wait(Some(window.next_edge())) {
            let (key, _) = poller.event(event);
            let moved = if down {
                discard(&sockets[key], &mut buffer)
            } else {
                payload.send(&sockets[key], &mut offsets[key])
            };
            let moved = moved.map_err(|_| "a connection ended in the middle")?;
            if window.count(moved as u64) {
                shares[key] += moved as u64;
            }
        }
    }
    tell(&Report { failures, failure, shares, ..window.close() });
    Ok(())
}
