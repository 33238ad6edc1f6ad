//! Bounds connections to a control-plane listener, in number and in lifetime.

use axum::serve::Listener;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Sleep, sleep};

/// Room for Prometheus and a replica, a health check and people with curl.
const CONNECTIONS: usize = 64;
/// Longest time from accept to the last byte of the answer.
const LIFETIME: Duration = Duration::from_secs(30);

/// Accepts up to a fixed number of connections at once; others wait in the kernel's backlog, at most [`LIFETIME`].
pub(super) struct BoundedListener<L> {
    listener: L,
    places: Arc<Semaphore>,
    lifetime: Duration,
}

impl<L> BoundedListener<L> {
    pub(super) fn new(listener: L) -> Self {
        Self::with_bounds(listener, CONNECTIONS, LIFETIME)
    }

    fn with_bounds(listener: L, connections: usize, lifetime: Duration) -> Self {
        Self { listener, places: Arc::new(Semaphore::new(connections)), lifetime }
    }
}

impl<L: Listener<Io: Unpin>> Listener for BoundedListener<L> {
    type Io = BoundedStream<L::Io>;
    type Addr = L::Addr;

    async fn accept(&mut self) -> (BoundedStream<L::Io>, L::Addr) {
        let Ok(place) = Arc::clone(&self.places).acquire_owned().await else {
            return std::future::pending().await; // closed, which nobody does
        };
        // axum's accept waits before it tries again when descriptors have run out
        let (stream, peer) = self.listener.accept().await;
        (BoundedStream { stream, end: Box::pin(sleep(self.lifetime)), _place: place }, peer)
    }

    fn local_addr(&self) -> io::Result<L::Addr> {
        self.listener.local_addr()
    }
}

/// A stream whose reads and writes fail with a timeout after its lifetime.
pub(super) struct BoundedStream<S> {
    stream: S,
    end: Pin<Box<Sleep>>,
    _place: OwnedSemaphorePermit,
}

impl<S> BoundedStream<S> {
    pub(super) fn stream(&self) -> &S {
        &self.stream
    }

    /// Fails once the lifetime is over.
    fn poll_in_time(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        match self.end.as_mut().poll(cx) {
            Poll::Ready(()) => Err(io::ErrorKind::TimedOut.into()),
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
        self.poll_in_time(cx)?;
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for BoundedStream<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_in_time(cx)?;
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.poll_in_time(cx)?;
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
mod tests {
    use super::*;
    use std::future::poll_fn;
    use std::io::Read;
    use tokio::net::TcpListener;

    #[tokio::test]
    async fn silent_connection_makes_room_for_next() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let mut bounded = BoundedListener::with_bounds(listener, 1, Duration::from_millis(50));
        let mut clients = [0; 2].map(|_| std::net::TcpStream::connect(address).unwrap());
        for client in &mut clients {
            // the second is accepted only once the first is dropped
            let (mut connection, _) = bounded.accept().await;
            assert_eq!(bounded.places.available_permits(), 0);
            let mut byte = [0];
            let read = poll_fn(|cx| Pin::new(&mut connection).poll_read(cx, &mut ReadBuf::new(&mut byte)));
            let error = read.await.unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::TimedOut);
            drop(connection);
            assert_eq!(client.read(&mut [0]).unwrap(), 0);
        }
    }

    #[tokio::test]
    async fn unread_answer_ends_the_connection() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let client = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let mut bounded = BoundedListener::with_bounds(listener, 1, Duration::from_millis(50));
        let (mut connection, _) = bounded.accept().await;
        let error = loop {
            let write = poll_fn(|cx| Pin::new(&mut connection).poll_write(cx, &[0; 4096]));
            // far beyond the bound, so that a lack of it fails rather than hangs
            if let Err(error) = tokio::time::timeout(Duration::from_secs(30), write).await.unwrap() {
                break error;
            }
        };
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        drop(client);
    }
}
