//! The seed files of fuzzing and benchmarks equal the builder's output, byte for byte.

use super::hello::Hello;
use super::*;
use std::path::Path;

#[test]
fn seed_files_match_generated() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/seeds");
    let update = std::env::var_os("UPDATE_SEEDS").is_some();
    for (name, bytes) in seeds() {
        let path = root.join(name);
        if update {
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(&path, &bytes).unwrap();
        }
        let on_disk = std::fs::read(&path).unwrap_or_default();
        assert!(on_disk == bytes, "{name} is stale: run this test once with UPDATE_SEEDS=1");
        if name.starts_with("client_hello/") || name.starts_with("http_head/") {
            assert!(!matches!(verdict(&bytes), ParseProgress::NeedMore { .. }), "{name}");
        }
    }
}

fn seeds() -> Vec<(&'static str, Vec<u8>)> {
    let hello = Hello::to("api.example.com").offering(&[b"h2", b"http/1.1"]);
    let mut seeds = vec![
        ("client_hello/plain", hello.record()),
        ("client_hello/517", hello.clone().padded_to(517).record()),
        ("client_hello/1900", hello.clone().with(51, &[7; 1216]).padded_to(1900).record()),
        ("client_hello/records_of_1", hello.records(1)),
        ("client_hello/records_of_50", hello.records(50)),
        ("client_hello/nameless", Hello::nameless().record()),
        ("client_hello/ech_grease", hello.clone().with(0xfe0d, &[0; 32]).with(0x2a2a, &[]).record()),
        ("client_hello/two_names", hello.clone().named(b"b.example").record()),
        ("client_hello/ccs_first", [b"\x14\x03\x01\x00\x01\x01", &hello.record()[..]].concat()),
        ("client_hello/early_data", [hello.record(), b"\x17\x03\x03\x00\x02zz".to_vec()].concat()),
    ];
    for (name, head) in [
        (
            "http_head/get",
            "GET / HTTP/1.1\r\nHost: api.example.com\r\nUser-Agent: curl/8.5.0\r\nAccept: */*\r\n\r\n",
        ),
        ("http_head/absolute", "GET http://a.example:80/ HTTP/1.1\r\nHost: a.example\r\n\r\n"),
        ("http_head/post_1_0", "POST /x HTTP/1.0\r\nContent-Length: 2\r\n\r\nhi"),
        ("http_head/ipv6", "GET / HTTP/1.1\r\nHost: [::1]:8080\r\n\r\n"),
        ("http_head/two_hosts", "GET / HTTP/1.1\r\nHost: a.example\r\nHost: b.example\r\n\r\n"),
        ("http_head/folded", "GET / HTTP/1.1\r\nHost:\r\n a.example\r\n\r\n"),
        ("http_head/connect", "CONNECT a.example:443 HTTP/1.1\r\n\r\n"),
        ("http_head/h2c", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"),
        ("http_head/latin", "GET http://a.example:/caf\u{e9} HTTP/1.1\r\nHost: a.example\r\n\r\n"),
        ("http_head/ssh", "SSH-2.0-OpenSSH_9.6\r\n"),
        ("hostname/plain", "api.example.com"),
        ("hostname/loud_dot", "API.Example.COM."),
        ("hostname/service", "_dmarc.xn--bcher-kva.example"),
        ("hostname/hyphens", "-a.b-.example"),
        ("hostname/ipv4", "0x7f.0.0.01"),
        ("hostname/ipv6", "[::1]"),
        ("hostname/nul", "a.example\0.b.example"),
        ("hostname/wildcard", "*.example.com"),
    ] {
        seeds.push((name, head.as_bytes().to_vec()));
    }
    let get = "GET / HTTP/1.1\r\nHost: a.example\r\n\r\n";
    let chunked = "POST / HTTP/1.1\r\nHost: a.example\r\nTransfer-Encoding: chunked\r\n\r\n5;a\r\nhello\r\n0\r\nB: c\r\n\r\n";
    let chunked_host = "POST / HTTP/1.1\r\nHost: a.example\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nA: b\r\nHost: evil.example\r\n\r\n";
    let h2c = "GET / HTTP/1.1\r\nHost: a.example\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMA\r\n\r\n";
    let chunked_answer = "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n2\r\nok\r\n0\r\nA: b\r\n\r\n";
    let length = "PUT / HTTP/1.1\r\nHost: a.example\r\nContent-Length: 5\r\n\r\nhello";
    let upgrade = "GET / HTTP/1.1\r\nHost: a.example\r\nUpgrade: websocket\r\n\r\n";
    let evil = "GET / HTTP/1.1\r\nHost: evil.example\r\n\r\n";
    let answer = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
    let taken = "HTTP/1.1 101 Switching Protocols\r\n\r\n";
    for (name, turns) in [
        ("exchange/pipelined", &[get, chunked, length, get, evil][..]),
        ("exchange/upgraded", &[upgrade, "\u{ff}", taken, "\u{ff}", evil]),
        ("exchange/trailers", &[chunked_host, "\u{ff}", answer, "\u{ff}", get]),
        ("exchange/h2c", &[h2c, evil, "\u{ff}", taken]),
        ("exchange/answers", &[get, get, "\u{ff}", chunked_answer, answer, "\u{ff}", upgrade]),
        ("exchange/declined", &[upgrade, evil, "\u{ff}", answer, "\u{ff}", get]),
    ] {
        let turns = turns.iter().map(|turn| if *turn == "\u{ff}" { b"\xff" } else { turn.as_bytes() });
        seeds.push((name, turns.collect::<Vec<_>>().concat()));
    }
    let first = Hello::to("a.example").record();
    for (name, second) in [("hellos/same", "a.example"), ("hellos/other", "b.example")] {
        let retry = hellos::server_hello(true);
        let client = [b"\x14\x03\x03\x00\x01\x01", &*Hello::to(second).record()].concat();
        seeds.push((name, [first.as_slice(), &retry, &client].join(&0xa5)));
    }
    seeds
}
