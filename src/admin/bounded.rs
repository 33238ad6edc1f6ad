//! Bounds connections to a control-plane listener, in number and in time.

use super::peer::Peer;
use super::places::{Place, Places, RequestMark};
use axum::serve::Listener;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep, sleep_until};

/// Most connections of one listener: room for Prometheus and a replica, a health check and people with curl.
pub const CONNECTIONS: usize = 64;
const TIMES: Times = Times { head: Duration::from_secs(2), whole: Duration::from_secs(30) };

/// Longest times from accept.
#[derive(Debug, Clone, Copy)]
struct Times {
    /// To the last byte of the request's head.
    head: Duration,
    /// To the last byte of the answer.
    whole: Duration,
}

/// Tells who a connection's peer is.
type PeerOf<L> = Box<dyn Fn(&<L as Listener>::Io, &<L as Listener>::Addr) -> Peer + Send>;

/// Accepts every connection at once, and keeps up to a fixed number of them open: see [`Places`].
pub(super) struct BoundedListener<L: Listener> {
    listener: L,
    peer_of: PeerOf<L>,
    places: Arc<Places>,
    times: Times,
}

impl<L: Listener> BoundedListener<L> {
    pub(super) fn new(listener: L, peer_of: PeerOf<L>) -> Self {
        Self { listener, peer_of, places: Places::new(CONNECTIONS), times: TIMES }
    }
}

impl<L: Listener<Io: Unpin>> Listener for BoundedListener<L> {
    type Io = BoundedStream<L::Io>;
    type Addr = L::Addr;

    async fn accept(&mut self) -> (BoundedStream<L::Io>, L::Addr) {
        loop {
            // axum's accept waits before it tries again when descriptors have run out
            let (stream, address) = self.listener.accept().await;
            if let Some(place) = self.places.take((self.peer_of)(&stream, &address)) {
                return (BoundedStream::new(stream, place, self.times), address);
            }
        }
    }

    fn local_addr(&self) -> io::Result<L::Addr> {
        self.listener.local_addr()
    }
}

/// A stream that fails once another connection has its place, and with a timeout where it would wait too long.
pub(super) struct BoundedStream<S> {
    stream: S,
    place: Place,
    deadline: Pin<Box<Sleep>>,
    /// Deadline of the whole connection, until that is in `deadline`.
    later: Option<Instant>,
}

impl<S> BoundedStream<S> {
    fn new(stream: S, place: Place, times: Times) -> Self {
        let now = Instant::now();
        Self {
            stream,
            place,
            deadline: Box::pin(sleep_until(now + times.head)),
            later: Some(now + times.whole),
        }
    }

    pub(super) fn stream(&self) -> &S {
        &self.stream
    }

    /// Mark to set once the request's head was read.
    pub(super) fn request(&self) -> &RequestMark {
        self.place.request()
    }

    /// Fails once another connection has the place.
    fn keeps_place(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        match self.place.poll_taken(cx) {
            Poll::Ready(()) => Err(io::ErrorKind::ConnectionAborted.into()),
            Poll::Pending => Ok(()),
        }
    }

    /// Pending until the deadline.
    fn poll_deadline(&mut self, cx: &mut Context<'_>) -> Poll<io::Error> {
        if self.place.request().is_set()
            && let Some(later) = self.later.take()
        {
            self.deadline.as_mut().reset(later);
        }
        ready!(self.deadline.as_mut().poll(cx));
        Poll::Ready(io::ErrorKind::TimedOut.into())
    }

    /// Fails once the deadline is over or another connection has the place.
    fn may_write(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        self.keeps_place(cx)?;
        match self.poll_deadline(cx) {
            Poll::Ready(error) => Err(error),
            Poll::Pending => Ok(()),
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for BoundedStream<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.keeps_place(cx)?;
        // What came in time counts, though the process was stopped meanwhile; nobody sends more than hyper's buffer.
        match Pin::new(&mut self.stream).poll_read(cx, buf) {
            Poll::Ready(read) => Poll::Ready(read),
            Poll::Pending => self.poll_deadline(cx).map(Err),
        }
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for BoundedStream<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.may_write(cx)?;
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.may_write(cx)?;
        Pin::new(&mut self.stream).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests;
