//! Guarded relays.

mod scripted;

use super::*;
use crate::relay::guard::ForwardableBytes;
use proptest::prelude::*;
use scripted::ScriptedGuard;
use std::sync::Arc;
use std::task::Waker;

const PATIENCE: Duration = Duration::from_secs(3);
const TICK: Duration = Duration::from_millis(1);

fn look(guarded: &mut Guarded<ScriptedGuard>, read: &[u8]) -> Vec<u8> {
    match guarded.look(Side::Client, &mut read.to_vec()) {
        ForwardableBytes::Read(n) => read[..n].into(),
        ForwardableBytes::Kept(bytes) => bytes.into(),
    }
}

/// Bytes of the pieces that pass, with a server that answers whenever it is waited for.
fn passing(pieces: &[&[u8]]) -> (Vec<u8>, Guarded<ScriptedGuard>) {
    let mut guarded = Guarded::new(ScriptedGuard::default(), PATIENCE);
    let mut passed = Vec::new();
    for piece in pieces {
        passed.extend(look(&mut guarded, piece));
        while guarded.waits() {
            guarded.look(Side::Upstream, &mut b"go on".to_vec());
            let kept = guarded.poll_kept(&mut Context::from_waker(Waker::noop()));
            passed.extend(kept.unwrap_or_default());
        }
        if guarded.is_stopped() {
            break;
        }
    }
    (passed, guarded)
}

proptest! {
    #[test]
    fn guard_result_ignores_fragmentation(
        lines in proptest::collection::vec(0..6_usize, 0..12),
        cuts in proptest::collection::vec(1..9_usize, 40),
    ) {
        let words = ["line\n", "body 7\n7 bytes", "ask\n", "a longer line than a piece\n", "\n", "stop\n"];
        let sent: String = lines.iter().map(|line| words[*line]).collect();
        let wanted = sent.find("stop").unwrap_or(sent.len());
        let (mut pieces, mut rest) = (Vec::new(), sent.as_bytes());
        for cut in cuts.iter().cycle() {
            if rest.is_empty() {
                break;
            }
            let (piece, more) = rest.split_at(rest.len().min(*cut));
            pieces.push(piece);
            rest = more;
        }
        let (passed, mut guarded) = EventLoop::run_fast(async |_| passing(&pieces)).unwrap();
        prop_assert_eq!(String::from_utf8(passed).unwrap(), &sent[..wanted]);
        prop_assert_eq!(guarded.is_stopped(), wanted < sent.len());
        let requests = lines.iter().take_while(|line| **line != 5).count();
        prop_assert_eq!(guarded.guard().requests, requests);
    }
}

#[test]
fn held_bytes_take_a_place() {
    let mut guarded = Guarded::new(ScriptedGuard::default(), PATIENCE);
    let place = guarded.guard().place.clone().unwrap();
    let taken = || Arc::strong_count(&place) - 2;
    for (read, passing, places) in
        [("whole\n", "whole\n", 0), ("ha", "", 1), ("lf\nanother", "half\n", 1), ("\n", "another\n", 0)]
    {
        assert_eq!((look(&mut guarded, read.as_bytes()), taken()), (passing.into(), places), "{read:?}");
    }
    look(&mut guarded, b"half");
    assert_eq!((guarded.finish(), taken()), (None, 0));
    look(&mut guarded, b"half");
    drop(guarded);
    assert_eq!(Arc::strong_count(&place), 1);
}

#[test]
fn held_bytes_without_place_are_refused() {
    for (cut_off, passing) in [(NextStep::Stop, "whole\n"), (NextStep::Read, "whole\nhalf")] {
        let guard = ScriptedGuard { place: None, cut_off, ..ScriptedGuard::default() };
        let mut guarded = Guarded::new(guard, PATIENCE);
        assert_eq!(look(&mut guarded, b"whole\nhalf"), passing.as_bytes());
        assert_eq!(guarded.is_stopped(), cut_off == NextStep::Stop);
        assert!(guarded.finish().is_some(), "nothing is kept");
    }
}

#[test]
fn partial_line_stops_splicing() {
    let mut guarded = Guarded::new(ScriptedGuard::default(), PATIENCE);
    assert_eq!(look(&mut guarded, b"body 9\n12"), b"body 9\n12");
    assert_eq!(guarded.free(Side::Client), 7);
    guarded.passes(Side::Client, 7);
    assert_eq!(look(&mut guarded, b"bod"), b"");
    assert_eq!(guarded.free(Side::Client), 0);
    assert_eq!(look(&mut guarded, b"y 3\n1"), b"body 3\n1");
    assert_eq!(guarded.free(Side::Client), 2);
    guarded.passes(Side::Client, 2);
    assert_eq!(look(&mut guarded, b"switch\nmore"), b"switch\n");
    guarded.look(Side::Upstream, &mut b"yes".to_vec());
    assert_eq!(guarded.free(Side::Client), 0, "what was kept comes first");
    let kept = guarded.poll_kept(&mut Context::from_waker(Waker::noop()));
    assert_eq!((kept.as_deref(), guarded.free(Side::Client)), (Some(&b"more"[..]), u64::MAX));
}

#[test]
fn line_deadline_starts_at_first_byte() {
    EventLoop::run_fast(async |event_loop| {
        let mut guarded = Guarded::new(ScriptedGuard::default(), PATIENCE);
        let mut poll = |read: &[u8]| {
            let passed = look(&mut guarded, read);
            let late = guarded.poll_kept(&mut Context::from_waker(Waker::noop()));
            assert_eq!(late, None);
            (passed, guarded.is_stopped())
        };
        let most = PATIENCE.checked_sub(TICK).unwrap();
        assert_eq!(poll(b"a li"), (Vec::new(), false));
        event_loop.advance(most);
        assert_eq!(poll(b"ne\nan"), (b"a line\nan"[..7].into(), false), "the next has a time of its own");
        event_loop.advance(most);
        assert_eq!(poll(b"other"), (Vec::new(), false));
        event_loop.advance(TICK);
        assert_eq!(poll(b", byte by byte"), (Vec::new(), true));
        assert!(guarded.is_closed());
    })
    .unwrap();
}

#[test]
fn line_deadline_covers_held_remainder() {
    EventLoop::run_fast(async |event_loop| {
        let mut guarded = Guarded::new(ScriptedGuard::default(), PATIENCE);
        assert_eq!(look(&mut guarded, b"ask\na li"), b"ask\n");
        assert!(guarded.waits());
        guarded.look(Side::Upstream, &mut b"go on".to_vec());
        let mut poll = || {
            assert_eq!(guarded.poll_kept(&mut Context::from_waker(Waker::noop())), None);
            guarded.is_stopped()
        };
        assert!(!poll());
        event_loop.advance(PATIENCE);
        assert!(poll(), "the rest of the line never came");
    })
    .unwrap();
}

/// However often the server speaks meanwhile.
#[test]
fn waiting_bytes_have_a_deadline() {
    EventLoop::run_fast(async |event_loop| {
        for (cut_off, passes) in [(NextStep::Stop, None), (NextStep::Read, Some(&b"line\n"[..]))] {
            let mut guarded = Guarded::new(ScriptedGuard { cut_off, ..ScriptedGuard::default() }, PATIENCE);
            assert_eq!(look(&mut guarded, b"ask\nline\n"), b"ask\n");
            let mut poll = || {
                guarded.look(Side::Upstream, &mut b"not yet".to_vec());
                guarded.poll_kept(&mut Context::from_waker(Waker::noop()))
            };
            for step in [PATIENCE / 2, (PATIENCE / 2).checked_sub(TICK).unwrap(), TICK] {
                assert_eq!(poll(), None);
                event_loop.advance(step);
            }
            assert_eq!(poll().as_deref(), passes);
            assert_eq!(guarded.is_stopped(), passes.is_none());
            assert_eq!(guarded.finish().as_deref(), Some(&b""[..]), "nothing is kept any more");
        }
        // Each byte that passes shows that the server goes on.
        let mut guarded = Guarded::new(ScriptedGuard::default(), PATIENCE);
        look(&mut guarded, b"ask\nask\nline\n");
        let mut poll = || guarded.poll_kept(&mut Context::from_waker(Waker::noop()));
        assert_eq!(poll(), None);
        event_loop.advance(PATIENCE.checked_sub(TICK).unwrap());
        guarded.look(Side::Upstream, &mut b"go on".to_vec());
        let mut poll = || guarded.poll_kept(&mut Context::from_waker(Waker::noop()));
        assert_eq!(poll().as_deref(), Some(&b"ask\n"[..]));
        assert_eq!(poll(), None);
        event_loop.advance(TICK);
        assert_eq!((poll(), guarded.is_stopped()), (None, false));
    })
    .unwrap();
}

#[test]
fn truncated_line_passes_only_by_guard() {
    EventLoop::run_fast(async |event_loop| {
        for (cut_off, passes) in [(NextStep::Stop, None), (NextStep::Read, Some(&b"half"[..]))] {
            let script = || ScriptedGuard { cut_off, ..ScriptedGuard::default() };
            let mut late = Guarded::new(script(), PATIENCE);
            look(&mut late, b"half");
            let mut poll = || late.poll_kept(&mut Context::from_waker(Waker::noop()));
            assert_eq!(poll(), None);
            event_loop.advance(PATIENCE);
            assert_eq!(poll().as_deref(), passes);
            assert_eq!(poll(), None, "once");
            let mut finished = Guarded::new(script(), PATIENCE);
            look(&mut finished, b"half");
            assert_eq!(finished.finish().as_deref(), passes);
            let mut whole = Guarded::new(script(), PATIENCE);
            look(&mut whole, b"line\n");
            assert_eq!(whole.finish().as_deref(), Some(&b""[..]));
        }
    })
    .unwrap();
}

/// Relays with a guard. Returns the end, the guard if it is left, and the number of pipes used.
fn relayed(
    script: ScriptedGuard,
    client: impl FnOnce(std::net::TcpStream) + Send + 'static,
    server: impl FnOnce(std::net::TcpStream) + Send + 'static,
) -> (RelayEnd, Option<ScriptedGuard>, usize) {
    let ((client_end, inner_client), (server_end, inner_server)) = (pair(), pair());
    for end in [&client_end, &server_end] {
        end.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    }
    let client = thread::spawn(move || client(client_end));
    let server = thread::spawn(move || server(server_end));
    let relayed = EventLoop::run(async |event_loop| {
        let client = Socket::new(inner_client, &event_loop).unwrap();
        let upstream = Socket::new(inner_server, &event_loop).unwrap();
        let (scratch, mut tally) = (WorkerScratch::new(4), ByteTally::default());
        let mut guard = Some(Box::new(Guarded::new(script, PATIENCE)));
        let end = relay(&client, &upstream, &scratch, &NEVER, &mut tally, &mut guard).await;
        // The end of the sockets does not matter here; plain closes disturb least.
        client.ended_well();
        upstream.ended_well();
        (end, guard.map(|mut guarded| std::mem::take(guarded.guard())), scratch.pipes.idle())
    })
    .unwrap();
    client.join().unwrap();
    server.join().unwrap();
    relayed
}

fn is_stopped(end: &RelayEnd, farewell: PendingAnswer) -> bool {
    matches!(end, RelayEnd::Stopped(found) if *found == farewell)
}

#[test]
fn long_body_is_spliced_then_guarded() {
    const BODY: usize = 5_000_011;
    let (end, script, pipes) = relayed(
        ScriptedGuard::default(),
        |mut socket| {
            let sent =
                [format!("body {BODY}\n").as_bytes(), &pattern(BODY, 1), b"line\nstop\nnot this"].concat();
            socket.write_all(&sent).unwrap();
            read_all(socket);
        },
        |socket| {
            let sent = [format!("body {BODY}\n").as_bytes(), &pattern(BODY, 1), b"line\n"].concat();
            assert!(read_all(socket) == sent);
        },
    );
    assert!(is_stopped(&end, PendingAnswer::Answer), "{end:?}");
    assert!(pipes > 0, "it is spliced");
    let shown = script.unwrap().shown;
    assert!(shown <= COPY, "{shown} bytes were shown at once");
}

#[test]
fn question_holds_bytes_until_server_answers() {
    let (end, script, _) = relayed(
        ScriptedGuard { farewell: (6, true), ..ScriptedGuard::default() },
        |mut socket| {
            socket.write_all(b"ask\nline\nask\nstop\n").unwrap();
            let mut answers = [0; 6];
            socket.read_exact(&mut answers).unwrap();
            assert_eq!(&answers, b"onetwo");
            read_all(socket);
        },
        |mut socket| {
            let mut asked = [0; 4];
            socket.read_exact(&mut asked).unwrap();
            let time = socket.read_timeout().unwrap();
            socket.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
            assert!(socket.read(&mut asked).is_err(), "the next line came before the answer");
            socket.set_read_timeout(time).unwrap();
            socket.write_all(b"one").unwrap();
            let mut next = [0; 9];
            socket.read_exact(&mut next).unwrap();
            assert_eq!(&next, b"line\nask\n");
            socket.write_all(b"two").unwrap();
            assert_eq!(read_all(socket), b"");
        },
    );
    assert!(is_stopped(&end, PendingAnswer::Answer), "{end:?}");
    assert_eq!(script.unwrap().heard, 6);
}

#[test]
fn server_eof_releases_held_bytes() {
    let (end, script, _) = relayed(
        ScriptedGuard::default(),
        |mut socket| {
            socket.write_all(b"ask\nstop\n").unwrap();
            read_all(socket);
        },
        |mut socket| socket.read_exact(&mut [0; 4]).unwrap(),
    );
    assert!(is_stopped(&end, PendingAnswer::Finished), "{end:?}");
    assert_eq!(script.unwrap().heard, 0);
}

#[test]
fn pending_answer_at_end_is_reported() {
    let end_of = |farewell, server: fn(std::net::TcpStream)| {
        let client = |mut socket: std::net::TcpStream| {
            socket.write_all(b"line\nstop\n").unwrap();
            read_all(socket);
        };
        let (end, script, _) =
            relayed(ScriptedGuard { farewell, ..ScriptedGuard::default() }, client, server);
        assert!(script.is_some(), "the guard is still there");
        end
    };
    let end = end_of((0, false), |socket| drop(read_all(socket)));
    assert!(is_stopped(&end, PendingAnswer::Reset), "{end:?}");
    // The server has more to send, sends half of it, and finishes.
    let end = end_of((10, true), |mut socket| {
        socket.read_exact(&mut [0; 5]).unwrap();
        socket.write_all(b"12345").unwrap();
    });
    assert!(is_stopped(&end, PendingAnswer::Finished), "{end:?}");
}

#[test]
fn finished_guard_releases_kept_bytes() {
    let (end, script, _) = relayed(
        ScriptedGuard::default(),
        |mut socket| {
            socket.write_all(b"over\nstop\nand so on").unwrap();
            socket.shutdown(Shutdown::Write).unwrap();
            assert_eq!(read_all(socket), b"bye");
        },
        |mut socket| {
            socket.write_all(b"bye").unwrap();
            assert_eq!(read_all(socket), b"over\nstop\nand so on");
        },
    );
    assert!(matches!(end, RelayEnd::Finished { .. }), "{end:?}");
    assert!(script.is_none());
}
