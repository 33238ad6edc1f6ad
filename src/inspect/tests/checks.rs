//! Assertions shared with the fuzz targets.

#[path = "../../../fuzz/checks/exchange.rs"]
mod exchange;
#[path = "../../../fuzz/checks/hellos.rs"]
mod hellos;
#[path = "../../../fuzz/checks/http.rs"]
mod http;
#[path = "../../../fuzz/checks/rustls_name.rs"]
mod rustls_name;
#[path = "../../../fuzz/checks/tls.rs"]
mod tls;
#[path = "../../../fuzz/checks/verdict.rs"]
mod verdict;

pub(super) use exchange::{Followed, exchange, no_other_request_passed};
pub(super) use hellos::hellos;
pub(super) use http::same_host_as_httparse;
pub(super) use tls::{but_for_length, refragmented, same_name_as_rustls_or_refused};
pub(super) use verdict::stable_verdict;

use super::{
    AskedName, Changed, Hellos, Hostname, HttpExchange, Inspected, ParseProgress, Protocol, Remainder, Then,
    inspect,
};
