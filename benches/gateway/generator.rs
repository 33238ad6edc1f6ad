//! Load generator processes, from the side of the measuring process.

use crate::load::{Job, Report};
use crate::namespace::Namespace;
use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

/// This program in another role; the process ends when this is dropped.
pub struct Helper {
    child: Child,
    orders: Option<ChildStdin>,
    answers: BufReader<ChildStdout>,
}

impl Helper {
    /// Starts the servers.
    pub fn servers(namespace: &Namespace) -> Result<Self, String> {
        Self::start(namespace, &["serve".into()])
    }

    /// Starts a load generator and waits until its connections are established.
    pub fn load(namespace: &Namespace, job: &Job) -> Result<Self, String> {
        let job = serde_json::to_string(job).expect("a job as JSON");
        Self::start(namespace, &["load".into(), job])
    }

    fn start(namespace: &Namespace, arguments: &[String]) -> Result<Self, String> {
        let mut command = Command::new(std::env::current_exe().expect("this program"));
        command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = namespace.spawn(&mut command);
        let orders = child.stdin.take();
        let answers = BufReader::new(child.stdout.take().expect("a pipe"));
        let mut helper = Self { child, orders, answers };
        match &*helper.answer()? {
            "ready" => Ok(helper),
            other => Err(format!("a helper said {other:?}")),
        }
    }

    /// Sends the next order; the answer comes later.
    pub fn go(&mut self) -> Result<(), String> {
        let orders = self.orders.as_mut().ok_or("it takes no more orders")?;
        orders.write_all(b"go\n").map_err(|e| format!("a load generator is gone: {e}"))
    }

    pub fn report(&mut self) -> Result<Report, String> {
        let line = self.answer()?;
        serde_json::from_str(&line).map_err(|e| format!("a load generator said {line:?}: {e}"))
    }

    fn answer(&mut self) -> Result<String, String> {
        let mut line = String::new();
        match self.answers.read_line(&mut line) {
            Ok(n) if n > 0 => Ok(line.trim_end().to_owned()),
            _ => Err("a helper ended early; its reason is above".into()),
        }
    }
}

impl Drop for Helper {
    fn drop(&mut self) {
        self.orders = None;
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Runs one job from start to end.
pub fn run(namespace: &Namespace, job: &Job) -> Result<Report, String> {
    let mut load = Helper::load(namespace, job)?;
    load.go()?;
    load.report()
}
