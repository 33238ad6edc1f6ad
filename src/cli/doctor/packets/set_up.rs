//! Setting up of a probe on the machine, and its removal, however the process ends.

use crate::cli::tool::tool;
use std::io::{self, BufRead as _, BufReader, Write as _};
use std::os::unix::process::CommandExt as _;
use std::process::{Child, ChildStdin, ChildStdout, Stdio};

/// Longest run of a command, in seconds.
const PATIENCE: u32 = 5;
/// Begins the line that ends a command's output; its exit status comes behind it.
const END: &str = "egret-doctor-status";

/// A shell that sets something up, and removes it when this process has dropped it or is gone, however it ended.
///
/// One shell does both, one after the other: a command that a killed process has left running is through before its work is
/// removed.
#[derive(Debug)]
pub(super) struct SetUp {
    shell: Child,
    /// Commands and what they say; `None` when there are no more.
    pipes: Option<(ChildStdin, BufReader<ChildStdout>)>,
}

impl SetUp {
    /// `removal`: a script, which must bear to find nothing.
    pub(super) fn new(removal: &str) -> Result<Self, String> {
        // A killed process reads no more output, which is no reason to end.
        let script = format!(
            "trap '' INT TERM HUP QUIT PIPE\nremove() {{\n:\n{removal}\n}} >/dev/null 2>&1\ntrap remove EXIT\n. /dev/stdin\n"
        );
        let mut command = tool("sh");
        command.args(["-c", &script]).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
        // A Ctrl-C is for the process group of the terminal.
        let mut shell = command.process_group(0).spawn().map_err(|error| format!("sh: {error}"))?;
        let pipes = shell.stdin.take().zip(shell.stdout.take().map(BufReader::new));
        Ok(Self { shell, pipes })
    }

    /// Runs a command line, which reads `input`; `Err` says why it failed.
    pub(super) fn run(&mut self, line: &str, input: &str) -> Result<(), String> {
        self.send(line, input)
            .and_then(|()| self.end())
            .map_err(|error| format!("{line}: {error}"))?
            .map_err(|said| format!("{line}: {said}"))
    }

    fn send(&mut self, line: &str, input: &str) -> io::Result<()> {
        let (commands, _) = self.pipes.as_mut().ok_or(io::ErrorKind::BrokenPipe)?;
        let command =
            format!("timeout {PATIENCE} {line} 2>&1 <<'{END}'\n{input}\n{END}\necho \"{END} $?\"\n");
        commands.write_all(command.as_bytes())
    }

    /// Waits for the end of a command; `Err` inside has what it said.
    fn end(&mut self) -> io::Result<Result<(), String>> {
        let (_, output) = self.pipes.as_mut().ok_or(io::ErrorKind::BrokenPipe)?;
        let mut said = None;
        for line in output.lines() {
            let line = line?;
            match line.strip_prefix(END).map(str::trim) {
                Some("0") => return Ok(Ok(())),
                // timeout(1)
                Some("124") => return Ok(Err(format!("did not end within {PATIENCE} s"))),
                Some(_) => return Ok(Err(said.unwrap_or_else(|| "failed".into()))),
                None if said.is_none() && !line.trim().is_empty() => said = Some(line),
                None => {}
            }
        }
        Err(io::ErrorKind::UnexpectedEof.into())
    }
}

impl Drop for SetUp {
    fn drop(&mut self) {
        drop(self.pipes.take());
        let _ = self.shell.wait();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn removal_runs_when_dropped() {
        let folder = std::env::temp_dir().join(format!("egret-set-up-{}", std::process::id()));
        let name = folder.display();
        let mut set_up = SetUp::new(&format!("rmdir {name}")).unwrap();
        set_up.run(&format!("mkdir {name}"), "").unwrap();
        assert!(folder.exists());
        drop(set_up);
        assert!(!folder.exists());
    }

    #[test]
    fn late_command_is_removed_too() {
        let folder = std::env::temp_dir().join(format!("egret-late-{}", std::process::id()));
        let mut set_up = SetUp::new(&format!("rmdir {}", folder.display())).unwrap();
        set_up.send("sh", &format!("sleep 0.2; mkdir {}", folder.display())).unwrap();
        // As when the process is killed: nobody waits for the command, or reads what it says.
        drop(set_up);
        assert!(!folder.exists());
    }

    #[test]
    fn failed_command_says_why() {
        let mut set_up = SetUp::new("").unwrap();
        set_up.run("grep word", "a word").unwrap();
        assert_eq!(set_up.run("sh", "echo 'no such link' >&2; exit 3").unwrap_err(), "sh: no such link");
        assert_eq!(set_up.run("false", "").unwrap_err(), "false: failed");
        set_up.run("true", "").unwrap();
    }
}
