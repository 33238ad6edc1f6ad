//! Requests on one HTTP/1 connection, their framing, and the answers that are due.

mod upgrades;

use super::checks::{self, Followed, no_other_request_passed};
use super::*;

const GET: &str = "GET / HTTP/1.1\r\nHost: a.example\r\n\r\n";
const EVIL: &str = "GET / HTTP/1.1\r\nHost: evil.example\r\n\r\n";
const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
const SWITCH: &str = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\n\r\n";

/// Follows alternating turns of the client and the server, the client's first.
fn follow(turns: &[&str]) -> Followed<()> {
    let turns: Vec<_> = turns.iter().map(|turn| turn.as_bytes()).collect();
    let followed = same_in_any_pieces(|piece| checks::exchange(&turns, piece, MAX));
    no_other_request_passed(&followed);
    followed
}

fn why(followed: &Followed<()>) -> &'static str {
    let Then::Unclear(Unclear::Malformed(Malformed { protocol: Protocol::Http, reason })) = &followed.then
    else {
        panic!("{:?} after {}", followed.then, followed.passed.escape_ascii());
    };
    reason
}

fn post(framing: &str, body: &str) -> String {
    format!("POST /x HTTP/1.1\r\nHost: a.example\r\n{framing}\r\n\r\n{body}")
}

fn upgrade_to(protocol: &str) -> String {
    format!("GET / HTTP/1.1\r\nHost: a.example\r\nConnection: upgrade\r\nUpgrade: {protocol}\r\n\r\n")
}

#[test]
fn permitted_requests_pass_in_any_framing() {
    for first in [
        GET.to_owned(),
        post("Content-Length: 5", "GET /"),
        post("Content-Length: 0", ""),
        post("content-LENGTH:\t00005 ", "hello"),
        post("Content-Length: 5", "hello\r\n"),
        post("Transfer-Encoding: Chunked", "5\r\nhello\r\n0\r\n\r\n"),
        post(
            "Transfer-Encoding: chunked",
            "5;a=\"b;c\" d\r\nhello\r\n00A\r\n0123456789\r\n0\r\nA: b\r\nC:d\r\n\r\n",
        ),
        "POST / HTTP/1.0\r\nHost: a.example\r\nContent-Length: 1\r\n\r\nx".to_owned(),
    ] {
        let both = format!("{first}{GET}");
        let followed = follow(&[&both]);
        assert_eq!((followed.passed.len(), followed.permitted.len()), (both.len(), 2), "{both:?}");
        assert_eq!((followed.then, followed.remainder), (Then::More, Remainder::Wait), "{both:?}");
    }
}

#[test]
fn bytes_beyond_head_bound_are_ignored() {
    const BOUND: usize = 100;
    let follow = |turns: &[&str]| {
        let turns: Vec<_> = turns.iter().map(|turn| turn.as_bytes()).collect();
        same_in_any_pieces(|piece| checks::exchange(&turns, piece, BOUND))
    };
    let long = "x".repeat(BOUND);
    // beyond it: a line that ends in LF alone, or the end of the head
    for end in ["\n\r\n", "\r\n\r\n"] {
        let request = format!("{GET}GET / HTTP/1.1\r\nHost: a.example\r\nA: {long}{end}");
        let followed = follow(&[&request]);
        assert_eq!(
            (followed.passed.len(), followed.then),
            (GET.len(), Then::Unclear(Unclear::TooLarge(Protocol::Http)))
        );
        // heads of answers may be four times as large
        let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: 0\r\nA: {}{end}", long.repeat(4));
        let followed = follow(&[GET, &answer, EVIL]);
        assert_eq!(
            (followed.then, followed.remainder),
            (Then::Denied(()), Remainder::Nothing),
            "it is lost track of"
        );
    }
}

#[test]
fn held_bytes_are_judged_at_server_eof() {
    let many = GET.repeat(200);
    for (first, answered) in [
        (upgrade_to("websocket"), "HTTP/1.0 200 OK\r\n\r\nuntil the end"),
        (format!("{GET}{}", upgrade_to("websocket")), OK),
        (upgrade_to("websocket"), "HTTP/1.1 2"),
        (many, ""),
    ] {
        for (second, stops) in [(GET, false), (EVIL, true)] {
            let mut exchange = HttpExchange::new(MAX);
            let mut sent = format!("{first}{second}").into_bytes();
            let permit = |name: &AskedName| if *name == self::name("a.example") { Ok(()) } else { Err(()) };
            let (passed, then) = exchange.client(&mut sent, permit);
            assert_eq!(then, Then::Wait);
            exchange.server(answered.as_bytes());
            exchange.server_finished(u64::MAX);
            let rest = &mut sent[passed..];
            let (passed, then) = exchange.client(rest, permit);
            let judged =
                if stops { (rest.len() - EVIL.len(), Then::Denied(())) } else { (rest.len(), Then::More) };
            assert_eq!((passed, then), judged, "{first:?} {answered:?}");
        }
    }
    let mut exchange = HttpExchange::new(MAX);
    let _ = exchange.client(&mut upgrade_to("websocket").into_bytes(), |_| Ok::<(), ()>(()));
    exchange.server(SWITCH.as_bytes());
    exchange.server_finished(u64::MAX);
    assert_eq!(exchange.free_up(), u64::MAX, "what was taken is taken");
}

#[test]
fn request_counts_from_first_byte() {
    let [ok, one] = [OK.len(), GET.len()];
    let until_close = "HTTP/1.1 200 OK\r\n\r\nall";
    for (sent, said, taken, answered) in [
        (GET.repeat(2), OK, one, Some(true)),
        (GET.repeat(2), OK, one + 1, Some(false)),
        (GET.repeat(3), OK, one, Some(true)),
        (GET.repeat(3), OK, 2 * one, Some(false)),
        (GET.repeat(2), &OK[..ok - 1], one, Some(false)),
        (format!("{}{GET}", post("Content-Length: 5", "hello")), OK, one, Some(true)),
        // nobody repeats the first of a connection
        (GET.repeat(2), "", 0, Some(false)),
        (GET.to_owned(), "", 0, Some(false)),
    ] {
        let mut exchange = HttpExchange::new(MAX);
        let (passed, _) = exchange.client(&mut sent.clone().into_bytes(), |_| Ok::<(), ()>(()));
        assert_eq!(passed, sent.len());
        exchange.server(said.as_bytes());
        let taken = if sent.starts_with("POST") { (sent.len() - one) as u64 } else { taken as u64 };
        exchange.server_finished(taken);
        assert_eq!(exchange.is_answered(), answered, "{sent:?} {said:?}");
    }
    // The server finishes before a request has passed.
    for (before, answered) in [("", Some(false)), (GET, Some(true))] {
        let mut exchange = HttpExchange::new(MAX);
        let pass = |exchange: &mut HttpExchange, sent: &str| {
            let _ = exchange.client(&mut sent.as_bytes().to_vec(), |_| Ok::<(), ()>(()));
        };
        pass(&mut exchange, before);
        exchange.server(if before.is_empty() { b"" } else { OK.as_bytes() });
        exchange.server_finished(u64::MAX);
        pass(&mut exchange, GET);
        assert_eq!(exchange.is_answered(), answered, "{before:?}");
    }
    // An answer that ends with the connection.
    for (taken, answered) in [(one, Some(true)), (2 * one, Some(false))] {
        let mut exchange = HttpExchange::new(MAX);
        let _ = exchange.client(&mut GET.repeat(2).into_bytes(), |_| Ok::<(), ()>(()));
        exchange.server(until_close.as_bytes());
        exchange.server_finished(taken as u64);
        assert_eq!(exchange.is_answered(), answered);
    }
}

#[test]
fn no_answer_is_due_after_last_request() {
    let head = |version: &str, fields: &str| format!("GET / {version}\r\nHost: a.example\r\n{fields}\r\n");
    for (first, due) in [
        (head("HTTP/1.1", ""), true),
        (head("HTTP/1.1", "Connection: upgrade, keep-alive\r\n"), true),
        (head("HTTP/1.1", "Connection: x, Close\r\n"), false),
        (head("HTTP/1.1", "Connection: x\r\nconnection: close\r\n"), false),
        (head("HTTP/1.0", ""), false),
        (head("HTTP/1.0", "Connection: Keep-Alive\r\n"), true),
    ] {
        for is_finished in [true, false] {
            let mut exchange = HttpExchange::new(MAX);
            let _ = exchange.client(&mut first.clone().into_bytes(), |_| Ok::<(), ()>(()));
            assert_eq!(exchange.is_answered(), Some(false), "{first:?}: the last one's own is");
            exchange.server(OK.as_bytes());
            let _ = exchange.client(&mut GET.as_bytes().to_vec(), |_| Ok::<(), ()>(()));
            if is_finished {
                exchange.server_finished(u64::MAX);
            }
            assert_eq!(exchange.is_answered(), Some(!due), "{first:?}, finished: {is_finished}");
        }
    }
}

#[test]
fn later_request_for_other_host_stops() {
    for first in [
        GET.to_owned(),
        post("Content-Length: 40", &"x".repeat(40)),
        post("Transfer-Encoding: chunked", "5\r\nhello\r\n0\r\nDigest: b.example\r\n\r\n"),
    ] {
        let followed = follow(&[&format!("{first}{EVIL}{GET}"), OK, GET]);
        assert_eq!((followed.passed.as_slice(), &followed.then), (first.as_bytes(), &Then::Denied(())));
        assert_eq!(followed.remainder, Remainder::Answer);
    }
}

#[test]
fn ambiguous_framing_is_malformed() {
    for (request, reason) in [
        (post("Content-Length: 5\r\nTransfer-Encoding: chunked", "0\r\n\r\n"), "both Content-Length"),
        (post("Transfer-Encoding: chunked\r\nContent-Length: 5", "0\r\n\r\n"), "both Content-Length"),
        (post("Content-Length: 5\r\nContent-Length: 6", "hello!"), "more than one Content-Length"),
        (post("Content-Length: 5\r\ncontent-length: 5", "hello"), "more than one Content-Length"),
        (post("Connection: Content-Length\r\nContent-Length: 5", "hello"), "a header about the body"),
        (
            post("Connection: close,transfer_encoding\r\nContent-Length: 5", "hello"),
            "a header about the body",
        ),
        (
            post("Connection: \"Transfer-Encoding\"\r\nTransfer-Encoding: chunked", ""),
            "a header about the body",
        ),
        (post("Connection: Host\r\nContent-Length: 5", "hello"), "remove the Host"),
        (post("Content-Length: 5, 5", "hello"), "not a number"),
        (post("Content-Length: +5", "hello"), "not a number"),
        (post("Content-Length: 0x5", "hello"), "not a number"),
        (post("Content-Length:", "hello"), "not a number"),
        (post("Content-Length: 1234567890123456789", ""), "not a number"),
        (post("Transfer-Encoding: xchunked", "0\r\n\r\n"), "not `chunked` alone"),
        (post("Transfer-Encoding: chunked, identity", "0\r\n\r\n"), "not `chunked` alone"),
        (post("Transfer-Encoding: gzip, chunked", "0\r\n\r\n"), "not `chunked` alone"),
        (post("Transfer-Encoding: identity", ""), "not `chunked` alone"),
        (post("Transfer-Encoding:", ""), "not `chunked` alone"),
        (post("Transfer-Encoding: \u{85}chunked", "0\r\n\r\n"), "not `chunked` alone"),
        (post("Transfer_Encoding: chunked\r\nContent-Length: 5", "0\r\n\r\n"), "take for one about the body"),
        (post("Transfer-Encoding: chunked\r\ncontent_length: 5", "0\r\n\r\n"), "take for one about the body"),
        (post("Transfer-Encoding: chunked\r\nTransfer-Encoding: x", ""), "more than one Transfer-Encoding"),
        (post("Transfer-Encoding : chunked", ""), "not `name: value`"),
        (post("Transfer-Encoding:\r\n chunked", ""), "folded"),
        (post("Content-Length: 5\nX: y", "hello"), "LF alone"),
        ("POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n".to_owned(), "in HTTP/1.0"),
        ("GET / HTTP/1.1\r\nContent-Length: 1\r\n\r\nx".to_owned(), "method has none"),
        ("HEAD / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n".to_owned(), "method has none"),
        ("TRACE / HTTP/1.1\r\nContent-Length: 1\r\n\r\n".to_owned(), "method has none"),
        (format!("\r\n\r\n{GET}"), "an empty line"),
        ("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_owned(), "HTTP/2"),
        ("hello\r\n\r\n".to_owned(), "request line"),
    ] {
        let followed = follow(&[&format!("{GET}{request}"), OK]);
        assert!(why(&followed).contains(reason), "{request:?}: {}", why(&followed));
        assert!(
            followed.passed.len() <= GET.len() + 2 && followed.remainder == Remainder::Answer,
            "{request:?}"
        );
    }
}

#[test]
fn malformed_chunk_ends_the_flow() {
    for (chunks, passing, reason) in [
        ("x\r\n", 0, "not a number"),
        ("\r\n", 0, "not a number"),
        ("-1\r\n", 0, "not a number"),
        ("5 \r\nhello\r\n", 1, "not a number"),
        ("0x5\r\n", 1, "not a number"),
        ("5\nhello\n", 1, "not a number"),
        ("0123456789abcdef\r\n", 15, "too many digits"),
        ("5;a\nhello\r\n", 3, "control byte"),
        ("5;a\rhello\r\n", 4, "control byte"),
        ("5;\0\r\n", 2, "control byte"),
        ("5\r\nhello!\r\n", 8, "longer than its size"),
        ("5\r\nhello\n", 8, "longer than its size"),
        ("5\r\nhello\rx", 9, "longer than its size"),
        ("0\r\n A: b\r\n\r\n", 3, "not `name: value`"),
        ("0\r\nA: b\r\n\tc\r\n\r\n", 3, "not `name: value`"),
        ("0\r\nA: b\nC: d\r\n\r\n", 3, "LF alone"),
        ("0\r\nA: b\r\r\n\r\n", 3, "not `name: value`"),
        ("0\r\nA: \0\r\n\r\n", 3, "not `name: value`"),
        ("0\r\n\n", 3, "LF alone"),
        ("0\r\nxx\r\n\r\n", 3, "not `name: value`"),
        ("0;a\r\nHost: a.example\r\n\r\n", 5, "belongs into the head"),
        ("0\r\nA: b\r\nContent_Length: 3\r\n\r\n", 3, "belongs into the head"),
        ("0\r\nGET /evil HTTP/1.1\r\nHost: evil.example\r\n\r\n", 3, "not `name: value`"),
        ("0\r\nGET:\u{a0}http://evil.example/\u{a0}HTTP/1.1\r\n\r\n", 3, "ends like a request line"),
        ("0\r\nGET: http://evil.example/ HTTP/1.1\r\n\r\n", 3, "ends like a request line"),
    ] {
        let request = post("Transfer-Encoding: chunked", chunks);
        // In one piece, so that the result is certain.
        let followed = checks::exchange(&[request.as_bytes()], 1, MAX);
        assert!(why(&followed).contains(reason), "{chunks:?}: {}", why(&followed));
        assert_eq!(followed.passed.len(), request.len() - chunks.len() + passing, "{chunks:?}");
        assert_eq!(followed.remainder, Remainder::Nothing, "the server waits for the rest");
    }
    for aside in ["5;", "0\r\nA:"] {
        let request = post("Transfer-Encoding: chunked", &format!("{aside}{}\r\n\r\n", "x".repeat(9000)));
        assert!(why(&checks::exchange(&[request.as_bytes()], 1, MAX)).contains("too long"));
    }
}

#[test]
fn oversized_head_is_too_large() {
    let followed = follow(&[&format!("{GET}GET / HTTP/1.1\r\nA: {}", "b".repeat(MAX))]);
    assert_eq!(followed.then, Then::Unclear(Unclear::TooLarge(Protocol::Http)));
    let fits = format!("GET / HTTP/1.1\r\nA: {}\r\n\r\n", "b".repeat(MAX - 23));
    assert_eq!(fits.len(), MAX);
    assert_eq!(follow(&[&fits]).then, Then::More);
    assert_ne!(follow(&[&fits.replace("A: ", "A:  ")]).then, Then::More);
}

#[test]
fn denial_follows_pending_answers() {
    let three = format!("{GET}{GET}{GET}{EVIL}");
    let chunked = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n";
    for (answers, remainder) in [
        (String::new(), Remainder::Wait),
        (format!("{OK}{OK}"), Remainder::Wait),
        (format!("{OK}{chunked}{}", &OK[..OK.len() - 1]), Remainder::Wait),
        (format!("{OK}{chunked}{}", &OK[..20]), Remainder::Wait),
        (format!("{OK}{chunked}HTTP/1.1 102 Processing\r\n\r\n"), Remainder::Wait),
        (format!("{OK}{chunked}\r\n{OK}"), Remainder::Answer),
        (format!("{OK}{OK}HTTP/1.1 304 Not Modified\r\nContent-Length: 9\r\n\r\n"), Remainder::Answer),
        (format!("{OK}{OK}HTTP/1.1 200 OK\r\n\r\nuntil the end"), Remainder::Wait),
        (format!("{OK}{OK}{OK}{OK}"), Remainder::Nothing),
        (format!("{OK}{OK}what?\r\n\r\n"), Remainder::Nothing),
    ] {
        let followed = follow(&[&three, &answers]);
        assert_eq!((followed.passed.len(), &followed.then), (3 * GET.len(), &Then::Denied(())));
        assert_eq!(followed.remainder, remainder, "{answers:?}");
    }
}

#[test]
fn pipelined_requests_are_bounded() {
    let many = GET.repeat(200);
    let followed = follow(&[&many]);
    assert_eq!((followed.passed.len(), followed.then), (128 * GET.len(), Then::Wait));
    let followed = follow(&[&many, OK]);
    assert_eq!((followed.passed.len(), followed.then), (129 * GET.len(), Then::Wait));
    let followed = follow(&[&many, &OK.repeat(100)]);
    assert_eq!((followed.passed.len(), followed.then), (many.len(), Then::More));
}

prop_compose! {
    /// Requests made of parts that are each plausible, and together often invalid.
    fn any_request()(
        method in prop::sample::select(vec!["GET", "POST", "HEAD", "PUT"]),
        host in prop::sample::select(vec!["a.example", "b.example", "evil.example", "a.example"]),
        framing in prop::sample::select(vec![
            "", "Content-Length: 5\r\n", "Content-Length: 0\r\n", "Transfer-Encoding: chunked\r\n",
            "Transfer-Encoding: xchunked\r\n", "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n",
            "Content-Length: 4\r\nContent-Length: 5\r\n", "Transfer-Encoding:\r\n chunked\r\n", "Upgrade: websocket\r\n", "Upgrade: h2c\r\n",
            "Upgrade: h 2c\r\n",
            "Expect: 100-continue\r\nContent-Length: 5\r\n",
        ]),
        body in prop::sample::select(vec![
            "", "hello", "5\r\nhello\r\n0\r\n\r\n", "0\r\n\r\n", "5;x\r\nhello\r\n0\r\nA: b\r\n\r\n", "0\r\nHost: evil.example\r\n\r\n", "5\nhello\n0\n\n", "\r\n",
        ]),
    ) -> String {
        format!("{method} / HTTP/1.1\r\nHost: {host}\r\n{framing}\r\n{body}")
    }
}

fn any_answer() -> impl Strategy<Value = &'static str> {
    prop::sample::select(vec![
        OK,
        SWITCH,
        "",
        "HTTP/1.1 100 Continue\r\n\r\n",
        "HTTP/1.1 204 No Content\r\n\r\n",
        "HTTP/1.1 200 OK\r\n\r\nuntil close",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n",
        "HTTP/1.1 200 OK\nContent-Length: 0\n\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 60\r\n\r\nHTTP/1.1 101 Switching Protocols\r\n\r\n",
        "garbage",
    ])
}

proptest! {
    #[test]
    fn no_request_passes_unjudged(
        turns in prop::collection::vec((prop::collection::vec(any_request(), 0..4), prop::collection::vec(any_answer(), 0..4)), 1..4),
        piece in 1_usize..200,
    ) {
        let turns: Vec<String> = turns.iter().flat_map(|(requests, answers)| [requests.concat(), answers.concat()]).collect();
        let turns: Vec<&[u8]> = turns.iter().map(String::as_bytes).collect();
        let whole = checks::exchange(&turns, usize::MAX, MAX);
        prop_assert_eq!(&checks::exchange(&turns, piece, MAX), &whole);
        no_other_request_passed(&whole);
    }

    #[test]
    fn following_is_independent_of_fragmentation(
        bytes in prop::collection::vec(prop_oneof![any::<u8>(), prop::sample::select(b"\r\n0a;: ".to_vec())], 0..120),
        piece in 1_usize..20,
    ) {
        for framing in ["Content-Length: 20", "Transfer-Encoding: chunked"] {
            let request = [post(framing, "").as_bytes(), &bytes].concat();
            let whole = checks::exchange(&[&request], usize::MAX, 200);
            prop_assert_eq!(&checks::exchange(&[&request], piece, 200), &whole);
            no_other_request_passed(&whole);
        }
    }
}
