//! Upgrades: offered, accepted, declined, or followed by answers that cannot be told.

use super::*;

#[test]
fn upgrade_holds_client_until_answer() {
    let upgrade = upgrade_to("websocket");
    for after in [EVIL, GET, "\0\0 anything"] {
        let waits = follow(&[&format!("{upgrade}{after}")]);
        assert_eq!((waits.passed.len(), waits.then), (upgrade.len(), Then::Wait));
        let continued = follow(&[&format!("{upgrade}{after}"), "HTTP/1.1 100 Continue\r\n\r\n", after]);
        assert_eq!((continued.passed.len(), continued.then), (upgrade.len(), Then::Wait));
        let taken = follow(&[&upgrade, SWITCH, after, "\u{1}\u{2}", EVIL]);
        assert_eq!(taken.passed.len(), upgrade.len() + after.len() + EVIL.len());
        assert_eq!(taken.permitted.len(), 1);
    }
    for declined in [
        OK,
        "HTTP/1.1 426 Upgrade Required\r\nContent-Length: 0\r\n\r\n",
        "HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\nHTTP/1.1 204 No Content\r\n\r\n",
        "HTTP/1.1 400 Bad\r\nTransfer-Encoding: gzip, chunked\r\n\r\n4\r\nHTTP\r\n0\r\n\r\n",
    ] {
        let followed = follow(&[&format!("{upgrade}{EVIL}"), declined]);
        assert_eq!((followed.passed.len(), &followed.then), (upgrade.len(), &Then::Denied(())), "{declined}");
        assert_eq!(followed.remainder, Remainder::Answer, "{declined}");
        let followed = follow(&[&format!("{upgrade}{GET}"), declined, "", SWITCH, EVIL]);
        assert_eq!((followed.passed.len(), &followed.then), (upgrade.len() + GET.len(), &Then::Denied(())));
    }
}

#[test]
fn upgrade_waits_for_earlier_answers() {
    let upgrade = upgrade_to("websocket");
    let passed = |dialogue: &[&str]| {
        let followed = follow(dialogue);
        (followed.passed.len(), followed.then)
    };
    assert_eq!(passed(&[GET, OK, &upgrade, SWITCH, EVIL]).0, GET.len() + upgrade.len() + EVIL.len());
    assert_eq!(passed(&[&format!("{GET}{upgrade}"), OK]), (GET.len() + upgrade.len(), Then::More));
    // A server that announces a body and sends none, as to HEAD; what answers the upgrade would be read as that body.
    let short = "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n";
    assert_eq!(passed(&[GET, short, &upgrade]), (GET.len(), Then::Wait));
    let echo = format!("{}{SWITCH}", " ".repeat(100));
    assert_eq!(passed(&[GET, short, &upgrade, &echo, EVIL]).0, GET.len() + upgrade.len());
}

#[test]
fn answers_accept_bare_lf() {
    let upgrade = upgrade_to("websocket");
    let taken = follow(&[&upgrade, &SWITCH.replace('\r', ""), "\0\0 anything"]);
    assert_eq!((taken.passed.len(), taken.then), (upgrade.len() + 11, Then::More));
    let ok = "HTTP/1.0 200 OK\nContent-Length: 2\n\nok";
    let followed = follow(&[&format!("{upgrade}{EVIL}"), ok]);
    assert_eq!((followed.passed.len(), followed.then), (upgrade.len(), Then::Denied(())));
    // Mixed line endings make the end of the head ambiguous, which no upgrade may hang on.
    for mixed in [SWITCH.replacen('\r', "", 1), SWITCH.replacen("x\r", "x", 1)] {
        let followed = follow(&[&upgrade, &mixed, EVIL]);
        assert!(matches!(followed.then, Then::Unclear(_)), "{mixed:?}: {followed:?}");
    }
}

#[test]
fn answer_body_is_not_parsed() {
    let upgrade = upgrade_to("websocket");
    let hidden = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{SWITCH}", SWITCH.len());
    let endless = format!("HTTP/1.0 200 OK\r\n\r\n{SWITCH}");
    for (first, to) in [(&*hidden, GET), (&*endless, GET)] {
        let followed = follow(&[&format!("{to}{upgrade}{EVIL}"), first]);
        assert_eq!(followed.then, Then::Wait, "{first}");
    }
    let head = GET.replace("GET", "HEAD");
    let followed =
        follow(&[&format!("{head}{GET}{EVIL}"), "HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n", "", OK]);
    assert_eq!(followed.remainder, Remainder::Answer, "an answer to HEAD has no body");
}

#[test]
fn http2_and_tls_upgrades_are_blocked() {
    let offered = |upgrade: &str, settings: &str, connection: &str| {
        format!(
            "GET /Upgrade HTTP/1.1\r\nHost: a.example\r\nA: Upgrade\r\n{upgrade}\r\n{settings}: AAMAAABk\r\nConnection: {connection}\r\n\r\n"
        )
    };
    for (upgrade, withheld) in [
        ("Upgrade: h2c", "Ignored: h2c"),
        ("uPGRADE:H2C-14", "Ignored:H2C-14"),
        ("Upgrade: HTTP/2.0", "Ignored: HTTP/2.0"),
        ("Upgrade: TLS/1.2, HTTP/1.1", "Ignored: TLS/1.2, HTTP/1.1"),
        ("Upgrade: websocket, h2c", "Ignored: websocket, h2c"),
        ("Upgrade:", "Ignored:"),
        ("Upgrade: websocket,", "Ignored: websocket,"),
        ("Upgrade: websocket\r\nUpgrade: h2c", "Ignored: websocket\r\nIgnored: h2c"),
    ] {
        let sent = offered(upgrade, "HTTP2-Settings", "Upgrade,close ,\tHTTP2-SETTINGS");
        let passed = offered(withheld, "Ignored-Header", "Ignored,close ,\tIgnored-Header");
        // It does not block later requests, and a server cannot accept it.
        let followed = follow(&[&format!("{sent}{GET}{EVIL}"), SWITCH, EVIL]);
        assert_eq!(String::from_utf8_lossy(&followed.passed), format!("{passed}{GET}"));
        assert_eq!((followed.then, followed.remainder), (Then::Denied(()), Remainder::Nothing));
    }
    for websocket in ["Upgrade: websocket", "upgrade:\tWebSocket \t", "Upgrade: websocket, WEBSOCKET"] {
        let sent = offered(websocket, "HTTP2-Settings", "Upgrade");
        assert_eq!(follow(&[&sent]).passed, sent.as_bytes(), "{websocket} passes as it is");
    }
}

/// Hypercorn strips white space outside ASCII around `h2c`, Netty ignores white space within.
#[test]
fn odd_upgrades_are_refused() {
    let white = [b' ', b'\t', 0x80, 0x85, 0xa0, 0xad, 0xff];
    let spoilt = (0..=3).flat_map(|at| white.map(|byte| [&b"h2c"[..at], &[byte], &b"h2c"[at..]].concat()));
    let spoilt = spoilt.filter(|offer| offer.trim_ascii() != b"h2c");
    let others = [
        "x",
        "tcp",
        "SPDY/3.1",
        "xh2c",
        "h2c;q=1",
        "\"h2c\"",
        "h2c/",
        "/h2c",
        "HTTP/2/0",
        "websocket h2c",
        "websocket, x",
        "h2c, h 2c",
        "websocket\r\nUpgrade: h\t2c",
        "\u{a0}websocket",
        "websocket/13",
    ];
    for offer in spoilt.chain(others.iter().map(|offer| offer.as_bytes().to_vec())) {
        let upgrade = upgrade_to("!").into_bytes();
        let at = upgrade.iter().position(|&byte| byte == b'!').unwrap();
        let upgrade = [&upgrade[..at], &offer, &upgrade[at + 1..]].concat();
        let followed =
            checks::exchange(&[&[GET.as_bytes(), &upgrade].concat(), OK.as_bytes()], usize::MAX, MAX);
        assert_eq!(
            why(&followed),
            "an upgrade to something other than WebSocket",
            "{}",
            offer.escape_ascii()
        );
        assert_eq!((followed.passed.as_slice(), followed.remainder), (GET.as_bytes(), Remainder::Answer));
        let ParseProgress::Done(inspected) = verdict(&upgrade) else { panic!("{}", upgrade.escape_ascii()) };
        assert!(inspected.unframed.is_some(), "known before anything is dialled");
    }
}

#[test]
fn endless_answer_stops_tracking() {
    let upgrade = upgrade_to("websocket");
    for endless in [
        "HTTP/1.1 200 OK\r\nA: ".to_owned() + &"a".repeat(4 * MAX),
        "HTTP/1.1 200 ".to_owned() + &"a".repeat(4 * MAX),
        "HTTP/1.1 200 OK\r\n".to_owned() + &"a".repeat(4 * MAX),
        "HTTP/1.1 200 OK\r\n".to_owned() + &"a: b\r\n".repeat(MAX * 2 / 3 + 1),
        "HTTP/1.1 200 OK\r\nContent-Length:".to_owned() + &" ".repeat(100),
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n".to_owned()
            + &"a: b\r\n".repeat(MAX * 2 / 3 + 1),
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0;".to_owned() + &"a".repeat(9000),
    ] {
        let followed = follow(&[GET, &endless, EVIL]);
        assert_eq!((followed.then, followed.remainder), (Then::Denied(()), Remainder::Nothing));
        let followed = follow(&[GET, &endless, &format!("{upgrade}{GET}"), SWITCH]);
        assert!(why(&followed).contains("not known"), "an upgrade after it opens nothing");
        // Nor an earlier one, although its head may have ended and declined the upgrade.
        let followed = follow(&[&format!("{upgrade}{EVIL}"), &endless, SWITCH]);
        let stopped = matches!(followed.then, Then::Denied(()) | Then::Unclear(Unclear::Malformed(_)));
        assert!(stopped && followed.passed == upgrade.as_bytes(), "{:?}", followed.then);
    }
    let flood = "HTTP/1.1 100 Continue\r\n\r\n".repeat(5000);
    assert_eq!(follow(&[&format!("{upgrade}{EVIL}"), &flood]).then, Then::Wait);
}

#[test]
fn unclear_upgrade_answer_passes_nothing() {
    let upgrade = upgrade_to("websocket");
    for (answer, reason) in [
        ("HTTP/1.1 101 Switching\r\nUpgrade: x\n\n", "not known"),
        ("hello\r\n\r\n", "not known"),
        ("HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n", "not known"),
    ] {
        let followed = follow(&[&format!("{upgrade}{GET}"), answer]);
        assert_eq!((followed.passed.len(), followed.remainder), (upgrade.len(), Remainder::Nothing));
        assert!(why(&followed).contains(reason));
    }
    // Framing was lost before the upgrade was requested.
    let followed = follow(&[GET, "what?\r\n\r\n", &format!("{upgrade}{GET}"), SWITCH]);
    assert_eq!(followed.passed.len(), GET.len() + upgrade.len());
    assert!(why(&followed).contains("not known"));
    // A careless server's body after an answer that has none may look like one.
    let head = GET.replacen("GET", "HEAD", 1);
    for (first, answer) in [
        (&*head, "HTTP/1.1 200 OK\r\nContent-Length: 44\r\n\r\n"),
        (GET, "HTTP/1.1 304 Not Modified\r\n\r\n"),
        (GET, "HTTP/1.1 204 No Content\r\n\r\n"),
    ] {
        let followed = follow(&[&format!("{first}{upgrade}"), &format!("{answer}{SWITCH}"), EVIL]);
        assert!(why(&followed).contains("not known"), "{answer}");
    }
    // No upgrade was offered, so none was accepted.
    let followed = follow(&[GET, SWITCH, EVIL]);
    assert_eq!((followed.then, followed.remainder), (Then::Denied(()), Remainder::Nothing));
}
