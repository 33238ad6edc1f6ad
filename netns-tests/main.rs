//! The gateway among real clients and servers in network namespaces: real packet rules, real sockets, both families.
//!
//! Run with `cargo test --test netns [FILTER]`. No real root is needed: the process enters a user namespace of its own.
//! Needs iproute2, iptables, nftables, nginx, dnsmasq, knot, ldnsutils, curl, openssl, gnutls-bin and util-linux.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
#![allow(clippy::missing_panics_doc, missing_docs, unreachable_pub, reason = "not a public interface")]
#![allow(clippy::disallowed_methods, reason = "tests measure real time")]
#![allow(clippy::needless_pass_by_value, reason = "helpers consume what a test is done with")]

mod clients;
mod config;
mod dns;
mod doctor;
mod flows;
mod gateway;
mod healer;
mod hello;
mod hello_forms;
mod knot;
mod lab;
mod namespace;
mod nginx;
mod old_resolver;
mod process;
mod prometheus;
mod requests;
mod rollout;
mod sandbox;
mod servers;
mod traffic;
mod verified;
mod wait;

mod tests_accounting;
mod tests_canary;
mod tests_canary_requests;
mod tests_candidate;
mod tests_certificates;
mod tests_conflicts;
mod tests_control;
mod tests_crossings;
mod tests_death;
mod tests_dial;
mod tests_dnssec;
mod tests_doctor;
mod tests_doctor_flow;
mod tests_doctor_kernel;
mod tests_doctor_rules;
mod tests_dscp;
mod tests_errors;
mod tests_explain;
mod tests_fairness;
mod tests_families;
mod tests_forecast;
mod tests_framing;
mod tests_health;
mod tests_held_ports;
mod tests_http;
mod tests_interfaces;
mod tests_lab;
mod tests_large_reload;
mod tests_memory;
mod tests_modes;
mod tests_names;
mod tests_neighbours;
mod tests_old_resolver;
mod tests_outcomes;
mod tests_ports;
mod tests_private;
mod tests_probe_limits;
mod tests_protocols;
mod tests_real;
mod tests_recheck;
mod tests_relay;
mod tests_reload;
mod tests_requests;
mod tests_resets;
mod tests_resolver;
mod tests_retry;
mod tests_revoke;
mod tests_revoke_later;
mod tests_silence;
mod tests_sources;
mod tests_startup;
mod tests_steering;
mod tests_tls;
mod tests_tls_names;
mod tests_trace;
mod tests_truth;
mod tests_untracked;
mod tests_upgrades;
mod tests_urgent;
mod tests_verify;
mod tests_watch;
mod tests_watch_reload;
mod tests_watch_rules;
mod tests_web;
mod tests_workers;

use libtest_mimic::{Arguments, Trial};
use std::num::NonZero;
use std::process::ExitCode;
use std::thread;

fn main() -> ExitCode {
    let mut arguments = Arguments::from_args();
    // Some tests wait, for the kernel's timers or for packets that get lost; others use the processors meanwhile.
    let processors = thread::available_parallelism().map_or(1, NonZero::get);
    arguments.test_threads.get_or_insert(processors + 2);
    if !arguments.list
        && let Err(refusal) = sandbox::enter()
    {
        eprintln!("{refusal}");
        return ExitCode::FAILURE;
    }
    let trials = [
        // tests that wait for the kernel come first: the others run meanwhile
        tests_ports::trials(),
        tests_truth::trials(),
        tests_held_ports::trials(),
        tests_neighbours::trials(),
        tests_forecast::trials(),
        tests_lab::trials(),
        tests_fairness::trials(),
        tests_memory::trials(),
        // Over IPv6 only with --ignored: they say the same as over IPv4, and take the suite more than a minute.
        tests_real::trials()
            .into_iter()
            .map(|trial| {
                let ignored = trial.name().ends_with("::ipv6");
                trial.with_ignored_flag(ignored)
            })
            .collect(),
        tests_web::trials(),
        tests_tls::trials(),
        tests_tls_names::trials(),
        tests_trace::trials(),
        tests_protocols::trials(),
        tests_http::trials(),
        tests_requests::trials(),
        tests_framing::trials(),
        tests_untracked::trials(),
        tests_upgrades::trials(),
        tests_retry::trials(),
        tests_sources::trials(),
        tests_control::trials(),
        tests_relay::trials(),
        tests_resets::trials(),
        tests_outcomes::trials(),
        tests_crossings::trials(),
        tests_death::trials(),
        tests_urgent::trials(),
        tests_dscp::trials(),
        tests_silence::trials(),
        tests_workers::trials(),
        tests_verify::trials(),
        tests_resolver::trials(),
        tests_old_resolver::trials(),
        tests_private::trials(),
        tests_probe_limits::trials(),
        tests_dnssec::trials(),
        tests_names::trials(),
        tests_certificates::trials(),
        tests_dial::trials(),
        tests_accounting::trials(),
        tests_modes::trials(),
        tests_candidate::trials(),
        tests_canary::trials(),
        tests_canary_requests::trials(),
        tests_explain::trials(),
        tests_reload::trials(),
        tests_large_reload::trials(),
        vec![tests_large_reload::measurement()],
        tests_revoke::trials(),
        tests_revoke_later::trials(),
        tests_recheck::trials(),
        tests_steering::trials(),
        tests_doctor::trials(),
        tests_doctor_flow::trials(),
        tests_doctor_kernel::trials(),
        tests_doctor_rules::trials(),
        tests_errors::trials(),
        tests_conflicts::trials(),
        tests_interfaces::trials(),
        tests_watch::trials(),
        tests_watch_reload::trials(),
        tests_watch_rules::trials(),
        tests_families::trials(),
        tests_startup::trials(),
        tests_health::trials(),
    ];
    let trials = trials.into_iter().flatten().collect();
    libtest_mimic::run(&arguments, interleaved(trials, |trial| trial.kind().starts_with("doctor")))
        .exit_code()
}

/// Spreads the trials that are picked evenly among the others: those of doctor wait half of their time, and leave the
/// processors idle when they run side by side.
fn interleaved(trials: Vec<Trial>, pick: impl Fn(&Trial) -> bool) -> Vec<Trial> {
    let (picked, others): (Vec<_>, Vec<_>) = trials.into_iter().partition(pick);
    let every = others.len().div_ceil(picked.len().max(1)).max(1);
    let mut picked = picked.into_iter();
    let mut all = Vec::new();
    for (place, trial) in others.into_iter().enumerate() {
        if place % every == 0 {
            all.extend(picked.next());
        }
        all.push(trial);
    }
    all.extend(picked);
    all
}

/// Creates one trial per address family.
fn for_both_families(name: &'static str, test: fn(lab::Family)) -> [Trial; 2] {
    [("ipv4", lab::Family::V4), ("ipv6", lab::Family::V6)].map(|(label, family)| {
        Trial::test(format!("{name}::{label}"), move || {
            test(family);
            Ok(())
        })
    })
}

/// Defines the trials of one file: `trials! { both families: a, b; once: c, d }`.
macro_rules! trials {
    (both families: $($both:ident),* ; once: $($once:ident),*) => {
        pub fn trials() -> Vec<libtest_mimic::Trial> {
            let theme = module_path!().rsplit("tests_").next().unwrap();
            #[allow(unused_mut, reason = "a list may be empty")]
            let mut all: Vec<libtest_mimic::Trial> = Vec::new();
            $(all.extend(crate::for_both_families(concat!(stringify!($both)), $both));)*
            $(all.push(libtest_mimic::Trial::test(stringify!($once), || { $once(); Ok(()) }));)*
            all.into_iter().map(|trial| trial.with_kind(theme)).collect()
        }
    };
}
use trials;
