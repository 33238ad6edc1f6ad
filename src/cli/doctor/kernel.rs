//! Features and settings of the kernel.

use super::proc::{number, read};
use crate::cli::findings::CheckFinding;
use crate::cli::mend::Mend;
use crate::sys::sock_diag::Inquirer;
use socket2::{Domain, Socket, Type};
use std::io::ErrorKind;
use std::time::Duration;

/// nft's `socket wildcard` and everything else that Egret needs is there from 5.10 on.
const OLDEST: (u32, u32) = (5, 10);

pub(super) fn version() -> CheckFinding {
    const CHECK: &str = "kernel";
    let release = read("/proc/sys/kernel/osrelease").unwrap_or_default();
    match parse_version(&release) {
        Some(version) if version >= OLDEST => CheckFinding::ok(CHECK, format!("Linux {release}")),
        _ => CheckFinding::fail(
            CHECK,
            format!("Linux {release}"),
            "nft steering, splice and socket options are relied upon as Linux 5.10 has them",
            "boot a kernel of 5.10 or later: apt install linux-image-amd64",
        ),
    }
}

/// `6.18.44-cloud` is `(6, 18)`.
fn parse_version(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit());
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

pub(super) fn transparent_sockets() -> CheckFinding {
    const CHECK: &str = "transparent sockets";
    let v4 = Socket::new(Domain::IPV4, Type::STREAM, None)
        .and_then(|socket| socket.set_ip_transparent_v4(true).and_then(|()| socket.set_reuse_port(true)));
    let v6 =
        Socket::new(Domain::IPV6, Type::STREAM, None).and_then(|socket| socket.set_ip_transparent_v6(true));
    match (v4, v6) {
        (Ok(()), Ok(())) => {
            CheckFinding::ok(CHECK, "IP_TRANSPARENT, IPV6_TRANSPARENT and SO_REUSEPORT can be set")
        }
        (Ok(()), Err(error)) if error.raw_os_error() == Some(libc::EAFNOSUPPORT) => CheckFinding::ok(
            CHECK,
            "IP_TRANSPARENT and SO_REUSEPORT can be set; this machine has no IPv6, so Egret serves IPv4 alone",
        ),
        (Err(error), _) | (_, Err(error)) if error.kind() == ErrorKind::PermissionDenied => {
            CheckFinding::warn(
                CHECK,
                "not tried: this shell has no CAP_NET_ADMIN",
                "the listener must accept connections to other hosts' addresses",
                Mend::run("sudo egret doctor"),
            )
        }
        (Err(error), _) => CheckFinding::fail(
            CHECK,
            format!("IPv4: {error}"),
            "the listener must accept connections to other hosts' addresses",
            "use a kernel with CONFIG_INET and TPROXY support",
        ),
        (_, Err(error)) => CheckFinding::fail(
            CHECK,
            format!("IPv6: {error}"),
            "the listener is dual-stack, and must accept connections to other hosts' addresses",
            "use a kernel with IPv6 and TPROXY support, or one without IPv6",
        ),
    }
}

/// Built-in features leave their trace in the kernel's configuration, others in its list of modules.
pub(super) fn modules() -> CheckFinding {
    const CHECK: &str = "TPROXY support";
    let release = read("/proc/sys/kernel/osrelease").unwrap_or_default();
    let listed = ["modules.builtin", "modules.dep"]
        .map(|file| read(&format!("/lib/modules/{release}/{file}")).unwrap_or_default())
        .concat();
    let config = read(&format!("/boot/config-{release}")).unwrap_or_default();
    if has_tproxy(&listed, &config) {
        return CheckFinding::ok(CHECK, "the kernel has it");
    }
    if listed.is_empty() && config.is_empty() {
        return CheckFinding::ok(
            CHECK,
            "the kernel does not list its features; rules that load are the proof",
        );
    }
    CheckFinding::fail(
        CHECK,
        "neither built in nor a module",
        "packet rules cannot hand over connections without it",
        Mend::run("apt install linux-image-amd64").and("the cloud kernels of Debian and Ubuntu have it too"),
    )
}

/// Either format will do.
fn has_tproxy(modules: &str, config: &str) -> bool {
    let loadable = |module: &str| modules.contains(&format!("/{module}.ko"));
    let built_in = |option: &str| {
        config.lines().any(|line| line == format!("{option}=y") || line == format!("{option}=m"))
    };
    loadable("xt_TPROXY")
        || loadable("nft_tproxy")
        || built_in("CONFIG_NETFILTER_XT_TARGET_TPROXY")
        || built_in("CONFIG_NFT_TPROXY")
}

pub(super) fn migration() -> CheckFinding {
    const CHECK: &str = "tcp_migrate_req";
    let why =
        "handshakes under way with a worker are lost when it stops listening, though others still listen";
    match number("net/ipv4/tcp_migrate_req") {
        Some(1) => CheckFinding::ok(CHECK, "1"),
        Some(_) => CheckFinding::warn(CHECK, "0", why, Mend::run("sysctl -w net.ipv4.tcp_migrate_req=1")),
        None => CheckFinding::warn(CHECK, "unknown to this kernel", why, "boot a kernel of 5.14 or later"),
    }
}

pub(super) fn socket_list() -> CheckFinding {
    const CHECK: &str = "sock_diag";
    match Inquirer::open(Duration::from_secs(2)) {
        Ok(_) => CheckFinding::ok(CHECK, "the kernel lists TCP sockets"),
        Err(error) => CheckFinding::fail(
            CHECK,
            error.to_string(),
            "whether closed connections are gone is not known, so their ports are held for 132 s",
            Mend::run("modprobe -a inet_diag tcp_diag").and("docs/runbooks/EgretSockDiagFailing.md"),
        ),
    }
}

pub(super) fn timestamps() -> CheckFinding {
    const CHECK: &str = "tcp_timestamps";
    if number("net/ipv4/tcp_timestamps").is_some_and(|value| value != 0) {
        return CheckFinding::ok(CHECK, "on");
    }
    let why = "a source port that we closed first rests for 60 s instead of being free at once";
    CheckFinding::warn(CHECK, "off", why, Mend::run("sysctl -w net.ipv4.tcp_timestamps=1"))
}

pub(super) fn accept_queue() -> CheckFinding {
    const CHECK: &str = "somaxconn";
    let value = number("net/core/somaxconn").unwrap_or_default();
    let wanted = u64::from(crate::steering::SOMAXCONN);
    if value >= wanted {
        return CheckFinding::ok(CHECK, value.to_string());
    }
    let why = "a burst of new connections is dropped and retried after a second";
    let mend = Mend::run(format!("sysctl -w net.core.somaxconn={wanted}"));
    CheckFinding::warn(CHECK, value.to_string(), why, mend)
}

/// The kernel's default, in pages: 1,024 pipes of 64 KiB.
const PIPE_PAGES: u64 = 16384;

pub(super) fn pipes() -> CheckFinding {
    const CHECK: &str = "pipe-user-pages-soft";
    match number("fs/pipe-user-pages-soft") {
        Some(0) => CheckFinding::ok(CHECK, "unlimited"),
        Some(pages) if pages >= PIPE_PAGES => CheckFinding::ok(CHECK, format!("{pages} pages")),
        pages => CheckFinding::warn(
            CHECK,
            format!("{} pages", pages.unwrap_or_default()),
            "busy flows get pipes of 8 KiB and then none: slower, and more system calls",
            Mend::run(format!("sysctl -w fs.pipe-user-pages-soft={PIPE_PAGES}")),
        ),
    }
}

pub(super) fn files(wanted: u64) -> CheckFinding {
    const CHECK: &str = "fs.file-max";
    let most = number("fs/file-max").unwrap_or_default();
    if most >= wanted {
        return CheckFinding::ok(CHECK, most.to_string());
    }
    let why = "the machine runs out of files before the gateway has all its flows";
    CheckFinding::fail(
        CHECK,
        most.to_string(),
        why,
        Mend::run(format!("sysctl -w fs.file-max={}", wanted.saturating_mul(2))),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_compare_by_number() {
        assert_eq!(parse_version("6.18.44-fc-v669"), Some((6, 18)));
        assert_eq!(parse_version("5.10-amd64"), Some((5, 10)));
        assert!(parse_version("5.9.0").unwrap() < OLDEST);
        assert_eq!(parse_version("weird"), None);
    }

    #[test]
    fn tproxy_is_found_as_module_or_built_in() {
        let modules = "kernel/net/netfilter/xt_TPROXY.ko.xz: kernel/net/netfilter/x_tables.ko.xz\n";
        assert!(has_tproxy(modules, ""));
        assert!(has_tproxy("kernel/net/netfilter/nft_tproxy.ko\n", ""));
        assert!(has_tproxy("", "CONFIG_FOO=y\nCONFIG_NFT_TPROXY=m\n"));
        assert!(!has_tproxy("kernel/net/xt_TCPMSS.ko\n", "# CONFIG_NFT_TPROXY is not set\n"));
    }
}
