//! Connections that are given up when their peer takes nothing, or says nothing; and no more of them than
//! [`SEATS`].
//!
//! A client that asks for a stream and never reads it would hold its connection, and what is buffered for it, for
//! ever: the server cannot send it that it is dropped, nor see that it has gone. So a write for which the socket
//! has had no room for [`PATIENCE`] fails, and the connection with it.
//!
//! Each connection costs a descriptor, and whoever reaches the port can open one without a token. So a new one has
//! [`HEAD_WITHIN`] to send a whole request head, and after that may be silent for [`IDLE`]: then a read of it fails,
//! and it is closed. Bytes in either direction count, so a stream, on which something is sent every few seconds, lives
//! as long as its reader takes it. When all seats are taken, who comes next waits in the listen backlog until one is
//! given up; descriptors for workers, engine and door are left over whatever strangers do.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::serve::Listener;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, Sleep};

/// How many connections there may be at a time: all listeners, and as much again three times over.
const SEATS: usize = 256;

/// How long a peer may take nothing of what is there for it.
const PATIENCE: Duration = Duration::from_secs(10);

/// How long a new connection may take to send its first request's head.
const HEAD_WITHIN: Duration = Duration::from_secs(10);

/// How long a connection may be silent in both directions: what browsers and proxies keep one for.
const IDLE: Duration = Duration::from_secs(75);

/// A listener whose connections are [`Patient`].
#[derive(Debug)]
pub(super) struct PatientListener {
    inner: TcpListener,
    seats: Arc<Semaphore>,
}

/// A connection whose writes fail when there has been no room for them for too long, and whose reads fail when
/// nothing has been said for too long.
#[derive(Debug)]
pub(super) struct Patient<T> {
    inner: T,
    limits: Limits,
    /// Runs while there is no room.
    alarm: Option<Pin<Box<Sleep>>>,
    /// Rings when it has been silent for too long.
    silence: Pin<Box<Sleep>>,
    /// How far the first request's head is.
    head: Head,
    /// Given back when the connection is dropped.
    _seat: Option<OwnedSemaphorePermit>,
}

/// How long is too long.
#[derive(Debug, Clone, Copy)]
struct Limits {
    /// For a peer that takes nothing.
    write: Duration,
    /// For the first head.
    head: Duration,
    /// For silence after it.
    idle: Duration,
}

const LIMITS: Limits = Limits { write: PATIENCE, head: HEAD_WITHIN, idle: IDLE };

/// How far the first head of a connection is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Head {
    /// So many bytes of the empty line that ends it came last.
    Within(usize),
    /// It has come.
    Over,
}

/// The empty line that ends a head.
const EMPTY_LINE: &[u8; 4] = b"\r\n\r\n";

impl Head {
    /// What it is after these bytes.
    fn after(self, bytes: &[u8]) -> Self {
        bytes.iter().fold(self, |head, byte| match head {
            Self::Within(3) if *byte == b'\n' => Self::Over,
            Self::Within(matched) if EMPTY_LINE.get(matched) == Some(byte) => Self::Within(matched + 1),
            Self::Within(_) => Self::Within(usize::from(*byte == b'\r')),
            Self::Over => Self::Over,
        })
    }
}

impl PatientListener {
    /// Hands out [`SEATS`] seats.
    pub(super) fn new(inner: TcpListener) -> Self {
        Self::with_seats(inner, SEATS)
    }

    fn with_seats(inner: TcpListener, seats: usize) -> Self {
        Self { inner, seats: Arc::new(Semaphore::new(seats)) }
    }
}

impl Listener for PatientListener {
    type Io = Patient<TcpStream>;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Self::Io, SocketAddr) {
        // Before the connection is taken, so that none is held without a seat. It is never closed.
        let seat = Arc::clone(&self.seats).acquire_owned().await.ok();
        // axum's own way to go on after a failed accept.
        let (stream, peer) = Listener::accept(&mut self.inner).await;
        (Patient::new(stream, LIMITS, seat), peer)
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.inner.local_addr()
    }
}

impl<T> Patient<T> {
    fn new(inner: T, limits: Limits, seat: Option<OwnedSemaphorePermit>) -> Self {
        let silence = Box::pin(tokio::time::sleep(limits.head));
        Self { inner, limits, alarm: None, silence, head: Head::Within(0), _seat: seat }
    }

    /// Bytes have come or gone. A head that is not whole by its time is late, however busily it comes.
    fn stir(&mut self) {
        if self.head == Head::Over {
            self.silence.as_mut().reset(Instant::now() + self.limits.idle);
        }
    }

    /// What became of a write, or that there was no room for it for too long.
    fn judge<R>(&mut self, cx: &mut Context<'_>, write: Poll<io::Result<R>>) -> Poll<io::Result<R>> {
        if write.is_ready() {
            self.alarm = None;
            self.stir();
            return write;
        }
        let patience = self.limits.write;
        let alarm = self.alarm.get_or_insert_with(|| Box::pin(tokio::time::sleep(patience)));
        ready!(alarm.as_mut().poll(cx));
        self.alarm = None;
        Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, "the peer takes nothing")))
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for Patient<T> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = into.filled().len();
        let read = Pin::new(&mut this.inner).poll_read(cx, into);
        if read.is_ready() {
            this.head = this.head.after(into.filled().get(before..).unwrap_or_default());
            this.stir();
            return read;
        }
        ready!(this.silence.as_mut().poll(cx));
        Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, "the peer says nothing")))
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Patient<T> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let write = Pin::new(&mut this.inner).poll_write(cx, bytes);
        this.judge(cx, write)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let write = Pin::new(&mut this.inner).poll_write_vectored(cx, bytes);
        this.judge(cx, write)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().inner).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().inner).poll_shutdown(cx)
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    #[tokio::test]
    async fn a_peer_that_takes_nothing_is_given_up_and_a_slow_one_is_not() {
        let (near, mut far) = tokio::io::duplex(16);
        let limits = Limits { write: Duration::from_millis(200), ..LIMITS };
        let mut near = Patient::new(near, limits, None);
        near.write_all(&[1; 16]).await.unwrap();
        // Slower than it is written to, and never for too long at a time.
        let reading = tokio::spawn(async move {
            for _ in 0..6 {
                tokio::time::sleep(Duration::from_millis(60)).await;
                far.read_exact(&mut [0; 16]).await.unwrap();
            }
            far
        });
        near.write_all(&[2; 96]).await.unwrap();
        let _far_that_reads_no_more = reading.await.unwrap();
        let error = near.write_all(&[3; 1]).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
    }

    #[test]
    fn a_head_ends_with_its_empty_line_however_it_is_cut() {
        let over =
            |text: &str| text.bytes().fold(Head::Within(0), |head, byte| head.after(&[byte])) == Head::Over;
        for (text, ends) in [
            ("GET / HTTP/1.1\r\nhost: x\r\n\r\n", true),
            ("GET / HTTP/1.1\r\r\n\r\n", true),
            ("GET / HTTP/1.1\r\nhost: x\r\n", false),
            ("\n\n\r\r\n\n", false),
        ] {
            assert_eq!(over(text), ends, "{text:?}");
            assert_eq!(Head::Within(0).after(text.as_bytes()) == Head::Over, ends, "{text:?}");
        }
    }

    /// As the real ones are, in shorter time.
    const SHORT: Limits = Limits {
        write: Duration::from_secs(10),
        head: Duration::from_millis(200),
        idle: Duration::from_millis(400),
    };

    #[tokio::test]
    async fn who_sends_no_whole_head_in_time_is_given_up_however_busily_it_sends() {
        let (near, mut far) = tokio::io::duplex(64);
        let mut near = Patient::new(near, SHORT, None);
        let began = Instant::now();
        let dribbling = tokio::spawn(async move {
            while far.write_all(b"x").await.is_ok() {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        });
        let error = loop {
            if let Err(error) = near.read_exact(&mut [0; 1]).await {
                break error;
            }
            assert!(began.elapsed() < SHORT.head * 20, "it is listened to for ever");
        };
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        assert!(began.elapsed() >= SHORT.head);
        drop(near);
        dribbling.await.unwrap();
    }

    #[tokio::test]
    async fn who_is_sent_a_stream_may_be_silent_and_who_is_sent_nothing_may_not() {
        let (near, mut far) = tokio::io::duplex(4096);
        let near = Patient::new(near, SHORT, None);
        far.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
        let (mut read, mut write) = tokio::io::split(near);
        read.read_exact(&mut [0; 18]).await.unwrap();
        let began = Instant::now();
        let stream = async {
            for _ in 0..10 {
                tokio::time::sleep(SHORT.idle / 4).await;
                write.write_all(b": alive\n\n").await.unwrap();
            }
            began.elapsed()
        };
        let mut byte = [0; 1];
        let (streamed, ended) = tokio::join!(stream, async { (read.read(&mut byte).await, began.elapsed()) });
        assert_eq!(ended.0.unwrap_err().kind(), io::ErrorKind::TimedOut);
        assert!(ended.1 >= streamed + SHORT.idle / 2, "{:?} after a stream of {streamed:?}", ended.1);
    }

    #[tokio::test]
    async fn nobody_is_accepted_without_a_seat() {
        let inner = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = inner.local_addr().unwrap();
        let mut listener = PatientListener::with_seats(inner, 1);
        let _both = [TcpStream::connect(address).await.unwrap(), TcpStream::connect(address).await.unwrap()];
        let (first, _) = listener.accept().await;
        let mut second = std::pin::pin!(listener.accept());
        assert!(futures_util::FutureExt::now_or_never(second.as_mut()).is_none());
        drop(first);
        tokio::time::timeout(Duration::from_secs(5), second).await.unwrap();
    }
}
