//! When the gateway's process dies, its flows are reset: truncated data never looks complete.

use crate::clients::{expect_reset, read_all};
use crate::config::Config;
use crate::flows::Flow;
use crate::lab::{Family, Host, Lab, Tenant};
use crate::requests::{FIRST, expect, opened};
use crate::servers::Server;
use crate::traffic::{self, pass};
use crate::wait::wait_until;
use nix::sys::signal::Signal;
use std::io::Write;
use std::net::Shutdown;
use std::thread;

crate::trials! {
    both families:
        crash_resets_both_ends_of_flows,
        crash_truncates_no_finished_flow;
    once:
}

/// Less than an unread socket's buffer: its host acknowledges all of it.
const UNREAD: usize = 16 * 1024;

fn crash_resets_both_ends_of_flows(family: Family) {
    let lab = Lab::new();
    let mut gateway = lab.start_gateway(&Config::default());
    let raw = Server::raw(&lab, family, 7000);
    let named = lab.listen(Host::Named, family, 80);
    for signal in [Signal::SIGKILL, Signal::SIGABRT, Signal::SIGSEGV] {
        let Flow { client, upstream } = Flow::open(&lab, Tenant::Alpha, &raw);
        pass(&client, &upstream, b"a question");
        pass(&upstream, &client, b"half an answer");
        // A response delimited by end of file, and one whose client has finished.
        let (asking, mut answering) = opened(&lab, &named, FIRST);
        expect(&answering, FIRST);
        answering.write_all(b"HTTP/1.1 200 OK\r\n\r\nhalf").unwrap();
        expect(&asking, "HTTP/1.1 200 OK\r\n\r\nhalf");
        let Flow { client: finished, upstream: to_finished } = Flow::open(&lab, Tenant::Alpha, &raw);
        finished.shutdown(Shutdown::Write).unwrap();
        assert_eq!(read_all(&to_finished), b"");
        // Rust's own handler of SIGSEGV checks for a stack overflow first, and leaves the next to the kernel.
        wait_until("the gateway to die", || {
            gateway.signal(signal);
            gateway.status("State") == "Z"
        });
        gateway.wait_for_end();
        for stream in [&client, &upstream, &asking, &answering, &finished] {
            assert_eq!(expect_reset(stream), b"", "{signal}");
        }
        gateway.start_again();
    }
}

fn crash_truncates_no_finished_flow(family: Family) {
    let lab = Lab::new();
    let mut gateway = lab.start_gateway(&Config::default());
    let server = Server::raw(&lab, family, 7000);
    // Neither end has read its bytes when the flow ends.
    let flows: Vec<_> = (0..2).map(|_| Flow::open(&lab, Tenant::Alpha, &server)).collect();
    for Flow { client, upstream } in &flows {
        let [first, last] = [client, upstream];
        traffic::send(first, UNREAD);
        first.shutdown(Shutdown::Write).unwrap();
        traffic::send(last, UNREAD);
        last.shutdown(Shutdown::Write).unwrap();
    }
    gateway.wait_for_flows(flows.len());
    gateway.signal(Signal::SIGKILL);
    gateway.wait_for_end();
    for Flow { client, upstream } in &flows {
        thread::scope(|scope| {
            for end in [client, upstream] {
                scope.spawn(|| {
                    traffic::receive(end, UNREAD);
                    assert_eq!(read_all(end), b"");
                });
            }
        });
    }
}
