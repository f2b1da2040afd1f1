//! What comes over a door's port for workers: the first words, of anybody; then frames, one behind the other. What is
//! read is written again as it was.
#![no_main]

use std::pin::pin;
use std::task::{Context, Poll, Waker};

use libfuzzer_sys::fuzz_target;
use server::link::tunnel::{Frame, Preface};

fuzz_target!(|bytes: &[u8]| {
    let mut from = bytes;
    // What is all there is never waited for.
    let Poll::Ready(read) = pin!(Preface::read(&mut from)).poll(&mut Context::from_waker(Waker::noop())) else {
        panic!("it waits for more than there will be");
    };
    if let Ok(preface) = read {
        assert_eq!(Some(preface.to_bytes().as_slice()), bytes.strip_suffix(from));
    }

    let (mut rest, mut again) = (bytes, Vec::new());
    while let Ok(Some((frame, length))) = Frame::decode(rest) {
        again.clear();
        frame.encode(&mut again);
        assert_eq!(Frame::decode(&again), Ok(Some((frame, again.len()))));
        assert_eq!(again, rest[..length]);
        rest = &rest[length..];
    }
});
