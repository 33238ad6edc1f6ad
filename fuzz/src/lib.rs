//! The rooms that read clients' bytes, and those below them, without the rest of the gateway: instrumented, all of it and
//! its dependencies would take ten minutes to build.

#![allow(dead_code, unused_imports, reason = "the rest of the gateway uses it")]

#[path = "../../src/clock.rs"]
pub mod clock;
#[path = "../../src/family.rs"]
pub mod family;
#[path = "../../src/hostname.rs"]
pub mod hostname;
#[path = "../../src/inspect/mod.rs"]
pub mod inspect;
#[path = "../../src/sys/mod.rs"]
pub mod sys;
