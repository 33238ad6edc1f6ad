//! Watches steering: readiness, log, and requests for repair.

use super::expected::ExpectedNetwork;
use super::repairs::RepairRequests;
use crate::admin::Readiness;
use crate::steering::{Lost, Part, Remedy, SteeringLook, SteeringMonitor};
use std::collections::BTreeSet;
use std::sync::mpsc::SyncSender;
use std::time::{Duration, Instant};

/// Time between looks while a reload waits for steering to be renewed.
const OFTEN: Duration = Duration::from_millis(100);

/// Result of a change of steering by a reload.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum SteeringRenewal {
    /// The steering in place fits the new configuration.
    Unneeded,
    /// The new steering is in place.
    Renewed,
    /// Requested, and not in place by the deadline.
    Pending,
    /// It cannot be requested: an operator has to put it in place.
    ByHand,
    /// It must not be requested: the files name another port to listen on, which takes a restart of gateway and steering.
    AtRestart,
}

/// A reload that waits for its steering to be in place.
struct PendingRenewal {
    reply: SyncSender<SteeringRenewal>,
    deadline: Instant,
}

pub(crate) struct SteeringWatch {
    expected: ExpectedNetwork,
    /// `None` if `[steering] watch` is off.
    watched: Option<SteeringMonitor>,
    repairs: RepairRequests,
    requests: u64,
    /// The findings of the last look.
    look: SteeringLook,
    /// Those that the log has told.
    logged: SteeringLook,
    renewing: Option<PendingRenewal>,
    /// The reason why the last look failed.
    blind: Option<String>,
    readiness: Readiness,
}

impl SteeringWatch {
    pub(crate) fn new(expected: ExpectedNetwork, readiness: Readiness) -> Self {
        Self {
            watched: expected.watched(),
            repairs: RepairRequests::new(expected.repair.clone()),
            requests: 0,
            expected,
            look: SteeringLook::default(),
            logged: SteeringLook::default(),
            renewing: None,
            blind: None,
            readiness,
        }
    }

    /// Time of the next look that is due without a notification.
    pub(crate) fn due(&self) -> Option<Instant> {
        match &self.renewing {
            Some(renewing) => Some(crate::clock::now().min(renewing.deadline) + OFTEN),
            // What was lost before the last look failed is not repaired.
            None => self.repairs.due().filter(|_| self.blind.is_none() && self.can_be_repaired()),
        }
    }

    /// Watches the steering of a new configuration. The result is sent by the deadline.
    pub(crate) fn expect(
        &mut self,
        expected: ExpectedNetwork,
        reply: SyncSender<SteeringRenewal>,
        deadline: Instant,
    ) {
        if expected.repair != self.expected.repair {
            self.repairs = RepairRequests::new(expected.repair.clone());
        }
        match (&mut self.watched, expected.watch) {
            (Some(watched), true) => watched.expect(&expected.params),
            (watched, _) => *watched = expected.watched(),
        }
        let former = std::mem::replace(&mut self.expected, expected);
        let is_needed = if self.observe(crate::clock::now()) {
            self.is_lost()
        } else {
            former.script() != self.expected.script()
        };
        self.renew(is_needed, reply, deadline);
    }

    /// Has steering put in place anew if that is needed.
    fn renew(&mut self, is_needed: bool, reply: SyncSender<SteeringRenewal>, deadline: Instant) {
        let answer = if self.expected.other_listener {
            SteeringRenewal::AtRestart
        } else if !is_needed {
            SteeringRenewal::Unneeded
        } else if self.watched.is_none()
            || self.obstacle().is_some()
            || !self.repairs.ask_now(crate::clock::now())
        {
            SteeringRenewal::ByHand
        } else {
            self.renewing = Some(PendingRenewal { reply, deadline });
            return;
        };
        // The receiver may have given up.
        let _ = reply.send(answer);
    }

    /// Text that readiness mentions without being affected.
    pub(crate) fn notes(&self) -> Vec<String> {
        let latent = self.look.latent.iter();
        let latent = latent.map(|fault| format!("{fault}; fix: {}", fault.remedy.as_str()));
        self.blind.clone().into_iter().chain(latent).collect()
    }

    /// True if the last look failed; `None` if steering is not watched.
    pub(crate) fn is_failing(&self) -> Option<bool> {
        self.watched.as_ref().map(|_| self.blind.is_some())
    }

    /// Requests for repair since the start.
    pub(crate) fn requests(&self) -> u64 {
        self.requests
    }

    /// Looks, logs changes, sets readiness, and requests a repair where that helps. Returns the missing parts; `None` if
    /// they are not known.
    pub(crate) fn look(&mut self, now: Instant) -> Option<BTreeSet<Part>> {
        if !self.observe(now) {
            if self.watched.is_none() {
                self.readiness.set_unsteered(None);
            }
            self.end_late_renewal(now);
            return None;
        }
        self.end_renewal(now);
        let asked = self.request(now);
        self.requests += u64::from(asked);
        // What a reload waits for is no fault before its deadline.
        if self.renewing.is_none() {
            let before = std::mem::replace(&mut self.logged, self.look.clone());
            self.log_change(&before.lost, asked, now);
            self.log_overtaking(&before.latent);
            let why = |(lost, remedy): (String, Remedy)| {
                format!("steering is not in place: {lost}\nfix: {}", remedy.as_str())
            };
            self.readiness.set_unsteered(self.told().map(why));
        }
        Some(self.look.lost.iter().map(|lost| lost.part).collect())
    }

    /// Reads the state of the kernel. False if it is not known afterwards.
    fn observe(&mut self, now: Instant) -> bool {
        let Some(watched) = &mut self.watched else {
            (self.look, self.logged, self.blind) = Default::default();
            return false;
        };
        match watched.look(now) {
            Ok(look) => {
                (self.look, self.blind) = (look, None);
                true
            }
            Err(error) => {
                let said = format!(
                    "cannot read rules and routes from the kernel ({error}), so it is not known whether steering is in place"
                );
                if self.blind.replace(said.clone()).is_none() {
                    tracing::warn!("{said}");
                }
                false
            }
        }
    }

    /// True if something is lost that a repair may bring back. Rules made from files with another port to listen on would only
    /// take away the rest.
    fn can_be_repaired(&self) -> bool {
        !self.expected.other_listener && self.obstacle().is_none() && self.is_lost()
    }

    /// True if something is lost that steering put in place anew brings back.
    fn is_lost(&self) -> bool {
        self.look.lost.iter().any(|lost| lost.remedy.can_be_requested())
    }

    /// True if new interfaces wait for their rules.
    fn has_newcomers(&self) -> bool {
        !self.expected.other_listener
            && self.obstacle().is_none()
            && self.look.latent.iter().any(|fault| fault.remedy == Remedy::Renew)
    }

    /// Something that keeps steering from being put in place.
    fn obstacle(&self) -> Option<&Lost> {
        let mut all = self.look.lost.iter().chain(&self.look.latent);
        all.find(|fault| fault.remedy.comes_first())
    }

    /// Description of what is lost, and the remedy: that of the fault which is named first.
    fn told(&self) -> Option<(String, Remedy)> {
        let lost = &self.look.lost;
        let least = lost.iter().min_by_key(|lost| lost.remedy)?;
        let first = self.obstacle().filter(|_| least.remedy.can_be_requested()).unwrap_or(least);
        let others = lost.iter().filter(|lost| *lost != first);
        let all: Vec<_> = [first].into_iter().chain(others).map(ToString::to_string).collect();
        let renews = self.expected.other_listener && first.remedy == Remedy::Renew;
        Some((all.join("; "), if renews { Remedy::RestartBoth } else { first.remedy }))
    }

    /// Requests what the last look calls for. True if that is a repair.
    fn request(&mut self, now: Instant) -> bool {
        if self.renewing.is_some() {
            return false;
        }
        if self.can_be_repaired() {
            return self.repairs.ask(now);
        }
        if self.has_newcomers() {
            self.repairs.ask_for_new(now);
        } else {
            self.repairs.note_intact(now);
        }
        false
    }

    /// When a repair is requested, for the log; empty if none is. `asked`: one was requested just now.
    fn next_repair(&self, asked: bool, now: Instant) -> String {
        if asked {
            return "a repair is requested; ".to_owned();
        }
        match self.repairs.pause(now).filter(|_| self.can_be_repaired()) {
            None => String::new(),
            Some(pause) => format!("the next repair is requested in {} s; ", seconds(pause)),
        }
    }

    /// Answers a reload whose steering is in place, or that has waited long enough.
    fn end_renewal(&mut self, now: Instant) {
        let is_renewed = self.repairs.is_taken() && !self.is_lost();
        if let Some(renewing) = self.renewing.take_if(|renewing| is_renewed || now >= renewing.deadline) {
            let answer = if is_renewed { SteeringRenewal::Renewed } else { SteeringRenewal::Pending };
            let _ = renewing.reply.send(answer);
        }
    }

    /// Answers a reload that has waited long enough, where nothing is known of the rules.
    fn end_late_renewal(&mut self, now: Instant) {
        if let Some(renewing) = self.renewing.take_if(|renewing| now >= renewing.deadline) {
            let _ = renewing.reply.send(SteeringRenewal::Pending);
        }
    }

    /// Logs rules of other programs that have come before Egret's. New interfaces are no fault.
    fn log_overtaking(&self, before: &[Lost]) {
        for fault in self.look.latent.iter().filter(|fault| !before.contains(fault)) {
            let consequence = if fault.remedy.comes_first() {
                "steering cannot be put in place while it is there"
            } else if fault.remedy == Remedy::MoveRule {
                "they would be routed on if packet rules were flushed where this machine forwards"
            } else {
                continue;
            };
            tracing::warn!("{fault}: {consequence}; fix: {}", fault.remedy.as_str());
        }
    }

    fn log_change(&self, before: &[Lost], asked: bool, now: Instant) {
        if self.look.lost == before {
            return;
        }
        match self.told() {
            None => tracing::info!("steering is in place again"),
            Some((lost, remedy)) => tracing::error!(
                "steering is not in place: {lost}; new connections may hang, and can leave uninspected only if this machine \
                 forwards and port_rules are lost with the packet rules; {}fix: {}",
                self.next_repair(asked, now),
                remedy.as_str()
            ),
        }
    }
}

/// In whole seconds, at least one.
fn seconds(pause: Duration) -> u64 {
    pause.as_millis().div_ceil(1000).try_into().unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests;
