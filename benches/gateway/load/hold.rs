//! Idle connections.

use super::dial::{Established, establish};
use super::{Job, Report, next_order, ready, tell};
use egret::clock;

pub fn run(job: &Job) -> Result<(), String> {
    if !ready() {
        return Ok(());
    }
    loop {
        let began = clock::now();
        let Established { sockets, failures, failure } = establish(job)?;
        tell(&Report {
            units: sockets.len() as u64,
            seconds: began.elapsed().as_secs_f64(),
            failures,
            failure,
            ..Report::default()
        });
        let go_on = next_order();
        drop(sockets);
        if !go_on {
            return Ok(());
        }
        tell(&Report::default());
        if !next_order() {
            return Ok(());
        }
    }
}
