//! Waiting until a request is *there*: its whole head, and its body when that is small.
//!
//! Nothing is consumed: the bytes are peeked, and stay in the kernel for the worker that will read them, or for
//! the next one should that one die. So a slow client costs the door a few wake-ups and a worker nothing.

use std::io;

use rustix::io::Errno;
use rustix::net::{RecvFlags, recv};
use tokio::time::{Instant, timeout_at};

use super::client::{Chunks, Client, Request, Whereabouts};
use crate::config::{Clients, DoorPool};
use crate::http::chunked::Decoder;
use crate::http::problem::AnswerBody;
use crate::http::{Framing, Head, HeaderSpace, Refusal, has_begun, parse_head};
use crate::sys;

/// What has become of the wait for a request.
#[derive(Debug)]
pub(super) enum Arrival {
    /// It is there, and described in [`Client::request`].
    Request,
    /// It is not one that is served here.
    Refused(Refusal),
    /// The client has gone, or has been idle for too long.
    Closed,
}

/// What a look at the socket has shown.
#[derive(Debug, PartialEq, Eq)]
enum Look {
    /// All that can be waited for is there.
    Ready,
    /// Look again when there are at least so many bytes.
    Incomplete { need: usize },
    /// As [`Look::Incomplete`], and the client waits to be told to go on.
    AwaitsContinue { need: usize },
}

/// Waits for the next request of `client`. `scratch` is room for the bytes, shared by all connections of the pool
/// and only used between two waits.
pub(super) async fn request(
    client: &Client,
    pool: &DoorPool,
    clients: &Clients,
    scratch: &Scratch,
) -> Arrival {
    client.request.borrow_mut().begin();
    let mut deadline = Instant::now() + pool.timeouts.keep_alive;
    let mut begun = false;
    let mut need = 1;
    // Of what has been served before, a part may still take up the room of this one.
    let mut is_roomy = client.whereabouts.get() == Whereabouts::New;
    loop {
        let mut readiness = match timeout_at(deadline, client.socket().readable()).await {
            Ok(Ok(readiness)) => readiness,
            Ok(Err(_)) => return Arrival::Closed,
            Err(_elapsed) if begun => return Arrival::Refused(Refusal::TooSlow),
            Err(_elapsed) => return Arrival::Closed,
        };
        // Looking again costs a copy of all that is there: not for each of the bytes that a slow client sends.
        if need > 1
            && rustix::io::ioctl_fionread(client.fd()).is_ok_and(|there| there > 0 && there < need as u64)
        {
            if readiness.ready().is_read_closed() {
                return Arrival::Closed;
            }
            readiness.clear_ready();
            continue;
        }
        let mut scratch = scratch.borrow_mut();
        let there = match recv(client.fd(), &mut scratch[..], RecvFlags::PEEK | RecvFlags::DONTWAIT) {
            Ok((_, 0)) => return Arrival::Closed,
            Ok((_, there)) => there,
            Err(Errno::AGAIN) => {
                readiness.clear_ready();
                continue;
            }
            Err(Errno::INTR) => continue,
            Err(_) => return Arrival::Closed,
        };
        if !begun && has_begun(&scratch[..there]) {
            begun = true;
            deadline = Instant::now() + pool.timeouts.head;
        }
        if there >= need {
            let mut request = client.request.borrow_mut();
            match look(&scratch[..there], clients, &mut request) {
                Ok(Look::Ready) => {
                    // Edge-triggered: what comes from here on will be announced anew. What is there beyond this
                    // request has been announced already.
                    if there == request.whole as usize {
                        readiness.clear_ready();
                    }
                    return Arrival::Request;
                }
                Ok(Look::Incomplete { need: more }) => need = more,
                Ok(Look::AwaitsContinue { need: more }) => {
                    need = more;
                    client.tell(b"HTTP/1.1 100 Continue\r\n\r\n");
                    request.continued = true;
                }
                Err(refusal) => return Arrival::Refused(refusal),
            }
        }
        if begun && !std::mem::replace(&mut is_roomy, true) {
            // Where that cannot be, what does not fit is too slow.
            let _ = sys::make_room(client.fd(), scratch.len());
        }
        // The client has ended its half in the middle of a request.
        if readiness.ready().is_read_closed() {
            return Arrival::Closed;
        }
        readiness.clear_ready();
    }
}

/// Room for one look: the longest head and the largest body that is waited for.
pub(super) type Scratch = std::cell::RefCell<Vec<u8>>;

/// As much room as a pool with these limits needs.
pub(super) fn scratch(clients: &Clients) -> Scratch {
    vec![0; clients.head_bytes + clients.buffered_body_bytes + 1].into()
}

impl Request {
    /// Forgets the request before, and keeps its allocation.
    fn begin(&mut self) {
        let mut line = std::mem::take(&mut self.line);
        line.clear();
        *self = Self { line, ..Self::default() };
    }
}

/// Reads what is there. When all is there, `request` says what it is.
fn look(bytes: &[u8], clients: &Clients, request: &mut Request) -> Result<Look, Refusal> {
    // Also where the head is refused: whoever asks with HEAD takes a body for the next answer.
    request.answer_body = AnswerBody::of(bytes);
    let mut space = HeaderSpace::new();
    let Some(head) = parse_head(bytes, &mut space, clients.head_bytes)? else {
        return Ok(Look::Incomplete { need: bytes.len() + 1 });
    };
    request.announced = None;
    let whole = match whole(&head, bytes, clients, request)? {
        Extent::Whole(len) => len,
        Extent::TooLargeToWaitFor => {
            request.announced = match head.framing {
                Framing::Length(body) => Some(head.len as u64 + body),
                Framing::Chunked => None,
            };
            0
        }
        Extent::Incomplete { need } if head.expects_continue && !request.continued => {
            return Ok(Look::AwaitsContinue { need });
        }
        Extent::Incomplete { need } => return Ok(Look::Incomplete { need }),
    };
    request.name(head.method, head.target);
    request.whole = u32::try_from(whole).unwrap_or(0);
    request.idempotent = head.is_idempotent();
    request.keyed = head.idempotency_key;
    request.http_1_0 = head.http_1_0;
    request.keep_alive = head.keep_alive;
    Ok(Look::Ready)
}

impl Chunks {
    fn behind(head: &Head<'_>) -> Self {
        Self { decoder: Decoder::new(), at: head.len, data: 0 }
    }
}

/// How far a request reaches.
enum Extent {
    /// All of it is there: so many bytes.
    Whole(usize),
    /// It is small enough to be waited for.
    Incomplete { need: usize },
    /// It is handed over at its head.
    TooLargeToWaitFor,
}

fn whole(head: &Head<'_>, bytes: &[u8], clients: &Clients, request: &mut Request) -> Result<Extent, Refusal> {
    match head.framing {
        Framing::Length(body) if body > clients.body_bytes => Err(Refusal::BodyTooLarge),
        Framing::Length(body) => Ok(match usize::try_from(body) {
            Ok(body) if body <= clients.buffered_body_bytes => match head.len + body {
                all if all <= bytes.len() => Extent::Whole(all),
                all => Extent::Incomplete { need: all },
            },
            _ => Extent::TooLargeToWaitFor,
        }),
        Framing::Chunked => {
            // Goes on where the last look ended: a client that sends byte by byte must not make us start over.
            let chunks = request.chunks.get_or_insert_with(|| Chunks::behind(head));
            while chunks.at < bytes.len() && !chunks.decoder.is_done() {
                let step = chunks.decoder.step(&bytes[chunks.at..])?;
                chunks.at += step.consumed;
                chunks.data += step.data.len() as u64;
            }
            if chunks.data > clients.body_bytes {
                return Err(Refusal::BodyTooLarge);
            }
            Ok(if chunks.decoder.is_done() {
                Extent::Whole(chunks.at)
            } else if bytes.len() - head.len >= clients.buffered_body_bytes {
                Extent::TooLargeToWaitFor
            } else {
                Extent::Incomplete { need: bytes.len() + 1 }
            })
        }
    }
}

/// Whether the request that [`Client::request`] describes is still in the socket, whole, after a worker has had it.
pub(super) fn is_still_whole(client: &Client, clients: &Clients, scratch: &Scratch) -> io::Result<bool> {
    let whole = client.request.borrow().whole as usize;
    if whole == 0 {
        return Ok(false);
    }
    let mut scratch = scratch.borrow_mut();
    let (_, there) = recv(client.fd(), &mut scratch[..], RecvFlags::PEEK | RecvFlags::DONTWAIT)?;
    let mut again = Request::default();
    let ready = matches!(look(&scratch[..there], clients, &mut again), Ok(Look::Ready));
    // A worker that has read into the request leaves bytes that are another request, or none.
    Ok(ready && again.whole as usize == whole && again.line == client.request.borrow().line)
}

#[cfg(test)]
mod tests {
    use super::*;

    const CLIENTS: Clients =
        Clients { connections: 1, head_bytes: 256, buffered_body_bytes: 32, body_bytes: 1000 };

    fn look_at(bytes: &str) -> (Result<Look, Refusal>, u32) {
        let mut request = Request::default();
        let look = look(bytes.as_bytes(), &CLIENTS, &mut request);
        (look, request.whole)
    }

    #[test]
    fn a_small_body_is_waited_for_and_a_large_one_is_not() {
        let head = |length: usize| format!("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: {length}\r\n\r\n");
        let small = head(5);
        assert_eq!(look_at(&small), (Ok(Look::Incomplete { need: small.len() + 5 }), 0));
        assert_eq!(look_at(&format!("{small}12345GET")), (Ok(Look::Ready), small.len() as u32 + 5));
        assert_eq!(look_at(&head(33)), (Ok(Look::Ready), 0));
        assert_eq!(look_at(&head(1001)), (Err(Refusal::BodyTooLarge), 0));
    }

    #[test]
    fn a_small_chunked_body_is_waited_for_and_a_large_one_is_not() {
        let head = "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n";
        assert!(matches!(look_at(&format!("{head}3\r\nab")), (Ok(Look::Incomplete { .. }), 0)));
        let all = format!("{head}3\r\nabc\r\n0\r\n\r\n");
        assert_eq!(look_at(&format!("{all}GET / ")), (Ok(Look::Ready), all.len() as u32));
        assert_eq!(look_at(&format!("{head}20\r\n{}", "x".repeat(32))), (Ok(Look::Ready), 0));
        assert!(look_at(&format!("{head}3\r\nabcd")).0.is_err());
    }

    #[test]
    fn chunks_are_bounded_as_a_length_is() {
        let clients = Clients { body_bytes: 4, ..CLIENTS };
        let head = "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n";
        let mut request = Request::default();
        let looked = look(format!("{head}5\r\nabcde").as_bytes(), &clients, &mut request);
        assert_eq!(looked, Err(Refusal::BodyTooLarge));
        let mut request = Request::default();
        let looked = look(format!("{head}4\r\nabcd\r\n0\r\n\r\n").as_bytes(), &clients, &mut request);
        assert_eq!(looked, Ok(Look::Ready));
    }

    #[test]
    fn a_head_that_is_refused_is_refused_without_a_body() {
        for (bytes, body) in
            [("HEAD / HTTP/1.1\r\n\r\n", AnswerBody::Omitted), ("GET / HTTP/1.1\r\n\r\n", AnswerBody::Sent)]
        {
            let mut request = Request::default();
            assert!(look(bytes.as_bytes(), &CLIENTS, &mut request).is_err());
            assert_eq!(request.answer_body, body, "{bytes:?}");
        }
    }

    #[test]
    fn who_expects_to_be_told_to_go_on_is_told_once() {
        let head = "PUT / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 3\r\n\r\n";
        let mut request = Request::default();
        let need = head.len() + 3;
        assert_eq!(look(head.as_bytes(), &CLIENTS, &mut request), Ok(Look::AwaitsContinue { need }));
        request.continued = true;
        assert_eq!(look(head.as_bytes(), &CLIENTS, &mut request), Ok(Look::Incomplete { need }));
    }
}
