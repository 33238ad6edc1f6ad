//! A guard that follows the client's own lines.

use super::*;

/// Lets whole lines pass, each a request. `body N`: so many bytes after it pass unseen; `ask`: no more until the server
/// has sent something other than `not yet`; `switch`: then all that follows; `over`: all that follows; `stop`: nothing, nor the line
/// itself.
pub(super) struct ScriptedGuard {
    pub(super) body: u64,
    pub(super) waits: bool,
    pub(super) switches: bool,
    pub(super) over: bool,
    /// Decision about an incomplete line.
    pub(super) cut_off: NextStep,
    /// Result of `farewell`, once the server has sent so many bytes.
    pub(super) farewell: (usize, bool),
    pub(super) heard: usize,
    /// Most bytes that were shown at once.
    pub(super) shown: usize,
    /// Lines that were let pass.
    pub(super) requests: usize,
    /// Counted by its clones; `None`: no place is free.
    pub(super) place: Option<Arc<()>>,
}

impl Default for ScriptedGuard {
    fn default() -> Self {
        let (body, waits, switches, over, cut_off) = (0, false, false, false, NextStep::Stop);
        let (farewell, heard, shown, requests) = ((0, true), 0, 0, 0);
        let place = Some(Arc::default());
        Self { body, waits, switches, over, cut_off, farewell, heard, shown, requests, place }
    }
}

impl Guard for ScriptedGuard {
    type Place = Arc<()>;

    fn place(&self) -> Option<Arc<()>> {
        self.place.clone()
    }

    fn free(&self, side: Side) -> u64 {
        match side {
            Side::Client if self.over => u64::MAX,
            Side::Client if !self.waits => self.body,
            Side::Client | Side::Upstream => 0,
        }
    }

    fn passes(&mut self, _: Side, bytes: usize) {
        self.body = self.body.saturating_sub(bytes as u64);
    }

    fn judge(&mut self, bytes: &mut [u8]) -> GuardVerdict {
        self.shown = self.shown.max(bytes.len());
        let mut passed = 0;
        let next = loop {
            let rest = &bytes[passed..];
            let body = rest.len().min(usize::try_from(self.free(Side::Client)).unwrap_or(usize::MAX));
            if self.waits && !rest.is_empty() {
                break NextStep::Wait;
            } else if body > 0 {
                self.passes(Side::Client, body);
                passed += body;
                continue;
            }
            let Some(end) = rest.iter().position(|byte| *byte == b'\n') else { break NextStep::Read };
            match &rest[..end] {
                b"stop" => break NextStep::Stop,
                b"ask" => self.waits = true,
                b"switch" => (self.waits, self.switches) = (true, true),
                b"over" => self.over = true,
                line => {
                    let body = std::str::from_utf8(line).ok().and_then(|line| line.strip_prefix("body "));
                    self.body = body.map_or(0, |body| body.parse().unwrap());
                }
            }
            passed += end + 1;
            self.requests += 1;
        };
        GuardVerdict { bytes: passed, next }
    }

    fn observe_server(&mut self, bytes: &[u8]) {
        self.heard += bytes.len();
        self.waits &= bytes == b"not yet";
        self.over |= self.switches && !self.waits;
    }

    fn server_finished(&mut self, _: u64) {
        self.waits = false;
    }

    fn cut_off(&mut self, _: TruncationReason) -> NextStep {
        self.cut_off
    }

    fn pending_answer(&self) -> Poll<bool> {
        if self.heard < self.farewell.0 { Poll::Pending } else { Poll::Ready(self.farewell.1) }
    }

    fn is_answered(&self) -> Option<bool> {
        None
    }

    fn is_over(&self) -> bool {
        self.over
    }
}
