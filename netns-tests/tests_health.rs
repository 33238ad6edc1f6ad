//! A broken gateway is not reported alive; one with a broken configuration uses its last good one.

use crate::clients::connect_from;
use crate::config::{Config, NO_SOCKET};
use crate::gateway::Gateway;
use crate::lab::{Family, Host, Lab, Tenant};
use crate::namespace::text;
use crate::tests_certificates::Authority;
use crate::traffic::pass;
use crate::wait::{PATIENCE, wait_until, wait_within};
use std::fs;
use std::io::Write;
use std::net::SocketAddr;
use std::process::{Command, Stdio};
use std::time::Duration;

crate::trials! {
    both families: broken_config_keeps_last_good;
    once:
        stalled_worker_fails_liveness,
        flood_of_metrics_listener_keeps_readiness,
        failed_start_keeps_last_good,
        missing_certificates_keep_last_good,
        reload_cannot_mend_failed_start
}

/// An address that only a privileged process may listen on.
const PRIVILEGED: &str = "[::]:1";

fn number_of_thread(gateway: &Gateway<'_>, name: &str) -> String {
    let tasks = fs::read_dir(gateway.proc("task")).unwrap().map(|task| task.unwrap().path());
    let mut named =
        tasks.filter(|task| fs::read_to_string(task.join("comm")).is_ok_and(|comm| comm.trim() == name));
    named.next().unwrap().file_name().unwrap().to_str().unwrap().to_owned()
}

fn stalled_worker_fails_liveness() {
    let lab = Lab::new();
    let gateway = lab.start_gateway(&Config::default());
    assert_eq!(gateway.get("/healthz").unwrap(), (200, "ok\n".to_owned()));
    let worker = number_of_thread(&gateway, "worker-0");
    // Only this thread is blocked in its next system call, for longer than the test runs.
    let mut strace = Command::new("strace")
        .args([
            "-qq",
            "-p",
            &worker,
            "-e",
            "trace=epoll_wait",
            "-e",
            "inject=epoll_wait:delay_enter=600000000",
        ])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let is = |path: &str, status: u16| gateway.get(path).is_ok_and(|(found, _)| found == status);
    wait_within(Duration::from_secs(30), "the stalled worker to be seen", || {
        if is("/healthz", 503) && is("/readyz", 503) { Ok(()) } else { Err("it is reported alive") }
    });
    assert_eq!(gateway.get("/healthz").unwrap().1, "the event loop of worker 0 has stalled\n");
    strace.kill().unwrap();
    strace.wait().unwrap();
    wait_until("the worker to go on", || is("/healthz", 200) && is("/readyz", 200));
}

/// Hosts flood it that send half a request, or a whole one whose answer they never read, and open another connection for each
/// that is closed.
fn flood_of_metrics_listener_keeps_readiness() {
    let lab = Lab::new();
    let gateway = lab.start_gateway(&Config { gateway: NO_SOCKET.into(), ..Config::default() });
    let to = SocketAddr::from(([127, 0, 0, 1], 9915));
    let descriptors = || fs::read_dir(gateway.proc("fd")).unwrap().count();
    let before = descriptors();
    // 127.0.0.1 is also where the health checks come from
    for (hosts, sent) in [(1, "GET /readyz HT"), (1, "GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n"), (8, "GET")]
    {
        let mut held = Vec::new();
        for at in 0..250 {
            let source = [127, 0, 0, 1 + at % hosts].into();
            let mut client = lab.gateway.run(|| connect_from(source, to, PATIENCE).unwrap());
            let _ = client.write_all(sent.as_bytes()); // one of the oldest may be reset already
            held.push(client);
            if at % 50 == 49 {
                assert_eq!(gateway.get("/readyz").unwrap(), (200, "ready\n".to_owned()), "{sent:?} {at}");
                assert!(gateway.get("/metrics").unwrap().1.contains("egret_flows"), "{sent:?} {at}");
            }
        }
        assert!(descriptors() <= before + 64 + 8, "descriptors are bounded");
        wait_until("the gateway to end what sends no request", || descriptors() <= before + 8);
        drop(held);
    }
}

/// The start fails at its last step, the threads of the workers.
fn failed_start_keeps_last_good() {
    let lab = Lab::new();
    let mut gateway = lab.start_gateway(&Config::default());
    let good = fs::read_to_string(gateway.config()).unwrap();
    wait_until("the good configuration to be kept", || gateway.keeps(&good));
    let last: u32 = number_of_thread(&gateway, "worker-1").parse().unwrap();
    let tasks = fs::read_dir(gateway.proc("task")).unwrap().map(|task| task.unwrap().file_name());
    let before = tasks.filter(|task| task.to_str().unwrap().parse::<u32>().unwrap() < last).count();
    gateway.write(&good.replacen("drain = \"1s\"", "drain = \"2s\"", 1));
    gateway.kill();
    gateway.start_again_without_thread(before);
    assert_eq!(gateway.metric("egret_config_fallback", &[]), 1);
    assert!(gateway.keeps(&good) && gateway.stderr().contains("trying the last good configuration"));
}

fn missing_certificates_keep_last_good() {
    let lab = Lab::new();
    let authority = Authority::new();
    let server = lab.listen(Host::Raw, Family::V4, 7000);
    let mut gateway = lab.start_gateway(&authority.config(&lab, "require"));
    let good = fs::read_to_string(gateway.config()).unwrap();
    let certificates = fs::read(authority.root()).unwrap();
    for broken in [None, Some("")] {
        wait_until("the good configuration to be kept", || gateway.keeps(&good));
        match broken {
            None => fs::remove_file(authority.root()).unwrap(),
            Some(text) => fs::write(authority.root(), text).unwrap(),
        }
        gateway.kill();
        gateway.start_again();
        pass(&lab.connect(Tenant::Alpha, server.address()), &server.accept(), b"service goes on");
        assert_eq!(gateway.metric("egret_config_fallback", &[]), 1, "{broken:?}");
        fs::write(authority.root(), &certificates).unwrap();
        gateway.reload(&good);
        gateway.wait_for_metric("egret_config_fallback", &[], |value| value == 0);
    }
}

/// Only a restart changes `[gateway]`, and the last one failed because of it.
fn reload_cannot_mend_failed_start() {
    let lab = Lab::new();
    let admin = format!("admin = \"unix:{}\"", lab.control_socket());
    let mut gateway = lab.start_gateway(&Config { gateway: admin, ..Config::default() });
    let good = fs::read_to_string(gateway.config()).unwrap();
    wait_until("the good configuration to be kept", || gateway.keeps(&good));
    gateway.write(&good.replacen("[::]:15001", PRIVILEGED, 1));
    gateway.kill();
    gateway.start_again();
    let said = text(&gateway.egret(&["reload"]));
    assert!(
        said.contains("could not start with [gateway] of these files") && said.contains("is in force"),
        "{said}"
    );
    assert_eq!(gateway.metric("egret_config_fallback", &[]), 1);
    gateway.write(&good);
    let said = text(&gateway.egret(&["reload"]));
    assert!(!said.contains("could not start"), "{said}");
    assert_eq!(gateway.metric("egret_config_fallback", &[]), 0);
}

fn broken_config_keeps_last_good(family: Family) {
    let lab = Lab::new();
    let mut gateway = lab.start_gateway(&Config { gateway: NO_SOCKET.into(), ..Config::default() });
    let server = lab.listen(Host::Raw, family, 7000);
    let good = fs::read_to_string(gateway.config()).unwrap();
    let refused = "the files were refused at the start";
    for (what, cause, broken) in [
        ("a key that is unknown", refused, good.replacen("drain =", "drian =", 1)),
        (
            "a port that the gateway may not take",
            "the gateway could not start with the files",
            good.replacen("[::]:15001", PRIVILEGED, 1),
        ),
        ("no file", refused, String::new()),
    ] {
        wait_until("the good configuration to be kept", || gateway.keeps(&good));
        if broken.is_empty() {
            fs::remove_file(gateway.config()).unwrap();
        } else {
            assert_ne!(broken, good);
            gateway.write(&broken);
        }
        gateway.kill();
        gateway.start_again();
        let client = lab.connect(Tenant::Alpha, server.address());
        pass(&client, &server.accept(), b"service goes on");
        assert_eq!(gateway.metric("egret_config_fallback", &[]), 1, "{what}");
        assert_eq!(gateway.metric("egret_config_reload_success", &[]), 0, "{what}");
        let (status, said) = gateway.get("/readyz").unwrap();
        let note = format!("ready\nnote: runs on the last good configuration, because {cause}: ");
        assert!(status == 200 && said.starts_with(&note), "{what}: {said}");
        assert_eq!(gateway.changes().last().unwrap()["change"], "start_fallback", "{what}");
        gateway.reload(&good);
        gateway.wait_for_metric("egret_config_fallback", &[], |value| value == 0);
        assert_eq!(gateway.get("/readyz").unwrap(), (200, "ready\n".to_owned()), "{what}");
    }
}
