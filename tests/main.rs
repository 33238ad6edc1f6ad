//! Integration tests that need no network namespaces of the suite in `netns-tests/`: one program, so that it is linked once.
//!
//! Run some of them with `cargo test --test integration NAME`.

#![allow(
    clippy::unwrap_used,
    missing_docs,
    reason = "a test fails by panicking, and is not a public interface"
)]

mod alerts;
mod command_line;
mod control_api;
mod dependencies;
mod documents;
mod examples;
mod explain;
mod floors;
mod forecast;
mod generated_docs;
mod install;
mod metrics_scrape;
mod policy_tests;
mod readable;
mod steering;
mod suggest;
