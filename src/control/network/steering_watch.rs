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
    /// The rules before the request.
    rules: BTreeSet<u64>,
    /// A part was missing since the request.
    lost: bool,
}

pub(crate) struct SteeringWatch {
    expected: ExpectedNetwork,
    /// `None` if `[steering] watch` is off.
    watched: Option<SteeringMonitor>,
    repairs: RepairRequests,
    requests: u64,
    /// The findings of the last look.
    look: SteeringLook,
    renewing: Option<PendingRenewal>,
    /// The packet rules of a former configuration, which a reload could not have replaced by its deadline.
    outdated: Option<BTreeSet<u64>>,
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
            renewing: None,
            outdated: None,
            blind: None,
            readiness,
        }
    }

    /// Time of the next look that is due without a notification.
    pub(crate) fn due(&self) -> Option<Instant> {
        match &self.renewing {
            Some(renewing) => Some(crate::clock::now().min(renewing.deadline) + OFTEN),
            None => self.repairs.due().filter(|_| self.can_be_repaired()),
        }
    }

    /// Watches the steering of a new configuration. The result is sent by the deadline.
    pub(crate) fn expect(
        &mut self,
        expected: ExpectedNetwork,
        reply: SyncSender<SteeringRenewal>,
        deadline: Instant,
    ) {
        let another = expected.script() != self.expected.script();
        if expected.repair != self.expected.repair {
            self.repairs = RepairRequests::new(expected.repair.clone());
        }
        match (&mut self.watched, expected.watch) {
            (Some(watched), true) => watched.expect(&expected.params),
            (watched, _) => *watched = expected.watched(),
        }
        self.expected = expected;
        let now = crate::clock::now();
        let answer = if self.expected.other_listener {
            SteeringRenewal::AtRestart
        } else if !another && !self.can_be_repaired() {
            SteeringRenewal::Unneeded
        } else if self.watched.is_none() || !self.repairs.ask_now(now) {
            SteeringRenewal::ByHand
        } else {
            let rules = self.look.rules.clone();
            self.renewing = Some(PendingRenewal { reply, deadline, rules, lost: self.can_be_repaired() });
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

    /// Requests for repair since the start.
    pub(crate) fn requests(&self) -> u64 {
        self.requests
    }

    /// Looks, logs changes, sets readiness, and requests a repair where that helps. Returns the missing parts; `None` if
    /// they are not known.
    pub(crate) fn look(&mut self, now: Instant) -> Option<BTreeSet<Part>> {
        let Some(watched) = &mut self.watched else {
            self.look = SteeringLook::default();
            self.readiness.set_unsteered(None);
            self.end_late_renewal(now);
            return None;
        };
        match watched.look(now) {
            Ok(look) => {
                self.blind = None;
                let before = std::mem::replace(&mut self.look, look);
                self.look_for_outdated();
                self.begin_renewal(now);
                let asked = self.request(now);
                self.requests += u64::from(asked);
                self.log_change(&before.lost, asked, now);
                self.log_overtaking(&before.latent);
                let lost = &self.look.lost;
                let why = |remedy: Remedy| {
                    format!("steering is not in place: {}\nfix: {}", list(lost), remedy.as_str())
                };
                self.readiness.set_unsteered(self.remedy().map(why));
                Some(lost.iter().map(|lost| lost.part).collect())
            }
            Err(error) => {
                let said = format!(
                    "cannot read rules and routes from the kernel ({error}), so it is not known whether steering is in place"
                );
                if self.blind.replace(said.clone()).is_none() {
                    tracing::warn!("{said}");
                }
                self.end_late_renewal(now);
                None
            }
        }
    }

    /// True if something is lost that a repair may bring back. Rules made from files with another port to listen on would only
    /// take away the rest.
    fn can_be_repaired(&self) -> bool {
        !self.expected.other_listener
            && self.obstacle().is_none()
            && self.look.lost.iter().any(|lost| lost.remedy.can_be_requested())
    }

    /// True if new interfaces wait for their rules.
    fn has_newcomers(&self) -> bool {
        !self.expected.other_listener
            && self.obstacle().is_none()
            && self.look.latent.iter().any(|fault| fault.remedy == Remedy::Renew)
    }

    /// The remedy of something that keeps steering from being put in place.
    fn obstacle(&self) -> Option<Remedy> {
        let all = self.look.lost.iter().chain(&self.look.latent);
        all.map(|fault| fault.remedy).find(|remedy| remedy.comes_first())
    }

    /// The remedy for what is lost.
    fn remedy(&self) -> Option<Remedy> {
        let first = self.look.lost.iter().map(|lost| lost.remedy).min()?;
        let renews = self.expected.other_listener && first == Remedy::Renew;
        let first = if renews { Remedy::RestartBoth } else { first };
        Some(self.obstacle().filter(|_| first.can_be_requested()).unwrap_or(first))
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
        if self.renewing.is_some() {
            return "a renewal is requested; ".to_owned();
        }
        match self.repairs.pause(now).filter(|_| self.can_be_repaired()) {
            None => String::new(),
            Some(pause) => format!("the next repair is requested in {} s; ", seconds(pause)),
        }
    }

    fn begin_renewal(&mut self, now: Instant) {
        let (lost, taken) = (self.can_be_repaired(), self.repairs.is_taken());
        let Some(renewing) = &mut self.renewing else { return };
        renewing.lost |= lost;
        let is_new = renewing.lost || renewing.rules != self.look.rules;
        let answer = match (taken && !lost && is_new, now >= renewing.deadline) {
            (true, _) => SteeringRenewal::Renewed,
            (false, true) => SteeringRenewal::Pending,
            (false, false) => return,
        };
        if answer == SteeringRenewal::Pending && self.look.tells_renewal {
            self.outdated = Some(renewing.rules.clone());
        }
        let _ = renewing.reply.send(answer);
        self.renewing = None;
    }

    /// Finds the rules of a former configuration lost as long as they are there, whatever that and the present one have in
    /// common.
    fn look_for_outdated(&mut self) {
        if self.outdated.as_ref().is_some_and(|rules| *rules != self.look.rules) {
            self.outdated = None;
        }
        if self.outdated.is_some() {
            self.look.lost.push(Lost {
                part: Part::PacketRules,
                what: "the packet rules are still those from before the last reload".to_owned(),
                remedy: Remedy::Renew,
            });
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
        for fault in self
            .look
            .latent
            .iter()
            .filter(|fault| matches!(fault.remedy, Remedy::MoveRule | Remedy::ClearPlace))
        {
            if !before.contains(fault) {
                tracing::warn!(
                    "{fault}: they would be routed on if packet rules were flushed where this machine forwards; fix: {}",
                    fault.remedy.as_str()
                );
            }
        }
    }

    fn log_change(&self, before: &[Lost], asked: bool, now: Instant) {
        let lost = &self.look.lost;
        if *lost == before {
            return;
        }
        match self.remedy() {
            None => tracing::info!("steering is in place again"),
            Some(remedy) => tracing::error!(
                "steering is not in place: {}; new connections hang, and can leave uninspected only if this machine \
                 forwards and port_rules are lost with the packet rules; {}fix: {}",
                list(lost),
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

fn list(lost: &[Lost]) -> String {
    lost.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config;
    use std::sync::mpsc;

    fn watch(settings: &str) -> SteeringWatch {
        let folder = tempfile::tempdir().unwrap();
        let main = folder.path().join("egret.toml");
        let text = format!(
            "[steering]\ninterfaces = [\"ens6\"]\n{settings}\n\
             [[pool]]\nname = \"p\"\naddresses = [\"203.0.113.16\"]\n"
        );
        std::fs::write(&main, text).unwrap();
        let expected = ExpectedNetwork::of(&config::load(&main).unwrap().config, 15001);
        SteeringWatch::new(expected, Readiness::new())
    }

    fn lost() -> SteeringLook {
        let lost = Lost { part: Part::PacketRules, what: "gone".to_owned(), remedy: Remedy::Renew };
        SteeringLook { lost: vec![lost], ..SteeringLook::default() }
    }

    #[test]
    fn log_tells_only_requests_that_were_made() {
        let folder = tempfile::tempdir().unwrap();
        let request = folder.path().join("request");
        let said = |watch: &mut SteeringWatch, now| {
            let asked = watch.request(now);
            watch.next_repair(asked, now)
        };
        let (mut watch, now) = (watch(""), crate::clock::now());
        watch.look = lost();
        watch.repairs = RepairRequests::new(Some(request.clone()));
        assert_eq!(said(&mut watch, now), "a repair is requested; ");
        let later = now + Duration::from_secs(4);
        assert_eq!(said(&mut watch, later), "the next repair is requested in 8 s; ", "nobody has taken it");
        watch.repairs = RepairRequests::new(Some(folder.path().join("no/such/folder")));
        assert_eq!(said(&mut watch, now), "the next repair is requested in 4 s; ");
        watch.repairs = RepairRequests::new(None);
        assert_eq!(said(&mut watch, now), "");
        watch.repairs = RepairRequests::new(Some(request));
        let (reply, _answer) = mpsc::sync_channel(1);
        watch.renewing = Some(PendingRenewal { reply, deadline: now, rules: BTreeSet::new(), lost: true });
        assert_eq!(said(&mut watch, now), "a renewal is requested; ");
    }

    #[test]
    fn waiting_reload_is_answered_without_a_look() {
        let mut watch = watch("watch = false");
        let (reply, answer) = mpsc::sync_channel(1);
        let deadline = crate::clock::now();
        watch.renewing = Some(PendingRenewal { reply, deadline, rules: BTreeSet::new(), lost: true });
        assert_eq!(watch.look(deadline), None);
        assert_eq!(answer.try_recv(), Ok(SteeringRenewal::Pending));
        assert_eq!(watch.due(), None);
    }
}
