//! Safe, typed wrappers of Linux's socket calls: the only room with `unsafe`.

pub mod addresses;
pub mod changes;
pub mod connected;
pub mod event_loop;
pub mod failure;
pub mod limits;
pub mod links;
pub mod listener;
pub mod listening_program;
pub mod liveness;
pub mod memory;
mod netlink;
mod owned_table;
pub mod packet_rules;
pub mod pipe;
pub mod priority;
pub mod privileges;
pub mod refusals;
pub mod reserved_ports;
pub mod routing;
pub mod sock_diag;
pub mod socket;
pub mod stream;
pub mod traffic_class;
pub mod untracked;
pub mod upstream;
