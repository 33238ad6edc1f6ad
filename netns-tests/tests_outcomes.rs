//! A flow whose answer was delivered is `closed`, whatever reset follows; no other is.

use crate::clients::{expect_reset, read_all, reset};
use crate::config::Config;
use crate::flows::Flow;
use crate::gateway::Gateway;
use crate::hello::Hello;
use crate::lab::{Family, Host, Lab, Tenant};
use crate::namespace::text;
use crate::requests::{FIRST, OK, expect, opened};
use crate::servers::Server;
use crate::traffic::pass;
use crate::wait::wait_until;
use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::process::{Command, Stdio};

crate::trials! {
    both families:
        resets_after_complete_answers_are_success,
        truncated_answers_are_failures,
        framing_tells_complete_http_answers,
        outcomes_of_odd_answers_agree_with_curl,
        client_leaving_its_download_has_reset;
    once:
}

/// `close_notify` in TLS 1.3: a record of application data, by its header.
pub const CLOSE_NOTIFY: &[u8] = b"\x17\x03\x03\0\x13nineteen bytes of a";
pub const RECORD: &[u8] = b"\x17\x03\x03\0\x1ethirty bytes: part of an answe";

/// Actions of both ends, given the client's and the server's stream.
type Ending = fn(TcpStream, TcpStream);

pub fn finish(stream: &TcpStream) {
    stream.shutdown(Shutdown::Write).unwrap();
}

/// Waits until bytes and FIN have been received and read.
fn finished(from: &TcpStream, to: &TcpStream, said: &[u8]) {
    pass(from, to, said);
    finish(from);
    assert_eq!(read_all(to), b"");
}

/// Writes until the kernel reports a reset by the peer.
fn is_reset(mut stream: &TcpStream) {
    wait_until("a reset", || stream.write_all(b"more of the request").is_err());
}

const WHOLE: [(&str, Ending); 9] = [
    ("the client resets after the server's FIN", |client, server| {
        finished(&server, &client, b"an answer");
        reset(client);
        is_reset(&server);
    }),
    ("the client resets with close_notify unread", |client, server| {
        pass(&server, &client, RECORD);
        (&server).write_all(CLOSE_NOTIFY).unwrap();
        client.peek(&mut [0]).unwrap();
        reset(client);
        // An error if the reset has come through already.
        let _ = server.shutdown(Shutdown::Write);
        is_reset(&server);
    }),
    ("the server resets what comes after its FIN", |client, server| {
        finished(&server, &client, b"an answer");
        drop(server);
        is_reset(&client);
    }),
    ("the server resets after its FIN with the client finished", |client, server| {
        finished(&server, &client, b"an answer");
        (&client).write_all(CLOSE_NOTIFY).unwrap();
        finish(&client);
        reset(server);
    }),
    ("the server resets after close_notify, without a FIN", |client, server| {
        pass(&server, &client, RECORD);
        (&client).write_all(b"unread").unwrap();
        server.peek(&mut [0]).unwrap();
        pass(&server, &client, CLOSE_NOTIFY);
        drop(server);
        expect_reset(&client);
    }),
    ("the server resets a client that has closed", |client, server| {
        pass(&server, &client, RECORD);
        (&client).write_all(CLOSE_NOTIFY).unwrap();
        drop(client);
        read_all(&server);
        reset(server);
    }),
    ("close_notify comes to a client that has closed", |client, server| {
        pass(&server, &client, RECORD);
        drop(client);
        assert_eq!(read_all(&server), b"");
        (&server).write_all(CLOSE_NOTIFY).unwrap();
    }),
    ("close_notify comes to a client that has closed, and a reset", |client, server| {
        pass(&server, &client, RECORD);
        (&client).write_all(CLOSE_NOTIFY).unwrap();
        drop(client);
        server.peek(&mut [0]).unwrap();
        (&server).write_all(CLOSE_NOTIFY).unwrap();
        drop(server);
    }),
    ("both have finished", |client, server| {
        finished(&client, &server, b"a question");
        finished(&server, &client, b"an answer");
        reset(client);
        reset(server);
    }),
];

fn resets_after_complete_answers_are_success(family: Family) {
    let lab = Lab::new();
    let gateway = lab.start_gateway(&Config::default());
    let server = Server::raw(&lab, family, 7000);
    for (what, end) in WHOLE {
        let Flow { client, upstream } = Flow::open(&lab, Tenant::Alpha, &server);
        expect_outcome(&gateway, what, (client, upstream), end, "closed");
    }
    // Inspected TLS ends the same way.
    let server = lab.listen(Host::Named, family, 443);
    for (what, end) in WHOLE {
        let hello = Hello::to("allowed.example.org").record();
        let client = lab.send(Tenant::Alpha, server.address(), &hello);
        let upstream = server.accept();
        pass(&upstream, &client, RECORD);
        let mut got = vec![0; hello.len()];
        (&upstream).read_exact(&mut got).unwrap();
        expect_outcome(&gateway, what, (client, upstream), end, "closed");
    }
    gateway.wait_for_metric("egret_flows_total", &[("outcome", "closed")], |count| {
        count == 2 * WHOLE.len() as u64
    });
}

fn truncated_answers_are_failures(family: Family) {
    let table: [(&str, &str, Ending); 7] = [
        ("the server resets in its answer", "upstream_reset", |client, server| {
            pass(&server, &client, RECORD);
            reset(server);
            assert_eq!(expect_reset(&client), b"");
        }),
        ("the server resets a client that waits for the rest", "upstream_reset", |client, server| {
            finished(&client, &server, b"a question");
            pass(&server, &client, b"half an answer");
            reset(server);
            assert_eq!(expect_reset(&client), b"");
        }),
        ("the server resets instead of answering", "upstream_reset", |client, server| {
            finished(&client, &server, b"a question");
            reset(server);
            assert_eq!(expect_reset(&client), b"");
        }),
        ("the client resets in the answer", "client_reset", |client, server| {
            pass(&server, &client, RECORD);
            reset(client);
            assert_eq!(expect_reset(&server), b"");
        }),
        ("the client resets after its FIN and half an answer", "client_reset", |client, server| {
            finished(&client, &server, b"a question");
            pass(&server, &client, b"half an answer");
            reset(client);
            is_reset(&server);
        }),
        (
            "the client resets before it has all that came before the server's FIN",
            "client_reset",
            |client, server| {
                std::thread::scope(|scope| {
                    let sending = scope.spawn(|| {
                        let sent = (&server).write_all(&vec![1; 16 << 20]);
                        sent.and_then(|()| server.shutdown(Shutdown::Write))
                    });
                    (&client).read_exact(&mut vec![0; 1 << 20]).unwrap();
                    reset(client);
                    let _ = sending.join().unwrap();
                });
            },
        ),
        ("the client resets instead of answering", "client_reset", |client, server| {
            pass(&client, &server, b"hello");
            reset(client);
            assert_eq!(expect_reset(&server), b"");
        }),
    ];
    let lab = Lab::new();
    let gateway = lab.start_gateway(&Config::default());
    let server = Server::raw(&lab, family, 7000);
    for (what, outcome, end) in table {
        let Flow { client, upstream } = Flow::open(&lab, Tenant::Alpha, &server);
        expect_outcome(&gateway, what, (client, upstream), end, outcome);
    }
}

/// Ends of a flow, by client and server.
type Ends = fn(TcpStream, TcpStream);

fn framing_tells_complete_http_answers(family: Family) {
    const POST: &str = "POST / HTTP/1.1\r\nHost: allowed.example.org\r\nContent-Length: 9\r\n\r\nunread";
    const TOO_LARGE: &str = "HTTP/1.1 413 Too Large\r\nContent-Length: 3\r\n\r\nno\n";
    const CHUNKED: &str = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n";
    const ENDLESS: &str = "HTTP/1.1 200 OK\r\n\r\nok";
    const HALF: &str = "HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nok";
    let last = format!("{CHUNKED}0\r\n\r\n");
    let trailed = format!("{CHUNKED}0\r\nDigest: none\r\n\r\n");
    let continued = format!("HTTP/1.1 100 Continue\r\n\r\n{OK}");
    let head = FIRST.replacen("GET", "HEAD", 1);
    let two = FIRST.repeat(2);
    let (one_of_two, half_of_two, two_of_two) = (OK.to_owned(), format!("{OK}{HALF}"), OK.repeat(2));
    let odd =
        format!("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n{:020} ; a=b\r\nok\r\n0 \r\n\r\n", 2);
    // It answers no request: the server has waited long enough for another.
    let given_up =
        format!("{OK}HTTP/1.1 408 Request Timeout\r\nConnection: close\r\nContent-Length: 0\r\n\r\n");
    let ends: [(&str, Ends); 6] = [
        ("client resets", |client, server| {
            reset(client);
            // Not by writing, which would be an answer without a request.
            expect_reset(&server);
        }),
        ("server resets", |client, server| {
            reset(server);
            expect_reset(&client);
        }),
        ("server finishes", |client, server| {
            finish(&server);
            read_all(&client);
            drop(client);
            assert_eq!(read_all(&server), b"");
        }),
        ("client finishes", |client, server| {
            drop(client);
            read_all(&server);
        }),
        ("server finishes, then resets", |client, server| {
            finish(&server);
            read_all(&client);
            reset(server);
        }),
        ("server resets a client that has finished", |client, server| {
            finish(&client);
            read_all(&server);
            reset(server);
            expect_reset(&client);
        }),
    ];
    let whole = ["closed"; 6];
    let [left, broken] = ["client_reset", "upstream_reset"];
    let cut = [left, broken, broken, left, broken, broken];
    let table: [(&str, &str, [&str; 6]); 20] = [
        (FIRST, OK, whole),
        (POST, TOO_LARGE, whole),
        (FIRST, &last, whole),
        (FIRST, HALF, cut),
        (FIRST, CHUNKED, cut),
        (FIRST, "", cut),
        (FIRST, &trailed, whole),
        (FIRST, &continued, whole),
        (FIRST, "HTTP/1.1 100 Continue\r\n\r\n", cut),
        (FIRST, "HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok", whole),
        (FIRST, "HTTP/1.1 204 No Content\r\n\r\n", whole),
        (FIRST, "HTTP/1.1 304 Not Modified\r\nContent-Length: 2\r\n\r\n", whole),
        (&head, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n", whole),
        (&two, &one_of_two, cut),
        (&two, &half_of_two, cut),
        (&two, &two_of_two, whole),
        (FIRST, &odd, whole),
        (FIRST, "HTTP/1.1 200 OK\r\nContent-Length: 3\r\nContent-Length: 3\r\nX: y\r\n z\r\n\r\nok", cut),
        (FIRST, &given_up, whole),
        // Everything up to the end of the connection, of whatever kind.
        (FIRST, ENDLESS, [left, broken, "closed", "closed", "closed", "closed"]),
    ];
    let lab = Lab::new();
    let gateway = lab.start_gateway(&Config::default());
    let server = lab.listen(Host::Named, family, 80);
    for (request, answer, outcomes) in table {
        for ((what, end), outcome) in ends.iter().zip(outcomes) {
            let (client, mut upstream) = opened(&lab, &server, request);
            // One byte is left unread, so that a close is a reset.
            expect(&upstream, &request[..request.len() - 1]);
            upstream.peek(&mut [0]).unwrap();
            if *what != "server resets" {
                upstream.read_exact(&mut [0]).unwrap();
            }
            upstream.write_all(answer.as_bytes()).unwrap();
            expect(&client, answer);
            expect_outcome(&gateway, &format!("{answer:?}: {what}"), (client, upstream), *end, outcome);
        }
    }
}

/// The answers are whole, or end in the middle of their content.
fn outcomes_of_odd_answers_agree_with_curl(family: Family) {
    let chunked = |chunks: &str| format!("Transfer-Encoding: chunked\r\n\r\n{chunks}");
    let answers = [
        "Content-Length: 2\r\nContent-Length: 2\r\n\r\nok".to_owned(),
        "Content-Length: 2\r\nX: a\r\n b\r\n\r\nok".into(),
        "X : a\u{1}\r\nContent-Length: 2\n\r\nok".into(),
        format!("{}Content-Length: 2\r\n\r\nok", "X: a\r\n".repeat(300)),
        chunked("2 ; a=b\r\nok\r\n0\r\n\r\n"),
        chunked("0000000000000002  \r\nok\r\n0  \r\n\r\n"),
        chunked("2\nok\n0\n\n"),
        format!("Content-Length: 50\r\n{}", chunked("2\r\nok\r\n0\r\n\r\n")),
    ];
    let lab = Lab::new();
    let gateway = lab.start_gateway(&Config::default());
    let server = lab.listen(Host::Named, family, 80);
    let ask = |answer: &str| {
        let mut curl = Command::new("curl");
        curl.args(["-sS", "-g", "-H", "Host: allowed.example.org"])
            .arg(format!("http://{}/", server.address()));
        let curl = lab.client.spawn(curl.stdout(Stdio::piped()).stderr(Stdio::piped()));
        let mut upstream = server.accept();
        let mut request = Vec::new();
        while !request.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            upstream.read_exact(&mut byte).unwrap();
            request.push(byte[0]);
        }
        upstream.write_all(answer.as_bytes()).unwrap();
        drop(upstream);
        curl.wait_with_output().unwrap()
    };
    let mut count = 0;
    for answer in answers {
        let whole = format!("HTTP/1.1 200 OK\r\n{answer}");
        for (answer, is_whole) in [(&*whole, true), (&whole[..whole.rfind('k').unwrap()], false)] {
            let said = ask(answer);
            assert_eq!(said.status.success(), is_whole, "{answer:?}: {}", text(&said));
            count += 1;
            let flow = gateway.wait_for_flows(count).pop().unwrap();
            let outcome = if is_whole { "closed" } else { "upstream_reset" };
            assert_eq!(flow["outcome"], outcome, "{answer:?}: {flow:#}");
        }
    }
}

/// Not by a reset, but by a FIN, as the kernel sends it if all received bytes were read.
fn client_leaving_its_download_has_reset(family: Family) {
    let lab = Lab::new();
    let gateway = lab.start_gateway(&Config::default());
    let server = Server::raw(&lab, family, 7000);
    for goes_on in [true, false] {
        let Flow { client, mut upstream } = Flow::open(&lab, Tenant::Alpha, &server);
        let local = client.local_addr().unwrap();
        pass(&upstream, &client, b"half an answer");
        drop(client);
        assert_eq!(read_all(&upstream), b"");
        let _ = upstream.write_all(&[1; 5000]);
        if goes_on {
            is_reset(&upstream);
        } else {
            drop(upstream);
        }
        gateway.expect_outcome(local, "client_reset");
    }
    // A client that has only finished sending, and reads slowly, has not left.
    let Flow { client, mut upstream } = Flow::open(&lab, Tenant::Alpha, &server);
    let local = client.local_addr().unwrap();
    finished(&client, &upstream, b"a question");
    upstream.write_all(&vec![1; 500_000]).unwrap();
    drop(upstream);
    assert_eq!(read_all(&client).len(), 500_000);
    gateway.expect_outcome(local, "closed");
}

fn expect_outcome(
    gateway: &Gateway,
    what: &str,
    (client, upstream): (TcpStream, TcpStream),
    end: Ending,
    outcome: &str,
) {
    let local = client.local_addr().unwrap();
    end(client, upstream);
    let flow = gateway.flow_from(local);
    assert_eq!(flow["outcome"], outcome, "{what}: {flow:#}");
}
