//! Removal of what a probe has set up, however the process ends.

use crate::cli::tool::tool;
use std::os::unix::process::CommandExt as _;
use std::process::{Child, Stdio};

/// A shell that runs its script when this process has dropped it or is gone, however it ended.
#[derive(Debug)]
pub(super) struct CleanUp(Child);

impl CleanUp {
    /// Must be started before there is anything to clean up.
    pub(super) fn new(script: &str) -> Result<Self, String> {
        let script = format!("trap '' INT TERM HUP QUIT\nread -r line\n{script}\n");
        let mut command = tool("sh");
        command.args(["-c", &script]).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
        // A Ctrl-C is for the process group of the terminal.
        command.process_group(0).spawn().map(Self).map_err(|error| format!("sh: {error}"))
    }
}

impl Drop for CleanUp {
    fn drop(&mut self) {
        drop(self.0.stdin.take());
        let _ = self.0.wait();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clean_up_runs_when_dropped() {
        let folder = std::env::temp_dir().join(format!("egret-clean-up-{}", std::process::id()));
        let clean_up = CleanUp::new(&format!("mkdir {}", folder.display())).unwrap();
        assert!(!folder.exists());
        drop(clean_up);
        std::fs::remove_dir(folder).unwrap();
    }
}
