//! Server-sent events, as they go over the wire: `id`, `event` and one line of `data`, then an empty line.

use bytes::Bytes;
use serde::Serialize;

/// The media type of such a stream.
pub(super) const MEDIA_TYPE: &str = "text/event-stream";

/// What keeps proxies and browsers from giving up on a stream in which nothing happens.
pub(super) const ALIVE: &[u8] = b": alive\n\n";

/// Where a reader is that has seen nothing yet: a browser remembers the id, and shows no event, for there is no data.
pub(super) fn position(id: &str) -> Bytes {
    format!("id: {id}\n\n").into()
}

/// An event. `data` becomes JSON, which has no line break of its own, so that one `data` line holds it.
pub(crate) fn event(id: Option<&str>, name: &str, data: &impl Serialize) -> Bytes {
    let mut frame = Vec::with_capacity(512);
    if let Some(id) = id {
        frame.extend_from_slice(b"id: ");
        frame.extend_from_slice(id.as_bytes());
        frame.push(b'\n');
    }
    frame.extend_from_slice(b"event: ");
    frame.extend_from_slice(name.as_bytes());
    frame.extend_from_slice(b"\ndata: ");
    // Our own views, whose keys are text: there is nothing in them that JSON cannot say.
    let _ = serde_json::to_writer(&mut frame, data);
    frame.extend_from_slice(b"\n\n");
    frame.into()
}
