//! Requests and responses on persistent connections.

use super::dial::{Established, establish};
use super::window::Window;
use super::{Job, Report, ready, tell};
use crate::poller::{CHANGES, Poller};
use crate::wire::{REQUEST, RESPONSE};
use egret::clock;
use nix::sys::epoll::EpollFlags;
use socket2::Socket;
use std::io::{ErrorKind, Read};
use std::time::Instant;

struct Client {
    socket: Socket,
    asked: Instant,
    got: usize,
}

pub fn run(job: &Job) -> Result<(), String> {
    let Established { sockets, failures, failure } = establish(job)?;
    if !ready() {
        return Ok(());
    }
    let mut poller = Poller::new();
    let mut buffer = vec![0; 1 << 16];
    let mut window = Window::new(job);
    let mut clients: Vec<Client> =
        sockets.into_iter().map(|socket| Client { socket, asked: clock::now(), got: 0 }).collect();
    for (key, client) in clients.iter_mut().enumerate() {
        if window.start() {
            client.ask()?;
        }
        poller.watch(&client.socket, key, CHANGES);
    }
    while window.goes_on() {
        for event in 0..poller.wait(Some(window.next_edge())) {
            let (key, what) = poller.event(event);
            if !what.contains(EpollFlags::EPOLLIN) {
                continue;
            }
            let client = &mut clients[key];
            if client.take(&mut buffer)? {
                window.done(clock::now() - client.asked);
                if window.start() {
                    client.ask()?;
                }
            }
        }
    }
    tell(&Report { failures, failure, ..window.close() });
    Ok(())
}

impl Client {
    fn ask(&mut self) -> Result<(), String> {
        self.asked = clock::now();
        match self.socket.send(&[b'?'; REQUEST]) {
            Ok(REQUEST) => Ok(()),
            Ok(n) => Err(format!("only {n} bytes of a request could be sent")),
            Err(e) => Err(format!("a request could not be sent: {e}")),
        }
    }

    /// True when the response is complete.
    fn take(&mut self, buffer: &mut [u8]) -> Result<bool, String> {
        match (&self.socket).read(buffer) {
            Ok(0) => Err("the connection ended before the answer".into()),
            Ok(n) => {
                self.got += n;
                let whole = self.got >= RESPONSE;
                if whole {
                    self.got -= RESPONSE;
                }
                Ok(whole)
            }
            Err(e) if e.kind() == ErrorKind::WouldBlock => Ok(false),
            Err(e) => Err(format!("an answer could not be read: {e}")),
        }
    }
}
