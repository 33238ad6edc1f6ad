//! Asks root to put steering in place again. The gateway may not do that itself: it makes a file, which a systemd unit
//! waits for (deploy/egret-steering-heal.path).

use crate::steering::REMEDY;
use std::fs::{self, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// After the first request; twice as long after each further one.
const FIRST_PAUSE: Duration = Duration::from_secs(4);
const LONGEST_PAUSE: Duration = Duration::from_mins(5);
/// What has been in place for this long has been repaired; the next loss is another one.
const WHOLE: Duration = Duration::from_mins(1);

/// Requests, each later than the one before.
#[derive(Debug)]
pub(super) struct Repairs {
    /// `None`: nobody is asked.
    request: Option<PathBuf>,
    /// Since steering was whole for long.
    asked: u32,
    /// No earlier than this.
    next: Option<Instant>,
    whole_since: Option<Instant>,
    /// It was said that nobody listens.
    said: bool,
}

impl Repairs {
    pub(super) fn new(request: Option<PathBuf>) -> Self {
        let repairs = Self { request, asked: 0, next: None, whole_since: None, said: false };
        repairs.withdraw();
        repairs
    }

    /// When it would ask next.
    pub(super) fn due(&self) -> Option<Instant> {
        self.request.as_ref().and(self.next)
    }

    /// Whether root has taken the request, or there is none.
    pub(super) fn is_taken(&self) -> bool {
        self.request.as_ref().is_none_or(|request| fs::symlink_metadata(request).is_err())
    }

    /// Asks, if it is time. Whether it did.
    pub(super) fn ask(&mut self, now: Instant) -> bool {
        self.whole_since = None;
        if self.next.is_some_and(|next| now < next) {
            return false;
        }
        let Some(request) = &self.request else { return false };
        let pause = FIRST_PAUSE.saturating_mul(1 << self.asked.min(10)).min(LONGEST_PAUSE);
        self.next = Some(now + pause);
        if self.asked > 0 && fs::symlink_metadata(request).is_ok() {
            self.say_that_nobody_listens("nobody has taken the request");
            return false;
        }
        if let Err(error) = make(request) {
            self.say_that_nobody_listens(&error.to_string());
            return false;
        }
        self.asked += 1;
        tracing::warn!(request = %request.display(), attempt = self.asked, "asked for steering to be put in place");
        true
    }

    /// Asks at once, however often it has asked: by an operator's order.
    pub(super) fn ask_now(&mut self, now: Instant) -> bool {
        self.next = None;
        self.ask(now)
    }

    /// Everything is in place.
    pub(super) fn rest(&mut self, now: Instant) {
        let since = *self.whole_since.get_or_insert(now);
        if now.saturating_duration_since(since) >= WHOLE {
            (self.asked, self.next, self.said) = (0, None, false);
        }
        self.withdraw();
    }

    /// A request that nobody took is out of date.
    fn withdraw(&self) {
        if let Some(request) = &self.request {
            let _ = fs::remove_file(request);
        }
    }

    fn say_that_nobody_listens(&mut self, why: &str) {
        if std::mem::replace(&mut self.said, true) {
            return;
        }
        let request = self.request.as_deref().unwrap_or(Path::new("")).display();
        tracing::error!(
            "cannot have steering put in place ({request}: {why}); start what does it: \
             `systemctl start egret-steering-heal.path`, or do it by hand: {REMEDY}"
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
    fn requests_come_less_and_less_often_until_all_is_well_for_long() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("request");
        let mut repairs = Repairs::new(Some(file.clone()));
        let start = clock::now();
        let mut asked = Vec::new();
        for second in 0..1000 {
            if repairs.ask(start + Duration::from_secs(second)) {
                asked.push(second);
                fs::remove_file(&file).unwrap();
            }
        }
        assert_eq!(asked, [0, 4, 12, 28, 60, 124, 252, 508, 808]);
        // whole for a moment alone: it goes on as before
        let at = |second| start + Duration::from_secs(second);
        repairs.rest(at(1000));
        assert!(!repairs.ask(at(1010)));
        repairs.rest(at(1011));
        repairs.rest(at(1072));
        assert!(repairs.ask(at(1073)));
    }

    #[test]
    fn a_request_that_nobody_takes_is_not_made_again_and_is_withdrawn() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("request");
        let mut repairs = Repairs::new(Some(file.clone()));
        let start = clock::now();
        assert!(repairs.ask(start) && !repairs.is_taken());
        assert!(!repairs.ask(start + Duration::from_mins(1)));
        repairs.rest(start + Duration::from_mins(2));
        assert!(repairs.is_taken() && !file.exists());
        let mut nowhere = Repairs::new(Some(dir.path().join("no/such/folder")));
        assert!(!nowhere.ask(start));
        assert!(!Repairs::new(None).ask(start));
    }
}
