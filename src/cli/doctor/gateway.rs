//! The running gateway: its answers to readiness and to the control API.

use super::Doctor;
use super::listeners::listeners;
use super::process::{self, Service};
use crate::admin::{Lifecycle, ProbedFlowAnswer};
use crate::cli::ask::{AskError, SilentListener, ask_within};
use crate::cli::findings::CheckFinding;
use crate::cli::mend::Mend;
use crate::steering::Remedy;
use crate::sys::listening_program::ListeningProgram;
use std::io::{self, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

/// Longest wait for each step of an answer.
pub(super) const PATIENCE: Duration = Duration::from_secs(2);
const CHECK: &str = "gateway";
/// The only status of readiness beside 200.
const NOT_READY: u16 = 503;
/// Effect of a gateway that does not answer at all.
const UNTRIED: &str = "the kernel accepts connections of clients, and they may hang; no packets were tried";

/// Effect of another program in the place of the metrics listener.
const DEAF: &str =
    "the gateway cannot open its metrics listener: load balancers and monitoring take it for dead";

/// The finding if the gateway accepts questions and does not answer them: then nothing else can be concluded from its
/// silence. `None` if it answers, does not run, or cannot be asked.
pub(super) fn silence(doctor: &Doctor) -> Option<CheckFinding> {
    let Some(socket) = &doctor.socket else {
        let service = process::service(doctor.steering.listen_port);
        let metrics = doctor.metrics.filter(|metrics| !is_foreign(*metrics, service.as_ref()))?;
        return silent_readiness(metrics, SilentListener::of(service.map(|service| service.pid)));
    };
    // A query with a short answer, which everybody may make: a rejected one would be in the audit log.
    match ask_within::<ProbedFlowAnswer>(PATIENCE, socket, "GET", "/v1/probe?client=0.0.0.0:0", "") {
        Err(AskError::Silent { listener, .. }) => {
            Some(hangs(&format!("the control socket {}", socket.display()), listener, UNTRIED))
        }
        Ok(_) | Err(_) => None,
    }
}

fn silent_readiness(metrics: SocketAddr, listener: SilentListener) -> Option<CheckFinding> {
    let is_silent = ask_ready(metrics).is_err_and(|error| is_silence(&error));
    is_silent.then(|| hangs(&readiness(metrics), listener, UNTRIED))
}

fn readiness(metrics: SocketAddr) -> String {
    format!("http://{metrics}/readyz")
}

fn hangs(asked: &str, listener: SilentListener, why: &'static str) -> CheckFinding {
    CheckFinding::fail(
        CHECK,
        format!("{asked} does not answer within {} s: {listener}", PATIENCE.as_secs()),
        why,
        listener.cure(),
    )
}

fn is_silence(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut)
}

/// True if the gateway's process is known, and another one listens in its place.
fn is_foreign(metrics: SocketAddr, service: Option<&Service>) -> bool {
    let listens = || listeners().iter().any(|listener| listener.port == metrics.port());
    service.is_some_and(|service| listens() && !service.may_listen_on(metrics.port()))
}

/// Asks the gateway whether it is ready. `service`: its process, if it was found.
pub(super) fn ready(metrics: SocketAddr, service: Option<&Service>) -> CheckFinding {
    let runs = service.is_some();
    match ask_ready(metrics) {
        Ok((200, said)) if first_line(&said) == Lifecycle::Ready.to_string() => {
            let found = format!("ready, says {}", readiness(metrics));
            let notes: Vec<_> = said.lines().filter_map(|line| line.strip_prefix("note: ")).collect();
            if notes.is_empty() {
                return CheckFinding::ok(CHECK, found);
            }
            let told: Vec<_> =
                notes.iter().map(|note| note.split_once(FIX).map_or(*note, |(told, _)| told)).collect();
            CheckFinding::warn(
                CHECK,
                format!("{found}, which notes: {}", told.join("; ")),
                "the gateway takes flows, but not everything is as it should be",
                remedy_of_notes(&notes),
            )
        }
        Ok((NOT_READY, said)) => CheckFinding::fail(
            CHECK,
            format!("not ready ({NOT_READY}): {}", first_line(&said)),
            "new flows are not taken, or do not reach the gateway",
            remedy(&said),
        ),
        Ok((status, _)) => {
            foreign(metrics, format!("another program answers at {} ({status})", readiness(metrics)))
        }
        Err(error) if is_silence(&error) && is_foreign(metrics, service) => foreign(
            metrics,
            format!("another program listens at {}, and does not answer", readiness(metrics)),
        ),
        Err(error) if is_silence(&error) => {
            let why = "load balancers and monitoring that ask for readiness take the gateway for dead";
            hangs(&readiness(metrics), SilentListener::of(None), why)
        }
        Err(error) if runs => CheckFinding::fail(
            CHECK,
            format!("{}: {error}", readiness(metrics)),
            DEAF,
            Mend::run("journalctl -u egret | grep 'cannot listen on'"),
        ),
        Err(error) => CheckFinding::fail(
            CHECK,
            format!("{}: {error}", readiness(metrics)),
            "while the gateway is down, every intercepted connection is dropped",
            Mend::run("systemctl start egret; journalctl -u egret"),
        ),
    }
}

fn foreign(metrics: SocketAddr, found: String) -> CheckFinding {
    let found = match ListeningProgram::of(metrics) {
        Some(holder) => format!("{found}; {holder} listens there"),
        None => found,
    };
    let mend = Mend::run(format!("ss -ltnp 'sport = :{}'", metrics.port()))
        .and("stop that program, or set another port in [gateway] metrics");
    CheckFinding::fail(CHECK, found, DEAF, mend)
}

fn first_line(said: &str) -> &str {
    said.lines().next().unwrap_or_default()
}

/// Begins the remedy within a note.
const FIX: &str = "; fix: ";

/// The remedies that notes name, and the log for those that name none.
fn remedy_of_notes(notes: &[&str]) -> Mend {
    let fixes: Vec<_> = notes.iter().filter_map(|note| Some(note.split_once(FIX)?.1)).collect();
    match &fixes[..] {
        [fix] if notes.len() == 1 => mend(fix),
        fixes if fixes.len() == notes.len() => fixes.join("; ").into(),
        fixes => Mend::run("journalctl -u egret").and(fixes.join("; ")),
    }
}

/// The remedy that the gateway names in the line after the reason.
fn remedy(said: &str) -> Mend {
    let fix = said.lines().nth(1).and_then(|line| line.strip_prefix("fix: "));
    fix.map_or_else(|| Mend::run("journalctl -u egret"), mend)
}

/// The remedy for words of the gateway's.
fn mend(fix: &str) -> Mend {
    let remedy = Remedy::ALL.into_iter().find(|remedy| remedy.as_str() == fix);
    remedy.map_or_else(|| fix.into(), Mend::from)
}

/// Returns the status and the body.
fn ask_ready(metrics: SocketAddr) -> io::Result<(u16, String)> {
    const MOST: u64 = 4096;
    let mut stream = TcpStream::connect_timeout(&metrics, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    let request = format!("GET /readyz HTTP/1.1\r\nHost: {metrics}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes())?;
    let mut answer = Vec::new();
    let ended = stream.take(MOST).read_to_end(&mut answer);
    if answer.is_empty() {
        ended?;
    }
    let answer = String::from_utf8_lossy(&answer);
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((&*answer, ""));
    let status = head.strip_prefix("HTTP/1.1 ").and_then(|rest| rest.get(..3)?.parse().ok());
    let status = status.ok_or_else(|| io::Error::other("that is not HTTP"))?;
    Ok((status, body.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::findings::FindingLevel;
    use std::io::{BufRead as _, BufReader};
    use std::net::TcpListener;

    /// The finding about a program that answers once, with these bytes.
    fn answered(answer: &str, runs: bool) -> CheckFinding {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let answer = answer.to_owned();
        let server = std::thread::spawn(move || {
            let (mut asked, _) = listener.accept().unwrap();
            // all of it: a close with bytes unread is a reset, which takes the answer away
            let request = BufReader::new(&asked).lines().map_while(Result::ok);
            request.take_while(|line| !line.is_empty()).for_each(drop);
            asked.write_all(answer.as_bytes()).unwrap();
        });
        let found = ready(address, own(runs).as_ref());
        server.join().unwrap();
        found
    }

    fn own(runs: bool) -> Option<Service> {
        runs.then(|| Service::of(std::process::id()))
    }

    /// The gateway's process is this test's parent, which does not listen.
    #[test]
    fn silent_program_is_not_taken_for_the_gateway() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let gateway = Service::of(std::os::unix::process::parent_id());
        let found = ready(address, Some(&gateway));
        assert!(found.found.starts_with("another program listens at"), "{found:?}");
        assert!(ready(address, own(true).as_ref()).found.contains("does not answer within"));
    }

    #[test]
    fn other_program_on_metrics_port_is_told() {
        for answer in ["404 Not Found\r\n\r\nwhy\n", "200 OK\r\n\r\n<html>\nready\n"] {
            let found = answered(&format!("HTTP/1.1 {answer}"), true);
            assert!(found.level == FindingLevel::Fail, "{found:?}");
            assert!(found.found.starts_with("another program answers"), "{found:?}");
        }
    }

    #[test]
    fn running_gateway_is_not_started_again() {
        let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        for (runs, remedy) in [(true, "cannot listen on"), (false, "systemctl start egret")] {
            for found in [answered("SSH-2.0-x\r\n", runs), ready(free, own(runs).as_ref())] {
                let mend = found.mend.as_ref().map(Mend::commands).unwrap_or_default();
                assert!(found.level == FindingLevel::Fail && mend.contains(remedy), "{found:?}");
            }
        }
    }

    /// The first question gets no answer; a second one would get one.
    #[test]
    fn silent_readiness_is_asked_once() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let server = std::thread::spawn(move || {
            let _unanswered = listener.accept().unwrap();
            let (mut second, _) = listener.accept().unwrap();
            let _ = second.write_all(b"HTTP/1.1 200 OK\r\n\r\nready\n");
        });
        let silence = silent_readiness(address, SilentListener::of(None)).unwrap();
        assert_eq!(silence.level, FindingLevel::Fail, "{silence:?}");
        assert!(silence.mend.is_some_and(|mend| mend.words().starts_with("wait")));
        drop(TcpStream::connect(address));
        server.join().unwrap();
    }

    #[test]
    fn remedy_is_the_gateways_own() {
        let lost = format!("steering is not in place: a chain is gone\nfix: {}\n", Remedy::Renew.as_str());
        for (said, remedy) in [
            (&*lost, Mend::renew()),
            ("steering is not in place: x\nfix: delete that rule\nnote: y\n", "delete that rule".into()),
            ("draining: no new flows are taken\n", Mend::run("journalctl -u egret")),
        ] {
            let finding = answered(&format!("HTTP/1.1 503 Service Unavailable\r\n\r\n{said}"), true);
            let reason = said.lines().next().unwrap();
            assert!(finding.found.ends_with(&format!(": {reason}")), "{finding:?}");
            assert_eq!(finding.mend, Some(remedy));
        }
    }

    #[test]
    fn notes_name_their_own_remedies() {
        let log = || Mend::run("journalctl -u egret");
        for (notes, told, remedy) in [
            ("note: x\n", "x", log()),
            ("note: x; fix: mend x\n", "x", "mend x".into()),
            ("note: x; fix: mend x\nnote: y\n", "x; y", log().and("mend x")),
            ("note: x; fix: mend x\nnote: y; fix: mend y\n", "x; y", "mend x; mend y".into()),
        ] {
            let finding = answered(&format!("HTTP/1.1 200 OK\r\n\r\nready\n{notes}"), true);
            assert!(finding.found.ends_with(&format!("which notes: {told}")), "{finding:?}");
            assert_eq!(finding.mend, Some(remedy));
        }
    }

    #[test]
    fn readiness_is_what_the_gateway_answers() {
        for (answer, level, said) in [
            ("200 OK\r\n\r\nready\n", FindingLevel::Ok, "ready, says"),
            ("200 OK\r\n\r\nready\na note\n", FindingLevel::Ok, "ready, says"),
            (
                "503 Service Unavailable\r\n\r\ndraining\nmore\n",
                FindingLevel::Fail,
                "not ready (503): draining",
            ),
        ] {
            let finding = answered(&format!("HTTP/1.1 {answer}"), false);
            assert!(finding.level == level && finding.found.starts_with(said), "{finding:?}");
            assert!(!finding.mend.is_some_and(|mend| mend.commands().contains("start egret")));
        }
    }
}
