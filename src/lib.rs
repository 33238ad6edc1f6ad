//! Egret: a transparent L4 egress gateway for VPCs.
//!
//! ARCHITECTURE.md is the map of this crate. Its floors are held by `tests/floors.rs`: a file imports only from
//! floors below its own.

// floor 0
pub mod clock;
pub mod family;
pub mod threads;
pub mod transport;
// floor 1
pub mod addr;
pub mod audit;
pub mod files;
pub mod hostname;
pub mod interface;
pub mod outcome;
pub mod sys;
pub mod units;
// floor 2
pub mod egress;
pub mod inspect;
pub mod policy;
pub mod relay;
pub mod verify;
// floor 3
pub mod flow;
// floor 4
pub mod gateway;
// floor 5
pub mod admin;
pub mod config;
pub mod steering;
pub mod telemetry;
// floor 6
pub mod control;
// floor 7
pub mod app;
// floor 8
pub mod cli;
