//! Frames of the link: what is read is written again as it was.
#![no_main]

use libfuzzer_sys::fuzz_target;
use server::link::{FromWorker, ToWorker};

fuzz_target!(|bytes: &[u8]| {
    let mut again = Vec::new();
    if let Ok(frame) = FromWorker::decode(bytes) {
        frame.encode(&mut again);
        assert_eq!(FromWorker::decode(&again).as_ref(), Ok(&frame));
    }
    again.clear();
    if let Ok(frame) = ToWorker::decode(bytes) {
        frame.encode(&mut again);
        assert_eq!(ToWorker::decode(&again).as_ref(), Ok(&frame));
    }
});
