use super::*;
use crate::hostname::NotAHostname;

fn asked(head: &str) -> AskedName {
    let verdict = verdict(head.as_bytes());
    let ParseProgress::Done(Inspected { protocol: Protocol::Http, name, alpn, ech: false, .. }) = verdict
    else {
        panic!("{verdict:?}: {head:?}");
    };
    assert!(alpn.is_empty());
    name
}

#[test]
fn host_header_is_read() {
    for head in [
        "GET / HTTP/1.1\r\nHost: api.example.com\r\n\r\n",
        "GET / HTTP/1.0\r\nhOsT:API.example.com.\r\n\r\n",
        "POST /a?b=http://c/ HTTP/1.1\r\nA: b\r\nHost: \t api.example.com:8080 \t\r\nC:\r\n\r\nbody\n\0",
        "OPTIONS * HTTP/1.1\r\nHost: api.example.com\r\n\r\n",
        "M-SEARCH //evil.example/ HTTP/1.1\r\nHost: api.example.com\r\n\r\n",
        "GET http://api.example.com HTTP/1.1\r\nHost: API.example.com:80\r\n\r\n",
        "GET HTTP://api.example.com:8080/x?y HTTP/1.1\r\nHost: api.example.com:8080\r\n\r\n",
        "GET http://api.example.com?@evil.example HTTP/1.1\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: api.example.com:\r\n\r\n",
        "GET http://api.example.com:/ HTTP/1.1\r\nHost: api.example.com:80\r\n\r\n",
        "GET / HTTP/1.1\r\nX_Y.z~: \u{e9}\t\u{e9}\r\nHost: api.example.com\r\nEmpty:\r\n\r\n",
        "GET /\"<>|{}^`\\?[#\u{e9} HTTP/1.1\r\nHost: api.example.com\r\n\r\n",
        "GET / HTTP/1.1\r\nConnection: keep-alive, TE, X-Host, hosts\r\nHost: api.example.com\r\n\r\n",
        "GET / HTTP/1.1\r\nX-Host: evil.example\r\nHost: api.example.com\r\nHosts: evil.example\r\n\r\n",
    ] {
        assert_eq!(asked(head), name("api.example.com"), "{head:?}");
    }
}

#[test]
fn target_accepts_all_but_control_bytes() {
    for byte in (0x21..=0xff).filter(|&b| b != 0x7f) {
        for head in [&b"GET /caf"[..], b"GET http://api.example.com/?q="] {
            let head = [head, &[byte], b" HTTP/1.1\r\nHost: api.example.com\r\n\r\n"].concat();
            let ParseProgress::Done(inspected) = verdict(&head) else { panic!("{}", head.escape_ascii()) };
            assert_eq!(inspected.name, name("api.example.com"));
            checks::same_host_as_httparse(&head, &ParseProgress::Done(inspected));
        }
    }
    let authority = b"GET http://api.example.com\xa0/ HTTP/1.1\r\n\r\n";
    let ParseProgress::Done(inspected) = verdict(authority) else { panic!("{:?}", verdict(authority)) };
    assert_eq!(inspected.name, AskedName::Invalid(NotAHostname::NonAscii));
}

#[test]
fn host_may_be_absent_or_invalid() {
    assert_eq!(asked("GET / HTTP/1.0\r\n\r\n"), AskedName::Absent);
    assert_eq!(asked("GET / HTTP/1.1\r\nA: b\r\n\r\n"), AskedName::Absent);
    for (host, why) in [
        ("", NotAHostname::Empty),
        ("10.0.0.1", NotAHostname::IpLiteral),
        ("[::1]:80", NotAHostname::IpLiteral),
        (".wild.example.org", NotAHostname::EmptyLabel),
        ("b\u{fc}cher.example", NotAHostname::NonAscii),
    ] {
        assert_eq!(asked(&format!("GET / HTTP/1.1\r\nHost: {host}\r\n\r\n")), AskedName::Invalid(why));
    }
}

#[test]
fn ambiguous_heads_are_refused() {
    for (head, why) in [
        ("GET / HTTP/1.1\r\nHost: a.example\r\nHost: a.example\r\n\r\n", "more than one Host"),
        ("GET / HTTP/1.0\r\nHost: a.example\r\nhost:\r\n\r\n", "more than one Host"),
        ("GET / HTTP/1.1\r\nHost: a.example\r\nConnection: host\r\n\r\n", "remove the Host"),
        ("GET / HTTP/1.1\r\nconnection: close ;Host=1\r\nHost: a.example\r\n\r\n", "remove the Host"),
        (
            "GET / HTTP/1.1\r\nConnection: close\r\nConnection: HOST\r\nHost: a.example\r\n\r\n",
            "remove the Host",
        ),
        ("GET / HTTP/1.1\r\nHost: a.example, b.example\r\n\r\n", "could hide"),
        ("GET / HTTP/1.1\r\nHost: a@b.example\r\n\r\n", "could hide"),
        ("GET / HTTP/1.1\r\nHost: a.example:80x\r\n\r\n", "not a port"),
        ("GET / HTTP/1.1\r\nHost: a.example::\r\n\r\n", "not a port"),
        ("GET / HTTP/1.1\r\nHost: a.example\0\r\n\r\n", "header line"),
        ("GET / HTTP/1.1\r\nHost: a.example\rHost: b.example\r\n\r\n", "header line"),
        ("GET / HTTP/1.1\r\nHost : a.example\r\n\r\n", "header line"),
        ("GET / HTTP/1.1\r\nHost\r\n\r\n", "header line"),
        ("GET / HTTP/1.1\r\n: a.example\r\n\r\n", "header line"),
        ("GET / HTTP/1.1\r\nA: b\u{1}\r\n\r\n", "header line"),
        ("GET / HTTP/1.1\r\nA: b\u{7f}\r\n\r\n", "header line"),
        ("GET / HTTP/1.1\r\nHost:\r\n a.example\r\n\r\n", "folded"),
        ("GET / HTTP/1.1\r\n Host: a.example\r\n\r\n", "folded"),
        ("GET / HTTP/1.1\nHost: a.example\n\n", "LF alone"),
        ("GET / HTTP/1.1\r\nHost: a.example\n\r\n", "LF alone"),
        ("GET / HTTP/1.1\r\nHost: a.example\r\n\n", "LF alone"),
        ("GET http://a.example/ HTTP/1.1\r\nHost: b.example\r\n\r\n", "disagree"),
        ("GET http://a.example/ HTTP/1.1\r\nHost: a.example:8080\r\n\r\n", "disagree"),
        ("GET http://a.example/ HTTP/1.1\r\nHost:\r\n\r\n", "disagree"),
        ("GET http://10.0.0.1/ HTTP/1.1\r\nHost: 10.0.0.2\r\n\r\n", "disagree"),
        ("GET http://a.example\\@b.example/ HTTP/1.1\r\n\r\n", "could hide"),
        ("GET http://a.example#@b.example/ HTTP/1.1\r\n\r\n", "could hide"),
        ("GET http:///a.example HTTP/1.1\r\n\r\n", "no host"),
        ("GET http://:80/ HTTP/1.1\r\n\r\n", "no host"),
        ("GET https://a.example/ HTTP/1.1\r\n\r\n", "scheme"),
        ("GET a.example HTTP/1.1\r\n\r\n", "neither"),
        ("GET * HTTP/1.1\r\n\r\n", "neither"),
        ("CONNECT a.example:443 HTTP/1.1\r\nHost: a.example\r\n\r\n", "forward proxies"),
        ("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "HTTP/2"),
        ("GET / HTTP/2.0\r\n\r\n", "version"),
        ("GET / HTTP/0.9\r\n\r\n", "version"),
        ("GET / HTTP/1.2\r\n\r\n", "version"),
        ("GET / http/1.1\r\n\r\n", "version"),
        ("GET / HTTP/1.1 \r\n\r\n", "request line"),
        ("GET /\r\n\r\n", "request line"),
        ("GET  / HTTP/1.1\r\n\r\n", "request line"),
        ("GET /\t HTTP/1.1\r\n\r\n", "request line"),
        ("GET /\0 HTTP/1.1\r\n\r\n", "request line"),
        ("NICK somebody\r\n", "request line"),
    ] {
        let found = reason(head.as_bytes());
        assert!(found.contains(why), "{head:?}: {found}");
    }
}

#[test]
fn control_bytes_are_refused_everywhere() {
    let head = b"GET /abcdefghijklmnopqrstuvwxyz HTTP/1.1\r\nHost: api.example.com\r\nAccept-Language: abcdefghijklmnop\r\n\r\n";
    for at in 4..head.len() - 4 {
        for control in (0..0x20).chain([0x7f]).filter(|&b| b != b'\t') {
            let mut spoilt = head.to_vec();
            spoilt[at] = control;
            // A control byte in place of LF leaves a lone CR; LF in place of CR leaves a lone LF.
            assert!(
                spoilt == head || matches!(verdict(&spoilt), ParseProgress::Malformed(_)),
                "{}",
                spoilt.escape_ascii()
            );
        }
    }
}

#[test]
fn head_may_be_split_anywhere() {
    let head = b"GET http://api.example.com/ HTTP/1.1\r\nHost: api.example.com\r\nA: b\r\n\r\n";
    assert_split_at_every_byte(head, MAX);
    assert_split_at_every_byte(head, head.len());
    let less = head.len() - 1;
    assert_eq!(checks::stable_verdict(head, less), ParseProgress::TooLarge(Protocol::Http));
}

#[test]
fn headers_are_bounded() {
    let head = |count: usize| format!("GET / HTTP/1.1\r\n{}\r\n", "a: b\r\n".repeat(count));
    assert_eq!(asked(&head(128)), AskedName::Absent);
    assert_eq!(reason(head(129).as_bytes()), "too many headers");
    // Detected before the end has arrived.
    assert_eq!(
        reason(format!("GET / HTTP/1.1\r\n{}", "a: b\r\n".repeat(129)).as_bytes()),
        "too many headers"
    );
}

prop_compose! {
    /// Heads made of parts that are each plausible, and together often invalid.
    fn any_head()(
        method in prop::sample::select(vec!["GET", "POST", "OPTIONS", "CONNECT", "G-T"]),
        target in prop::sample::select(vec!["/", "/a?b", "*", "http://a.example", "http://a.example:80/", "http://[::1]/", "HTTP://b.example?x", "a.example:443", "http://a@b.example/"]),
        version in prop::sample::select(vec!["HTTP/1.1", "HTTP/1.0", "HTTP/1.1 ", "HTTP/2.0"]),
        end in prop::sample::select(vec!["\r\n", "\r\n", "\r\n", "\n"]),
        lines in prop::collection::vec(
            ("(Host|host|A|Host |X-Host| Host|Ho)", prop::sample::select(vec![":", ": ", ":\t", " :", ""]),
             "(a\\.example|b\\.example|A\\.Example\\.|a\\.example:80|10\\.0\\.0\\.1|[ -~]{0,12}|[\\x00-\\x7f]{0,6})"),
            0..4),
        body in "[ -~\r\n]{0,10}",
    ) -> Vec<u8> {
        let lines: Vec<_> = lines.iter().map(|(name, colon, value)| format!("{name}{colon}{value}{end}")).collect();
        let lines = lines.concat();
        format!("{method} {target} {version}\r\n{lines}{end}{body}").into_bytes()
    }
}

proptest! {
    #[test]
    fn httparse_agrees_on_the_host(head in any_head()) {
        checks::same_host_as_httparse(&head, &verdict(&head));
    }

    #[test]
    fn mutated_head_agrees_with_httparse(at in 4_usize..60, byte in any::<u8>()) {
        let mut head = b"GET http://a.example/ HTTP/1.1\r\nHost: a.example\r\nA: b\r\nC: d\r\n\r\n".to_vec();
        head[at] = byte;
        checks::same_host_as_httparse(&head, &verdict(&head));
    }
}
