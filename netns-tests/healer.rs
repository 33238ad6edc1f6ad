//! Stands in for systemd: takes the gateway's repair requests, and restores steering as root would.

use crate::gateway::Rules;
use crate::lab::Lab;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::{self, Scope, ScopedJoinHandle};
use std::time::Duration;

/// Path of the gateway's request file.
pub fn request(lab: &Lab) -> PathBuf {
    lab.run.path().join("repair-steering")
}

/// The `[steering]` key that sets it.
pub fn asks_for_repair(lab: &Lab) -> String {
    format!("repair = \"{}\"", request(lab).display())
}

/// Repairs until dropped.
pub struct Healer<'scope> {
    stop: &'scope AtomicBool,
    repairs: &'scope AtomicUsize,
    thread: Option<ScopedJoinHandle<'scope, ()>>,
}

/// State shared by a healer and its test.
#[derive(Default)]
pub struct Ward {
    stop: AtomicBool,
    repairs: AtomicUsize,
}

impl<'scope> Healer<'scope> {
    pub fn start(
        scope: &'scope Scope<'scope, '_>,
        ward: &'scope Ward,
        lab: &'scope Lab,
        config: &'scope Path,
        rules: Rules,
    ) -> Self {
        let Ward { stop, repairs } = ward;
        let thread = scope.spawn(move || {
            while !stop.load(Ordering::Relaxed) {
                if fs::remove_file(request(lab)).is_ok() {
                    lab.must_steer("up", config, rules);
                    repairs.fetch_add(1, Ordering::Relaxed);
                }
                thread::sleep(Duration::from_millis(3));
            }
        });
        Self { stop, repairs, thread: Some(thread) }
    }

    pub fn repairs(&self) -> usize {
        self.repairs.load(Ordering::Relaxed)
    }
}

impl Drop for Healer<'_> {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
