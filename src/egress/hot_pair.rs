//! A busy pair of source address and destination.

use super::pair_use::PairUse;
use crate::addr::{DialAddr, SourceAddr};
use ipnet::IpNet;
use std::sync::Arc;

/// A hot destination found in the pools.
#[derive(Debug)]
pub(super) struct HotPair {
    pub(super) pool: Arc<str>,
    pub(super) network: IpNet,
    pub(super) source: SourceAddr,
    pub(super) to: DialAddr,
    pub(super) used: PairUse,
}
