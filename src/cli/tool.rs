//! The system's own tools: `ip`, `tc`, `nft`, `ss`, `iptables-save`, `systemctl`.

use std::io::{self, Read, Write as _};
use std::process::{Child, Command, Output, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::thread;
use std::time::{Duration, Instant};

/// Longest run of a tool.
const PATIENCE: Duration = Duration::from_secs(5);
/// Time between looks for the end of a tool that has closed its outputs.
const SOON: Duration = Duration::from_millis(1);

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
    run(line, input, PATIENCE)
}

fn run(line: &str, input: &str, patience: Duration) -> Result<String, String> {
    let mut words = line.split_whitespace();
    let mut command = tool(words.next().unwrap_or_default());
    command.args(words).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let failed = |error: io::Error| {
        if error.kind() == io::ErrorKind::TimedOut {
            format!("{line}: did not end within {} s", patience.as_secs_f32())
        } else {
            format!("{line}: {error}")
        }
    };
    let mut child = command.spawn().map_err(failed)?;
    let output = output_of(&mut child, input, crate::clock::now() + patience).inspect_err(|_| {
        // It may have ended meanwhile.
        let _ = child.kill();
        let _ = child.wait();
    });
    let output = output.map_err(failed)?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Err(format!("{line}: {}", said.lines().find(|line| !line.trim().is_empty()).unwrap_or("failed")))
}

/// Waits for the end of a tool; `TimedOut` after the deadline.
fn output_of(child: &mut Child, input: &str, deadline: Instant) -> io::Result<Output> {
    if let Some(mut stdin) = child.stdin.take().filter(|_| !input.is_empty()) {
        let input = input.to_owned();
        // A tool that does not read its input says itself what is wrong.
        thread::spawn(move || stdin.write_all(input.as_bytes()));
    }
    let (stdout, stderr) = (read_whole(child.stdout.take()), read_whole(child.stderr.take()));
    let (stdout, stderr) = (received(&stdout, deadline)?, received(&stderr, deadline)?);
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(Output { status, stdout, stderr });
        }
        if crate::clock::now() >= deadline {
            return Err(io::ErrorKind::TimedOut.into());
        }
        thread::sleep(SOON);
    }
}

fn read_whole(pipe: Option<impl Read + Send + 'static>) -> Receiver<io::Result<Vec<u8>>> {
    let (sender, receiver) = mpsc::sync_channel(1);
    thread::spawn(move || {
        let mut bytes = Vec::new();
        let read = pipe.map_or(Ok(0), |mut pipe| pipe.read_to_end(&mut bytes));
        // Nobody waits after the deadline.
        let _ = sender.send(read.map(|_| bytes));
    });
    receiver
}

fn received(receiver: &Receiver<io::Result<Vec<u8>>>, deadline: Instant) -> io::Result<Vec<u8>> {
    let left = deadline.saturating_duration_since(crate::clock::now());
    receiver.recv_timeout(left).unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failed_command_says_why() {
        assert_eq!(feed("cat", "input").unwrap(), "input");
        assert!(output("cat /nonexistent").unwrap_err().contains("No such file"));
        assert!(output("no-such-program-here").is_err());
    }

    #[test]
    fn large_input_and_output_do_not_block() {
        let text = "line\n".repeat(200_000);
        assert_eq!(feed("cat", &text).unwrap(), text);
        assert_eq!(feed("true", &text).unwrap(), "");
    }

    #[test]
    fn tool_that_hangs_is_killed() {
        let start = crate::clock::now();
        let error = run("sleep 1000", "", Duration::from_millis(100)).unwrap_err();
        assert_eq!(error, "sleep 1000: did not end within 0.1 s");
        assert!(start.elapsed() < Duration::from_secs(100));
    }
}
