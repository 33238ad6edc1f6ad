//! Distribution of flows among workers.

use crate::config::Config;
use crate::flows::Flow;
use crate::gateway::Gateway;
use crate::lab::{Family, Lab, Tenant};
use crate::servers::Server;
use crate::wait::wait_for;
use std::collections::BTreeMap;

crate::trials! {
    both families:
        busier_worker_hands_over_connections;
    once:
}

/// Number of sockets of a flow.
const PAIR: usize = 2;
/// Number of descriptors that a loop without flows watches: its listener, and its wake-up descriptor. The loop may
/// start after the gateway is ready, because its listener is opened earlier.
const BARE: usize = 2;

fn busier_worker_hands_over_connections(family: Family) {
    let lab = Lab::new();
    let gateway = lab.start_gateway(&Config { workers: 2, ..Config::default() });
    let server = Server::raw(&lab, family, 7000);
    let mut flows: Vec<_> = (0..24).map(|_| open(&lab, &gateway, &server)).collect();
    let of = |flows: &[Placed], worker| flows.iter().filter(|flow| flow.worker == worker).count();
    let one = flows[0].worker;
    let ours = of(&flows, one);
    assert!((8..=16).contains(&ours), "{ours} of 24");
    // All flows of the other worker end. New ones go to it, whichever worker the kernel chooses.
    let before: usize = gateway.watched().values().sum();
    let others = 24 - ours;
    flows.retain(|flow| flow.worker == one);
    wait_for("the flows to end", || {
        let now: usize = gateway.watched().values().sum();
        if now + others * PAIR == before { Ok(()) } else { Err(format!("{now} of {before}")) }
    });
    let next: Vec<_> = (0..7).map(|_| open(&lab, &gateway, &server)).collect();
    assert_eq!(of(&next, one), 0);
    flows.iter().chain(&next).for_each(|placed| placed.flow.assert_alive());
    drop((flows, next));
    gateway.wait_for_flows(31);
}

struct Placed {
    flow: Flow,
    /// Its worker: the descriptor of the epoll instance.
    worker: u32,
}

/// Opens a flow, and determines its worker.
fn open(lab: &Lab, gateway: &Gateway, server: &Server) -> Placed {
    let before = gateway.watched();
    let flow = Flow::open(lab, Tenant::Alpha, server);
    // The server has it a moment before the loop does.
    let worker = wait_for("a worker to have the flow", || {
        let after = gateway.watched();
        let grown = after.iter().filter(|(fd, count)| before.get(fd).unwrap_or(&BARE) + PAIR == **count);
        match grown.map(|(fd, _)| *fd).collect::<Vec<_>>()[..] {
            [worker] => Ok(worker),
            _ => Err(format!("{before:?}, then {after:?}")),
        }
    });
    Placed { flow, worker }
}

impl Gateway<'_> {
    /// Number of descriptors watched by each of its epoll instances.
    fn watched(&self) -> BTreeMap<u32, usize> {
        let fds = std::fs::read_dir(self.proc("fd")).unwrap().map(|entry| entry.unwrap().path());
        let epolls = fds.filter(|path| {
            std::fs::read_link(path).is_ok_and(|what| what.as_os_str() == "anon_inode:[eventpoll]")
        });
        let count = |fd: u32| {
            let info = std::fs::read_to_string(self.proc(&format!("fdinfo/{fd}"))).unwrap();
            info.lines().filter(|line| line.starts_with("tfd:")).count()
        };
        let fds = epolls.map(|path| path.file_name().unwrap().to_str().unwrap().parse().unwrap());
        fds.map(|fd| (fd, count(fd))).collect()
    }
}
