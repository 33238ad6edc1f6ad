//! One request to the running gateway's control API: HTTP/1.1 on a unix socket.

use super::config_path::DEFAULT_CONFIG;
use super::{interrupted, journal, last_good};
use crate::clock;
use crate::config;
use crate::files::access_remedy;
use nix::sys::socket::getsockopt;
use nix::sys::socket::sockopt::PeerCredentials;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use socket2::{Domain, SockAddr, Socket, Type};
use std::fmt;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

/// Largest response in bytes: room for more than 10,000 source addresses.
const MOST: u64 = 16 << 20;
/// Timeout of each step: connect, write, read. The gateway answers an order within 30 s.
pub(super) const PATIENCE: Duration = Duration::from_secs(35);
/// The same where the gateway's process is stopped as the question comes.
const PATIENCE_WITH_STOPPED: Duration = Duration::from_secs(2);
/// Most headers of a response.
const HEADERS: usize = 32;

/// Arguments that select the gateway.
#[derive(Debug, Clone, clap::Args)]
pub(super) struct GatewayArgs {
    /// The control socket; the one that the configuration names unless given
    #[arg(long, value_name = "PATH", global = true)]
    socket: Option<PathBuf>,
    /// The configuration, /etc/egret/egret.toml unless given
    #[arg(long, short, value_name = "FILE", env = "EGRET_CONFIG", global = true)]
    config: Option<PathBuf>,
}

impl GatewayArgs {
    /// Returns the path of the main configuration file.
    pub(super) fn config(&self) -> PathBuf {
        self.config.clone().unwrap_or_else(|| DEFAULT_CONFIG.into())
    }

    /// Returns the control socket's path; otherwise the message to print.
    pub(super) fn socket(&self) -> Result<PathBuf, String> {
        if let Some(socket) = &self.socket {
            return Ok(socket.clone());
        }
        let default = Path::new(DEFAULT_CONFIG);
        let path = match &self.config {
            Some(path) => path,
            None if default.exists() => default,
            None => return Ok(config::ADMIN_SOCKET.into()),
        };
        match config::control_socket(path) {
            Ok(socket) => socket.ok_or_else(|| {
                format!("egret: the control socket is off: [gateway] admin in {}\n", path.display())
            }),
            Err(report) => last_good::control_socket(path)
                .ok_or_else(|| format!("{report}\negret: give the control socket itself by --socket\n")),
        }
    }
}

/// Exit code: the gateway could not be asked, or has not answered.
pub(super) const FAILED: u8 = 2;

impl GatewayArgs {
    /// Runs a query and returns its exit code; prints the reason if the gateway cannot be asked.
    pub(super) fn asked(&self, ask: impl FnOnce(&Path) -> Result<ExitCode, AskError>) -> ExitCode {
        let socket = match self.socket() {
            Ok(socket) => socket,
            Err(why) => {
                journal::error(&why);
                return ExitCode::from(FAILED);
            }
        };
        ask(&socket).unwrap_or_else(|error| {
            journal::error(&format!("egret: {error}"));
            ExitCode::from(FAILED)
        })
    }
}

/// Reason why there is no answer. Each message names the remedy.
#[derive(Debug, thiserror::Error)]
pub(super) enum AskError {
    /// There is no such file.
    #[error(
        "there is no control socket {0}: the gateway does not run, or its [gateway] admin is another; \
         see `systemctl status egret`, or give --socket or --config"
    )]
    Absent(PathBuf),
    /// The file exists, and nobody listens on it.
    #[error(
        "nobody answers on the control socket {0}: the gateway does not run; see `systemctl status egret`"
    )]
    NotRunning(PathBuf),
    /// The mode of the file or of its directory forbids it.
    #[error(
        "the control socket {} may not be opened: {}", .0.display(), access_remedy(.0)
    )]
    NotPermitted(PathBuf),
    /// The gateway refused the request.
    #[error("{0}")]
    Refused(String),
    /// The gateway does not know the requested item.
    #[error("{0}")]
    Unknown(String),
    /// The state of the item does not permit the request.
    #[error("{0}")]
    Conflict(String),
    /// A step took longer than the time that it was given.
    #[error(
        "the gateway has not answered on the control socket {} for {} s: {listener}; {}",
        socket.display(), time.as_secs(), listener.cure()
    )]
    Silent { socket: PathBuf, time: Duration, listener: SilentListener },
    /// Anything else.
    #[error("cannot ask on the control socket {0}: {1}")]
    Failed(PathBuf, io::Error),
}

/// The process that does not answer; `None` if it is not known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct SilentListener(Option<u32>);

impl SilentListener {
    /// That process. The kernel calls one of another PID namespace 0.
    pub(super) fn of(process: Option<u32>) -> Self {
        Self(process.filter(|process| *process > 0))
    }

    /// The stopped process, if it is stopped.
    fn stopped(self) -> Option<u32> {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.0?)).ok()?;
        let is_stopped = stat.rsplit_once(") ").is_some_and(|(_, rest)| rest.starts_with(['T', 't']));
        self.0.filter(|_| is_stopped)
    }

    /// The remedy. A gateway that reads a large configuration, or writes a large answer, is silent for seconds too.
    pub(super) fn cure(self) -> String {
        const RESTART: &str = "`systemctl restart egret`, which ends its live flows";
        match self.stopped() {
            Some(process) => format!("`kill -CONT {process}`, or {RESTART}"),
            None => format!(
                "wait a minute: it may have just started, or be reading a large configuration; if it stays silent, see `top` and \
                 `journalctl -u egret`, then {RESTART}"
            ),
        }
    }
}

impl fmt::Display for SilentListener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.0, self.stopped()) {
            (None, _) => f.write_str("it is stopped, hangs or is busy"),
            (Some(process), Some(_)) => write!(f, "process {process} is stopped (SIGSTOP or a debugger)"),
            (Some(process), None) => write!(f, "process {process} hangs or is busy"),
        }
    }
}

/// Body of responses with any other status.
#[derive(Deserialize)]
struct ErrorBody {
    error: String,
}

/// Sends a request and parses the answer.
pub(super) fn ask<T: DeserializeOwned>(
    socket: &Path,
    method: &str,
    target: &str,
    body: &str,
) -> Result<T, AskError> {
    ask_within(PATIENCE, socket, method, target, body)
}

/// The same, with a timeout of each step.
pub(super) fn ask_within<T: DeserializeOwned>(
    time: Duration,
    socket: &Path,
    method: &str,
    target: &str,
    body: &str,
) -> Result<T, AskError> {
    let (status, body) = exchange(time, socket, method, target, body)?;
    understood(socket, status, &body, &[200])
}

/// Sends an order whose answer has the same form whether it was carried out (200) or not (422).
pub(super) fn order<T: DeserializeOwned>(socket: &Path, target: &str, body: &str) -> Result<T, AskError> {
    let (status, body) = exchange(PATIENCE, socket, "POST", target, body)?;
    understood(socket, status, &body, &[200, 422])
}

fn understood<T: DeserializeOwned>(
    socket: &Path,
    status: u16,
    body: &[u8],
    answers: &[u16],
) -> Result<T, AskError> {
    let unclear = |_| AskError::Failed(socket.to_owned(), not_understood());
    if answers.contains(&status) {
        return serde_json::from_slice(body).map_err(unclear);
    }
    let ErrorBody { error } = serde_json::from_slice(body).map_err(unclear)?;
    Err(match status {
        404 => AskError::Unknown(error),
        409 => AskError::Conflict(error),
        _ => AskError::Refused(error),
    })
}

/// Appends the pairs to a path as a query string.
pub(super) fn with_query<'a>(path: &str, pairs: impl Iterator<Item = (&'a str, &'a str)>) -> String {
    let query = form_urlencoded::Serializer::new(String::new()).extend_pairs(pairs).finish();
    if query.is_empty() { path.to_owned() } else { format!("{path}?{query}") }
}

/// `listener` is the one that accepted the connection.
fn explain(socket: &Path, error: io::Error, time: Duration, listener: SilentListener) -> AskError {
    let path = socket.to_owned();
    if error.kind() == io::ErrorKind::NotFound {
        AskError::Absent(path)
    } else if error.kind() == io::ErrorKind::ConnectionRefused {
        AskError::NotRunning(path)
    } else if error.kind() == io::ErrorKind::PermissionDenied {
        AskError::NotPermitted(path)
    } else if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) {
        AskError::Silent { socket: path, time, listener }
    } else {
        AskError::Failed(path, error)
    }
}

fn exchange(
    time: Duration,
    path: &Path,
    method: &str,
    target: &str,
    body: &str,
) -> Result<(u16, Vec<u8>), AskError> {
    let socket = connect(path, time).map_err(|error| explain(path, error, time, SilentListener::of(None)))?;
    let listener = getsockopt(&socket, PeerCredentials).ok();
    let listener = SilentListener::of(listener.and_then(|listener| u32::try_from(listener.pid()).ok()));
    let time = if listener.stopped().is_some() { time.min(PATIENCE_WITH_STOPPED) } else { time };
    socket.set_read_timeout(Some(time)).map_err(|error| AskError::Failed(path.to_owned(), error))?;
    request(socket, method, target, body).map_err(|error| explain(path, error, time, listener))
}

fn request(mut socket: Socket, method: &str, target: &str, body: &str) -> io::Result<(u16, Vec<u8>)> {
    let length = body.len();
    let request = format!(
        "{method} {target} HTTP/1.1\r\nHost: egret\r\nConnection: close\r\n\
         Content-Type: application/json\r\nContent-Length: {length}\r\n\r\n{body}"
    );
    socket.write_all(request.as_bytes())?;
    let mut answer = Vec::new();
    socket.take(MOST).read_to_end(&mut answer)?;
    split(&answer)
}

/// Connects with timeouts on every step. `SO_SNDTIMEO` also bounds connecting, which waits for room in the listener's
/// queue (`unix_stream_connect` in net/unix/af_unix.c).
fn connect(path: &Path, time: Duration) -> io::Result<Socket> {
    let address = SockAddr::unix(path)?;
    let socket = Socket::new(Domain::UNIX, Type::STREAM.cloexec(), None)?;
    socket.set_write_timeout(Some(time))?;
    socket.set_read_timeout(Some(time))?;
    interrupted::repeat(clock::now() + time, || socket.connect(&address))?;
    Ok(socket)
}

/// Returns status and body of a complete response.
fn split(answer: &[u8]) -> io::Result<(u16, Vec<u8>)> {
    let mut headers = [httparse::EMPTY_HEADER; HEADERS];
    let mut head = httparse::Response::new(&mut headers);
    let Ok(httparse::Status::Complete(end)) = head.parse(answer) else { return Err(not_understood()) };
    let status = head.code.ok_or_else(not_understood)?;
    let length = head.headers.iter().find(|header| header.name.eq_ignore_ascii_case("content-length"));
    let length = length.and_then(|header| std::str::from_utf8(header.value).ok()?.parse().ok());
    let body = answer[end..].to_vec();
    if length == Some(body.len()) { Ok((status, body)) } else { Err(not_understood()) }
}

fn not_understood() -> io::Error {
    io::Error::other("the answer is cut off, or not one of this version of Egret")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn query_strings_are_escaped() {
        let pairs = [("pool", "a&b=c"), ("destination", "[2001:db8::1]:443")];
        assert_eq!(
            with_query("/v1/ports", pairs.into_iter()),
            "/v1/ports?pool=a%26b%3Dc&destination=%5B2001%3Adb8%3A%3A1%5D%3A443"
        );
        assert_eq!(with_query("/v1/ports", std::iter::empty()), "/v1/ports");
    }

    #[test]
    fn truncated_answers_are_refused() {
        let whole = b"HTTP/1.1 404 Not Found\r\nContent-Length: 2\r\n\r\n{}";
        assert_eq!(split(whole).unwrap(), (404, b"{}".to_vec()));
        for cut in 0..whole.len() {
            assert!(split(&whole[..cut]).is_err(), "{cut}");
        }
        assert!(split(b"SSH-2.0-OpenSSH\r\n").is_err());
    }

    #[test]
    fn socket_errors_name_their_remedy() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("admin.sock");
        let said = |path: &Path| ask::<serde_json::Value>(path, "GET", "/", "").unwrap_err().to_string();
        assert!(said(&path).contains("there is no control socket"), "{}", said(&path));
        drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
        assert!(said(&path).contains("the gateway does not run"), "{}", said(&path));
        let refused =
            explain(&path, io::ErrorKind::PermissionDenied.into(), PATIENCE, SilentListener::of(None));
        assert!(refused.to_string().contains("run this as root"));
    }

    #[test]
    fn silent_gateways_are_told_with_process() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("admin.sock");
        let _listens = std::os::unix::net::UnixListener::bind(&path).unwrap();
        let time = Duration::from_millis(1100);
        let silent = ask_within::<serde_json::Value>(time, &path, "GET", "/", "").unwrap_err().to_string();
        let process = format!("for 1 s: process {} hangs", std::process::id());
        assert!(silent.contains(&process) && silent.contains("wait a minute"), "{silent}");
        assert_eq!(SilentListener::of(Some(0)), SilentListener::of(None), "of another PID namespace");
    }

    #[test]
    fn socket_option_overrides_configuration() {
        let folder = tempfile::tempdir().unwrap();
        let config = folder.path().join("egret.toml");
        let asked = |admin: &str| {
            let good = "steering = { interfaces = [\"ens6\"] }\n[[pool]]\nname = \"p\"\n\
                        addresses = [\"203.0.113.16\"]\n[gateway]\n";
            std::fs::write(&config, format!("{good}admin = {admin}\n")).unwrap();
            GatewayArgs { socket: None, config: Some(config.clone()) }.socket()
        };
        assert_eq!(asked("\"unix:/run/other.sock\""), Ok("/run/other.sock".into()));
        // the socket is found despite other errors in the file
        assert_eq!(asked("\"unix:/run/other.sock\"\nnonsense = 1\n[[tenant"), Ok("/run/other.sock".into()));
        assert!(asked("\"off\"").unwrap_err().contains("the control socket is off"));
        assert!(asked("1").unwrap_err().contains("--socket"), "it may be another gateway's");
        let none = GatewayArgs { socket: None, config: Some("/nonexistent".into()) }.socket();
        assert!(none.unwrap_err().contains("\negret: give the control socket itself by --socket\n"));
        let given =
            GatewayArgs { socket: Some("/run/given.sock".into()), config: Some("/nonexistent".into()) };
        assert_eq!(given.socket(), Ok("/run/given.sock".into()));
    }
}
