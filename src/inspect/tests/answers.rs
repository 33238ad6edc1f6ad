//! Answers are read as curl, browsers and other clients read them.

use super::*;

const GET: &str = "GET / HTTP/1.1\r\nHost: a.example\r\n\r\n";
const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
const UPGRADE: &str =
    "GET / HTTP/1.1\r\nHost: a.example\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n";
const SWITCH: &str = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\n\r\n";

/// True if the requests have their answers in full.
fn is_answered(requests: &str, answers: &str) -> Option<bool> {
    same_in_any_pieces(|piece| {
        let mut exchange = HttpExchange::new(MAX);
        let mut sent = requests.as_bytes().to_vec();
        let (passed, _) = exchange.client(&mut sent, |_| Ok::<(), ()>(()));
        assert_eq!(passed, sent.len());
        for bytes in answers.as_bytes().chunks(piece) {
            let free = usize::try_from(exchange.free_down()).unwrap_or(usize::MAX).min(bytes.len());
            exchange.passed_down(free as u64);
            exchange.server(&bytes[free..]);
        }
        exchange.is_answered()
    })
}

/// An answer with these lines and `body`.
fn ok(lines: &str, body: &str) -> String {
    format!("HTTP/1.1 200 OK\r\n{lines}\r\n{body}")
}

fn chunked(chunks: &str) -> String {
    ok("Transfer-Encoding: chunked\r\n", chunks)
}

/// Answers that each reader of them takes for whole. Requests framed like this are refused.
fn odd_answers() -> Vec<String> {
    let mut answers: Vec<_> = [
        "Content-Length: 5\r\nContent-Length: 5\r\n",
        "Content-Length: 5\r\nContent-Length: 05\r\n",
        "Content-Length: 5, 5\r\n",
        "content-length:5,5 ,\t5\r\n",
        "Content-Length: \t5 \t\r\n",
        "Content-Length:\r\n 5\r\n",
        "Content-Length: 5\r\n \r\n",
        "X: a\r\n b\r\n\tContent-Length: 9\r\nContent-Length: 5\r\n",
        "X : a\r\nContent-Length: 5\r\n",
        "X y: a\r\nContent-Length: 5\r\n",
        ": a\r\nContent-Length: 5\r\n",
        "X(\u{e9}): a\r\nContent-Length: 5\r\n",
        "X: a\u{1}b\u{7f}\r\nContent-Length: 5\r\n",
        "Content-Length: 5\n",
        "A: b\nContent-Length: 5\r\n",
        "Transfer-Encoding: identity\r\nContent-Length: 5\r\n",
        "Content-Length: 5\r\nTransfer-Encoding:  Identity \r\n",
    ]
    .map(|lines| ok(lines, "hello"))
    .into();
    answers.push(ok(&format!("{}Content-Length: 5\r\n", "A: b\r\n".repeat(1000)), "hello"));
    answers.push(ok(&format!("A: {}\r\nContent-Length: 5\r\n", "b".repeat(70_000)), "hello"));
    answers.extend(
        [
            "HTTP/1.1 200\r\nContent-Length: 5\r\n\r\nhello",
            "HTTP/1.1 200 \r\nContent-Length: 5\r\n\r\nhello",
            "HTTP/1.1 200 O\u{1}K\r\nContent-Length: 5\r\n\r\nhello",
            "http/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello",
            "HTTP/1.0 200 OK\nContent-Length: 5\n\nhello",
            "HTTP/1.1 200 OK\nContent-Length: 5\r\n\r\nhello",
            "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\nhello",
            "\r\n\nHTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello",
            "HTTP/1.1 100 Continue\n\nHTTP/1.1 103 Hints\r\nX : y\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello",
        ]
        .map(str::to_owned),
    );
    let zeros = "0".repeat(4000);
    answers.extend(
        [
            "5 \r\nhello\r\n0\r\n\r\n",
            "5\t \r\nhello\r\n0  \r\n\r\n",
            "5 ; a=b\r\nhello\r\n0 ;\r\n\r\n",
            "5;a\u{1}\r\nhello\r\n0\r\n\r\n",
            "0000000000000005\r\nhello\r\n0000000000000000\r\n\r\n",
            &format!("{zeros}5\r\nhello\r\n{zeros}\r\n\r\n"),
            &format!("{}0\r\n\r\n", format!("{zeros}5\r\nhello\r\n").repeat(9)),
            "5\nhello\n0\n\n",
            "5\r\nhello\n0\r\n\n",
            "5\r\nhello\r\n0\r\nA : b\r\n c\r\n\r\n",
        ]
        .map(chunked),
    );
    answers.extend(
        [
            "transfer-encoding:  Chunked \r\n",
            "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n",
            "Transfer-Encoding: gzip\r\nTransfer-Encoding: chunked\r\n",
            "Transfer-Encoding: gzip, chunked\r\n",
            "Transfer-Encoding:\r\n gzip,\r\n\tchunked\r\n",
            "Content-Length: 50\r\nTransfer-Encoding: chunked\r\n",
            "Transfer-Encoding: chunked\r\nContent-Length: 50\r\n",
        ]
        .map(|lines| ok(lines, "5\r\nhello\r\n0\r\n\r\n")),
    );
    answers
}

#[test]
fn odd_answers_are_whole_at_their_end() {
    for answer in odd_answers() {
        assert_eq!(is_answered(GET, &answer), Some(true), "{answer:.200?}");
        let (cut, _) = answer.split_at(answer.len() - 1);
        assert_eq!(is_answered(GET, cut), Some(false), "but for a byte: {answer:.200?}");
        assert_eq!(is_answered(&GET.repeat(2), &answer), Some(false), "one of two: {answer:.200?}");
        assert_eq!(is_answered(&GET.repeat(2), &format!("{answer}{OK}")), Some(true), "{answer:.200?}");
    }
}

/// Clients disagree about these, or give up.
#[test]
fn answers_of_unclear_length_are_unknown() {
    let zeros = "0".repeat(9000);
    for answer in [
        ok("Content-Length: 5\r\nContent-Length: 6\r\n", "hello"),
        ok("Content-Length: 5, 6\r\n", "hello"),
        ok("Content-Length: 5,\r\n", "hello"),
        ok("Content-Length:\r\n", "hello"),
        ok("Content-Length: -5\r\n", "hello"),
        ok("Content-Length : 5\r\n", "hello"),
        ok("Transfer-Encoding : chunked\r\n", "5\r\nhello\r\n0\r\n\r\n"),
        ok("Transfer-Encoding: gzip\r\nContent-Length: 5\r\n", "hello"),
        ok("nonsense\r\nContent-Length: 5\r\n", "hello"),
        ok("X: a\0b\r\nContent-Length: 5\r\n", "hello"),
        ok("X: a\rb\r\nContent-Length: 5\r\n", "hello"),
        ok("Content-Length: 5\u{1}\r\n", "hello"),
        chunked(" 5\r\nhello\r\n0\r\n\r\n"),
        chunked("5\r\nhello!\r\n0\r\n\r\n"),
        chunked("x5\r\nhello\r\n0\r\n\r\n"),
        chunked("\r\n"),
        chunked("1000000000000000\r\nhello"),
        chunked(&format!("{zeros}5\r\nhello\r\n0\r\n\r\n")),
        chunked(&format!("5 {zeros}\r\nhello\r\n0\r\n\r\n")),
        "HTTP/1.2 200 OK\r\nContent-Length: 5\r\n\r\nhello".to_owned(),
        "HTTP/2 200\r\n\r\n".to_owned(),
        "ICY 200 OK\r\n\r\n".to_owned(),
    ] {
        assert_eq!(is_answered(GET, &answer), None, "{answer:.200?}");
    }
}

#[test]
fn bytes_beyond_answers_take_nothing_back() {
    for beyond in [
        "HTTP/1.1 408 Request Timeout\r\nConnection: close\r\nContent-Length: 2\r\n\r\nto",
        "HTTP/1.1 408 Request Timeout\r\n\r\n",
        "HTTP/1.1 4",
        "junk",
        "\r\n",
    ] {
        let said = format!("{OK}{beyond}");
        assert_eq!(is_answered(GET, &said), Some(true), "{said:?}");
    }
    // content where there is none
    for empty in ["HTTP/1.1 204 None\r\nContent-Length: 5\r\n\r\nhello", "HTTP/1.1 304 Old\r\n\r\nhello"] {
        assert_eq!(is_answered(GET, empty), Some(true), "{empty:?}");
    }
    let head = GET.replacen("GET", "HEAD", 1);
    assert_eq!(is_answered(&head, OK), Some(true));
    // A later request may have its answer in what was said beyond, or not.
    let mut exchange = HttpExchange::new(MAX);
    for requests in [GET, GET] {
        let _ = exchange.client(&mut requests.as_bytes().to_vec(), |_| Ok::<(), ()>(()));
        exchange.server(format!("{OK}{OK}").as_bytes());
    }
    assert_eq!(exchange.is_answered(), None);
}

#[test]
fn no_upgrade_hangs_on_odd_answers() {
    let evil = "GET / HTTP/1.1\r\nHost: evil.example\r\n\r\n";
    for answer in odd_answers().iter().filter(|answer| answer.len() < 500) {
        let strict =
            ["200\r\n", "200 \r\n", "OK\n", "Chunked", "gzip, chunked\r\n\r\n", "\t5 \t\r\n\r\n", "\r\n\n"];
        if strict.iter().any(|strict| answer.contains(strict)) {
            continue; // every reader reads these alike
        }
        let turns = [GET, answer, UPGRADE, SWITCH, evil].map(str::as_bytes);
        let followed = checks::exchange(&turns, usize::MAX, MAX);
        assert!(
            !followed.upgraded && !followed.passed.ends_with(evil.as_bytes()),
            "{answer:?}: {followed:?}"
        );
    }
}
