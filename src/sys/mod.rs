//! The only floor with `unsafe`: Linux's socket calls, safe, typed and documented.

pub mod addresses;
pub mod connected;
pub mod event_loop;
pub mod failure;
pub mod limits;
pub mod listener;
pub mod memory;
mod netlink;
pub mod packet_counts;
pub mod pipe;
pub mod priority;
pub mod sock_diag;
pub mod socket;
pub mod stream;
pub mod traffic_class;
pub mod upstream;
