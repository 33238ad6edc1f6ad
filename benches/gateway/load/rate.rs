//! New connections, one after the other in each of several slots.

use super::dial::Dialler;
use super::window::Window;
use super::{Job, Report, ready, tell};

pub fn run(job: &Job) {
    let mut dialler = Dialler::new(job, job.connections);
    if !ready() {
        return;
    }
    let mut window = Window::new(job);
    for place in (0..job.connections).take_while(|_| window.start()) {
        dialler.start(place);
    }
    while window.goes_on() {
        for event in 0..dialler.wait(window.next_edge()) {
            let Some((place, connected)) = dialler.handle(event) else { continue };
            match connected {
                Some(connected) => window.done(connected.latency),
                None => window.failed(),
            }
            if window.start() {
                dialler.start(place);
            }
        }
    }
    let report = window.close();
    tell(&Report { failures: dialler.failures, failure: dialler.failure, ..report });
}
