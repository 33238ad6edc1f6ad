//! The system's own tools: `ip`, `tc`, `nft`, `ss`, `sh`.

use std::io::Write as _;
use std::os::unix::process::CommandExt as _;
use std::process::{Child, Command, Stdio};

/// A tool by name. An unprivileged shell's PATH often has no sbin.
pub(super) fn tool(program: &str) -> Command {
    let path = std::env::var("PATH").unwrap_or_default() + ":/usr/sbin:/sbin";
    let mut command = Command::new(program);
    command.env("PATH", path).env("LC_ALL", "C").stdin(Stdio::null());
    command
}

/// Output of a command line, which is split at white space; else why there is none.
pub(super) fn output(line: &str) -> Result<String, String> {
    feed(line, "")
}

/// [`output`] of a command that reads `input`.
pub(super) fn feed(line: &str, input: &str) -> Result<String, String> {
    let mut words = line.split_whitespace();
    let mut command = tool(words.next().unwrap_or_default());
    command.args(words).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let failed = |error: std::io::Error| format!("{line}: {error}");
    let mut child = command.spawn().map_err(failed)?;
    if let Some(mut stdin) = child.stdin.take() {
        // A tool that does not read its input says itself what is wrong.
        let _ = stdin.write_all(input.as_bytes());
    }
    let output = child.wait_with_output().map_err(failed)?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Err(format!("{line}: {}", said.lines().find(|line| !line.trim().is_empty()).unwrap_or("failed")))
}

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

    #[test]
    fn failed_command_says_why() {
        assert_eq!(feed("cat", "input").unwrap(), "input");
        assert!(output("cat /nonexistent").unwrap_err().contains("No such file"));
        assert!(output("no-such-program-here").is_err());
    }
}
