//! Amount of measuring.

use crate::Arguments;
use crate::calls::Amount;
use crate::growth::Limits;
use crate::scenario::Pace;
use std::time::Duration;

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Part {
    /// Egret, haproxy, kernel NAT and plain routing
    Side,
    /// One thread each: latency beside bulk flows, and how evenly those share
    Crowded,
    /// Memory of connections without traffic
    Idle,
    /// Memory after many waves of connections
    Waves,
    /// System calls
    Calls,
    /// Cost as sizes grow
    Growth,
}

pub struct Plan {
    pub parts: Vec<Part>,
    pub rounds: usize,
    pub pace: Pace,
    pub crowded: Pace,
    pub idle_rounds: usize,
    pub idle: usize,
    /// Number of waves, and connections of each.
    pub waves: (usize, usize),
    pub calls: Amount,
    pub growth_rounds: usize,
    pub growth: Pace,
    pub limits: Limits,
}

impl Plan {
    pub fn new(arguments: &Arguments) -> Self {
        let mut plan = match (arguments.bench, arguments.quick) {
            (false, _) => Self::smoke(),
            (true, true) => Self::quick(),
            (true, false) => Self::full(),
        };
        if let Some(rounds) = arguments.rounds {
            (plan.rounds, plan.growth_rounds) = (rounds.get(), rounds.get());
        }
        if !arguments.only.is_empty() {
            plan.parts.clone_from(&arguments.only);
        }
        plan
    }

    /// The full plan, some seven minutes.
    fn full() -> Self {
        Self {
            parts: <Part as clap::ValueEnum>::value_variants().to_vec(),
            rounds: 9,
            pace: pace(120, 500),
            crowded: pace(200, 800),
            idle_rounds: 3,
            idle: 8000,
            waves: (100, 5000),
            calls: Amount { connections: 3000, requests: 20_000, seconds: 2.0 },
            growth_rounds: 7,
            growth: pace(100, 300),
            limits: Limits { held: 9000, names: 1_000_000, tenants: 1000, addresses: 256, fill: 999 },
        }
    }

    /// The quick plan, a minute.
    fn quick() -> Self {
        Self {
            rounds: 2,
            pace: pace(100, 300),
            crowded: pace(100, 400),
            idle_rounds: 1,
            idle: 4000,
            waves: (10, 1000),
            calls: Amount { connections: 500, requests: 5000, seconds: 0.5 },
            growth_rounds: 1,
            growth: pace(100, 200),
            limits: Limits { held: 3000, names: 100_000, tenants: 100, addresses: 64, fill: 990 },
            ..Self::full()
        }
    }

    /// The least that runs all of the code.
    fn smoke() -> Self {
        Self {
            rounds: 1,
            pace: pace(0, 20),
            crowded: pace(0, 300),
            idle_rounds: 1,
            idle: 50,
            waves: (4, 50),
            calls: Amount { connections: 20, requests: 100, seconds: 0.1 },
            growth_rounds: 1,
            growth: pace(50, 150),
            limits: Limits { held: 1000, names: 10, tenants: 10, addresses: 4, fill: 500 },
            ..Self::full()
        }
    }
}

fn pace(warm_up: u64, window: u64) -> Pace {
    Pace { warm_up: Duration::from_millis(warm_up), window: Duration::from_millis(window) }
}
