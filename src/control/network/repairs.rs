//! Requests for the repair of steering. The gateway lacks the rights to repair it: it creates a file, which a systemd path
//! unit waits for (deploy/egret-steering-heal.path).

use crate::steering::REMEDY;
use std::fs::{self, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Pause after the first request. It doubles with each further one.
const FIRST_PAUSE: Duration = Duration::from_secs(4);
const LONGEST_PAUSE: Duration = Duration::from_secs(300);
/// Steering that has been in place for this time counts as repaired, and pauses are short again. Until then they stay long: another
/// program that removes the rules whenever they are put back would keep root busy with repairs.
const STABLE: Duration = Duration::from_secs(5);

/// Repair requests with exponential back-off.
#[derive(Debug)]
pub(crate) struct RepairRequests {
    /// The file to create; `None` if `[steering] repair` is off.
    request: Option<PathBuf>,
    /// Requests since steering was last stable.
    asked: u32,
    /// Earliest time of the next request.
    next: Option<Instant>,
    /// Earliest time of the next request for new interfaces.
    next_for_new: Option<Instant>,
    intact_since: Option<Instant>,
    /// The error that requests go unanswered has been logged.
    is_reported: bool,
}

impl RepairRequests {
    pub(crate) fn new(request: Option<PathBuf>) -> Self {
        let repairs = Self {
            request,
            asked: 0,
            next: None,
            next_for_new: None,
            intact_since: None,
            is_reported: false,
        };
        repairs.withdraw();
        repairs
    }

    /// Time of the next request, if steering is not repaired before.
    pub(crate) fn due(&self) -> Option<Instant> {
        self.request.as_ref().and(self.next)
    }

    /// True if no request is waiting: the repair unit removes the file when it starts.
    pub(crate) fn is_taken(&self) -> bool {
        self.request.as_ref().is_none_or(|request| fs::symlink_metadata(request).is_err())
    }

    /// Time until the next request may be made; `None` if none ever is.
    pub(crate) fn pause(&self, now: Instant) -> Option<Duration> {
        self.request.as_ref()?;
        let next = self.next.filter(|_| !self.is_stable(now));
        Some(next.map_or(Duration::ZERO, |next| next.saturating_duration_since(now)))
    }

    /// Makes a request unless the back-off forbids it. True if it did.
    pub(crate) fn ask(&mut self, now: Instant) -> bool {
        self.note_stable(now);
        self.intact_since = None;
        if self.next.is_some_and(|next| now < next) {
            return false;
        }
        let Some(request) = &self.request else { return false };
        self.next_for_new = Some(now + FIRST_PAUSE);
        let pause = FIRST_PAUSE.saturating_mul(1 << self.asked.min(10)).min(LONGEST_PAUSE);
        self.next = Some(now + pause);
        if self.asked > 0 && fs::symlink_metadata(request).is_ok() {
            self.report_unanswered("no unit has picked up the request");
            return false;
        }
        if let Err(error) = make(request) {
            self.report_unanswered(&error.to_string());
            return false;
        }
        self.asked += 1;
        tracing::warn!(request = %request.display(), attempt = self.asked, "requested the repair of steering");
        true
    }

    /// Makes a request regardless of the back-off, when an operator reloads.
    pub(crate) fn ask_now(&mut self, now: Instant) -> bool {
        self.next = None;
        self.ask(now)
    }

    /// Makes a request for new interfaces, while everything else is in place. They come as others make them, so such requests
    /// do not count for the back-off. They come four seconds after any request: a repair renews these rules too.
    pub(crate) fn ask_for_new(&mut self, now: Instant) {
        self.intact_since.get_or_insert(now);
        self.note_stable(now);
        let Some(request) = &self.request else { return };
        if self.next_for_new.is_some_and(|next| now < next) || fs::symlink_metadata(request).is_ok() {
            return;
        }
        self.next_for_new = Some(now + FIRST_PAUSE);
        match make(request) {
            Ok(()) => tracing::info!("requested that steering be renewed for new interfaces"),
            Err(error) => self.report_unanswered(&error.to_string()),
        }
    }

    /// Notes that everything is in place.
    pub(crate) fn note_intact(&mut self, now: Instant) {
        self.intact_since.get_or_insert(now);
        self.note_stable(now);
        self.withdraw();
    }

    fn note_stable(&mut self, now: Instant) {
        if self.is_stable(now) {
            (self.asked, self.next, self.is_reported) = (0, None, false);
        }
    }

    fn is_stable(&self, now: Instant) -> bool {
        self.intact_since.is_some_and(|since| now.saturating_duration_since(since) >= STABLE)
    }

    /// Removes a request that was not picked up.
    fn withdraw(&self) {
        if let Some(request) = &self.request {
            let _ = fs::remove_file(request);
        }
    }

    fn report_unanswered(&mut self, why: &str) {
        if std::mem::replace(&mut self.is_reported, true) {
            return;
        }
        let request = self.request.as_deref().unwrap_or(Path::new("")).display();
        tracing::error!(
            "steering cannot be repaired automatically ({request}: {why}); start the repair unit with \
             `systemctl start egret-steering-heal.path`, or repair by hand: {REMEDY}"
        );
    }
}

fn make(request: &Path) -> io::Result<()> {
    OpenOptions::new().write(true).create(true).truncate(true).open(request).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock;

    #[test]
    fn requests_back_off_until_steering_is_stable() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("request");
        let mut repairs = RepairRequests::new(Some(file.clone()));
        let start = clock::now();
        let mut asked = Vec::new();
        for second in 0..1000 {
            if repairs.ask(start + Duration::from_secs(second)) {
                asked.push(second);
                fs::remove_file(&file).unwrap();
            }
        }
        assert_eq!(asked, [0, 4, 12, 28, 60, 124, 252, 508, 808]);
    }

    /// When repairs are requested in 100 s, if each is carried out at once, and rules are lost this long after they are in place.
    fn requested(lost_after: u64) -> Vec<u64> {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("request");
        let mut repairs = RepairRequests::new(Some(file.clone()));
        let start = clock::now();
        let (mut asked, mut repaired) = (Vec::new(), None);
        for second in 0..100 {
            let now = start + Duration::from_secs(second);
            if repaired.is_some_and(|repaired| second < repaired + lost_after) {
                repairs.note_intact(now);
                continue;
            }
            let pause = repairs.pause(now).unwrap();
            if repairs.ask(now) {
                assert_eq!(pause, Duration::ZERO);
                asked.push(second);
                repaired = Some(second + 1);
                fs::remove_file(&file).unwrap();
            } else {
                assert!(pause > Duration::ZERO);
            }
        }
        asked
    }

    #[test]
    fn repairs_that_last_shorten_the_pause() {
        let each = |seconds| (0..100).step_by(seconds).collect::<Vec<_>>();
        assert_eq!(requested(7), each(8), "accidents, each repaired at once");
        assert_eq!(requested(5), each(6));
        assert_eq!(requested(2), [0, 4, 12, 28, 60], "two programs that fight");
    }

    #[test]
    fn new_interfaces_do_not_slow_repairs() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("request");
        let mut repairs = RepairRequests::new(Some(file.clone()));
        let start = clock::now();
        let at = |second| start + Duration::from_secs(second);
        let mut asked = Vec::new();
        for second in 0..20 {
            repairs.ask_for_new(at(second));
            if fs::remove_file(&file).is_ok() {
                asked.push(second);
            }
        }
        assert_eq!(asked, [0, 4, 8, 12, 16]);
        assert!(repairs.ask(at(20)), "a loss is repaired at once");
        fs::remove_file(&file).unwrap();
        assert!(repairs.ask(at(24)), "and the pause after it is the first");
    }

    #[test]
    fn requests_stay_below_the_units_limit() {
        let unit = include_str!("../../../deploy/egret-steering-heal.service");
        let number = |option: &str| {
            let line = unit.lines().find_map(|line| line.strip_prefix(option)).unwrap();
            line.parse::<usize>().unwrap()
        };
        let (interval, burst) = (number("StartLimitIntervalSec="), number("StartLimitBurst="));
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("request");
        let mut repairs = RepairRequests::new(Some(file.clone()));
        let start = clock::now();
        // Each is carried out at once; there are always new interfaces, and rules are lost again as soon as pauses are short.
        let mut asked = Vec::new();
        for second in 0..600 {
            let now = start + Duration::from_secs(second);
            if repairs.pause(now) == Some(Duration::ZERO) {
                repairs.ask(now);
            } else {
                repairs.ask_for_new(now);
            }
            if fs::remove_file(&file).is_ok() {
                asked.push(second);
            }
        }
        let most = asked
            .iter()
            .map(|from| asked.iter().filter(|at| (*from..*from + interval as u64).contains(at)).count());
        let most = most.max().unwrap();
        // Half of it is left to an operator who reloads, which asks at once.
        assert!(most > 15 && most * 2 <= burst, "{most} in {interval} s, and {burst} permitted");
    }

    #[test]
    fn unanswered_request_is_withdrawn_once_repaired() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("request");
        let mut repairs = RepairRequests::new(Some(file.clone()));
        let start = clock::now();
        assert!(repairs.ask(start) && !repairs.is_taken());
        assert!(!repairs.ask(start + Duration::from_secs(60)));
        repairs.note_intact(start + Duration::from_secs(120));
        assert!(repairs.is_taken() && !file.exists());
        let mut nowhere = RepairRequests::new(Some(dir.path().join("no/such/folder")));
        assert!(!nowhere.ask(start));
        assert!(!RepairRequests::new(None).ask(start));
    }
}
