//! Scenarios that are measured side by side.

use crate::load::{Job, Kind};
use std::time::Duration;

/// Unit of work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unit {
    Connection,
    Request,
    /// Counted in bytes, reported in GB.
    Byte,
}

pub struct Scenario {
    pub name: &'static str,
    pub what: &'static str,
    pub unit: Unit,
    pub job: Job,
    /// Load that runs at the same time and is not measured.
    pub beside: Option<Job>,
}

impl Unit {
    /// Units per reported unit of the rate.
    pub fn scale(self) -> f64 {
        if self == Self::Byte { 1e9 } else { 1.0 }
    }

    pub fn rate(self) -> &'static str {
        match self {
            Self::Connection => "connections/s",
            Self::Request => "requests/s",
            Self::Byte => "GB/s",
        }
    }

    pub fn cost(self) -> &'static str {
        match self {
            Self::Connection => "CPU µs/connection",
            Self::Request => "CPU µs/request",
            Self::Byte => "CPU ms/GB",
        }
    }

    /// Reported units of the cost per second.
    pub fn cost_scale(self) -> f64 {
        if self == Self::Byte { 1e3 } else { 1e6 }
    }
}

/// Durations of a window, and of the warm-up before it.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    pub warm_up: Duration,
    pub window: Duration,
}

impl Pace {
    pub fn job(self, kind: Kind, connections: usize) -> Job {
        Job { kind, connections, warm_up: self.warm_up, window: self.window, ..Job::default() }
    }
}

/// Scenarios for plain routing, kernel NAT, haproxy and Egret.
pub fn side_by_side(pace: Pace) -> Vec<Scenario> {
    let scenario = |name, what, unit, kind, connections| Scenario {
        name,
        what,
        unit,
        job: pace.job(kind, connections),
        beside: None,
    };
    vec![
        scenario("rate", "new connections, 64 at a time", Unit::Connection, Kind::Rate, 64),
        scenario("rate1", "new connections, one at a time", Unit::Connection, Kind::Rate, 1),
        scenario("down8", "download on 8 connections", Unit::Byte, Kind::Down, 8),
        scenario("up8", "upload on 8 connections", Unit::Byte, Kind::Up, 8),
        scenario("pp1", "requests on one connection", Unit::Request, Kind::Exchange, 1),
        scenario("pp16", "requests on 16 connections", Unit::Request, Kind::Exchange, 16),
        scenario("pp256", "requests on 256 connections", Unit::Request, Kind::Exchange, 256),
    ]
}

/// Scenarios for haproxy and Egret with a single thread each: interference between their flows.
pub fn crowded(pace: Pace) -> Vec<Scenario> {
    let beside = Job {
        warm_up: Duration::ZERO,
        // longer than the measured job
        window: 2 * (pace.warm_up + pace.window),
        ..pace.job(Kind::Down, 8)
    };
    vec![
        Scenario {
            name: "pp1-beside-down8",
            what: "requests on one connection, while 8 others download all they can",
            unit: Unit::Request,
            job: pace.job(Kind::Exchange, 1),
            beside: Some(beside),
        },
        Scenario {
            name: "down32",
            what: "download on 32 connections",
            unit: Unit::Byte,
            job: pace.job(Kind::Down, 32),
            beside: None,
        },
    ]
}
