//! Numbers by which Egret's own rules and routes are told from others' (`FRA_PROTOCOL`, `RTA_PROTOCOL`).

/// Protocol of what `up` puts in place.
pub const UP: u8 = 230;
/// Protocol of the guard's rules at boot.
pub const GUARD: u8 = 231;
