//! Chunked bodies: one byte at a time gives what all at once gives.
#![no_main]

use libfuzzer_sys::fuzz_target;
use server::http::chunked::Decoder;

/// The data, how much was consumed, and whether the body ended; nothing when it was refused.
fn decode(bytes: &[u8], size: usize) -> Option<(Vec<u8>, usize, bool)> {
    let (mut decoder, mut data, mut at) = (Decoder::new(), Vec::new(), 0);
    while at < bytes.len() && !decoder.is_done() {
        let step = decoder.step(&bytes[at..bytes.len().min(at + size)]).ok()?;
        data.extend(step.data);
        at += step.consumed;
    }
    Some((data, at, decoder.is_done()))
}

fuzz_target!(|bytes: &[u8]| {
    assert_eq!(decode(bytes, usize::MAX / 2), decode(bytes, 1));
});
