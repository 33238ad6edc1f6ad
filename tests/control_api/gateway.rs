//! A control API without a gateway behind it, and its clients.

use super::answers::{self, control};
use egret::admin::{self, ControlSocket, PortsQuery};
use serde_json::Value;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{Command, Output};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use tokio::sync::oneshot;

/// The API on its own thread; stops when dropped.
pub struct Gateway {
    folder: tempfile::TempDir,
    /// Last query for ports.
    pub asked: Arc<Mutex<Option<PortsQuery>>>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Gateway {
    pub fn start() -> Self {
        Self::serving(|_| {})
    }

    /// With a candidate loaded that was rolled back.
    pub fn with_rollback() -> Self {
        Self::serving(|control| control.candidate.files = Arc::new(|()| Ok(answers::fallen_back())))
    }

    fn serving(change: impl FnOnce(&mut admin::ControlHandlers)) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let socket = ControlSocket::open(&folder.path().join("admin.sock")).unwrap();
        let asked = Arc::new(Mutex::new(None));
        let mut control = control(Arc::clone(&asked));
        change(&mut control);
        let (stop, stopped) = oneshot::channel();
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async move {
                tokio::select! {
                    served = admin::serve_control(socket, control) => served.unwrap(),
                    stopped = stopped => stopped.unwrap(),
                }
            });
        });
        Self { folder, asked, stop: Some(stop), thread: Some(thread) }
    }

    pub fn socket(&self) -> PathBuf {
        self.folder.path().join("admin.sock")
    }

    /// Status and body. Reads to the end, so it would hang if the connection were kept.
    pub fn request(&self, method: &str, target: &str, body: &str) -> (u16, String) {
        let mut stream = UnixStream::connect(self.socket()).unwrap();
        write!(
            stream,
            "{method} {target} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n\
             Content-Length: {}\r\n\r\n{body}",
            body.len()
        )
        .unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        (head.split(' ').nth(1).unwrap().parse().unwrap(), body.to_owned())
    }

    pub fn json(&self, method: &str, target: &str, body: &str) -> (u16, Value) {
        let (status, body) = self.request(method, target, body);
        (status, serde_json::from_str(&body).unwrap_or_else(|error| panic!("{error}: {body}")))
    }

    /// `egret ports …` on this gateway.
    pub fn egret(&self, arguments: &[&str]) -> Output {
        egret(arguments, &self.socket())
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        // A thread that has panicked no longer listens, and has printed its panic.
        let _ = self.stop.take().unwrap().send(());
        let ended = self.thread.take().unwrap().join();
        if !std::thread::panicking() {
            ended.unwrap();
            assert!(!self.socket().exists(), "the socket's file was not removed");
        }
    }
}

pub fn egret(arguments: &[&str], socket: &std::path::Path) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_egret"));
    command.arg("ports").args(arguments).arg("--socket").arg(socket).env_remove("EGRET_CONFIG");
    command.output().unwrap()
}

pub fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap()
}
