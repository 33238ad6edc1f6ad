//! A DNS server from before EDNS (RFC 6891), or behind a middlebox that does not support it.

use crate::lab::{Family, Host, Lab};
use std::net::{Ipv4Addr, UdpSocket};
use std::sync::{Arc, Mutex};
use std::thread;

/// Behaviour of the old resolver towards queries with EDNS.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refuses {
    /// An answer with this response code.
    With(u8),
    /// The same, with the header only.
    WithHeader(u8),
    /// No answer at all.
    Silently,
}

/// Answers queries without EDNS: every name has this one address. Ends with the test's process.
pub struct OldResolver(Arc<Mutex<Vec<bool>>>);

impl OldResolver {
    /// Starts it on port 53 of a host, by IPv4.
    pub fn start(lab: &Lab, host: Host, refuses: Refuses, address: Ipv4Addr) -> Self {
        let socket = lab.server.run(|| UdpSocket::bind(host.at(Family::V4, 53)).unwrap());
        let seen = Arc::new(Mutex::new(Vec::new()));
        let queries = Arc::clone(&seen);
        thread::spawn(move || {
            let mut query = [0; 1500];
            while let Ok((length, from)) = socket.recv_from(&mut query) {
                let query = &query[..length];
                let edns = query[10..12] != [0, 0];
                queries.lock().unwrap().push(edns);
                let answer = match refuses {
                    _ if !edns => Some(answered(query, address)),
                    Refuses::With(code) => Some(refused(&query[..question(query)], code, 1)),
                    Refuses::WithHeader(code) => Some(refused(&query[..12], code, 0)),
                    Refuses::Silently => None,
                };
                if let Some(answer) = answer {
                    let _ = socket.send_to(&answer, from);
                }
            }
        });
        Self(seen)
    }

    /// Number of queries with EDNS, and without.
    pub fn queries(&self) -> (usize, usize) {
        let seen = self.0.lock().unwrap();
        let with = seen.iter().filter(|edns| **edns).count();
        (with, seen.len() - with)
    }
}

/// Offset of the end of the question.
fn question(query: &[u8]) -> usize {
    let name = query[12..].iter().position(|&byte| byte == 0).unwrap();
    12 + name + 1 + 4
}

fn refused(query: &[u8], code: u8, questions: u8) -> Vec<u8> {
    let mut answer = query.to_vec();
    answer[2..12].copy_from_slice(&[0x81, 0x80 | code, 0, questions, 0, 0, 0, 0, 0, 0]);
    answer
}

fn answered(query: &[u8], address: Ipv4Addr) -> Vec<u8> {
    let end = question(query);
    let is_a = query[end - 4..end - 2] == [0, 1];
    let mut answer = refused(&query[..end], 0, 1);
    if is_a {
        answer[7] = 1;
        answer.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4]);
        answer.extend(address.octets());
    }
    answer
}
