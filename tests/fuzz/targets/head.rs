//! Heads of requests: the same head is read whatever follows it, and never from less than all of it.
#![no_main]

use libfuzzer_sys::fuzz_target;
use server::http::{HeaderSpace, parse_head};

const LIMIT: usize = 16 * 1024;

fuzz_target!(|bytes: &[u8]| {
    let mut space = HeaderSpace::new();
    let Ok(Some(head)) = parse_head(bytes, &mut space, LIMIT) else { return };
    let (len, framing) = (head.len, head.framing);
    let mut alone = HeaderSpace::new();
    let again = parse_head(&bytes[..len], &mut alone, LIMIT).expect("it was well-formed a moment ago");
    assert_eq!(again.map(|head| (head.len, head.framing)), Some((len, framing)));
    let mut short = HeaderSpace::new();
    assert!(matches!(parse_head(&bytes[..len - 1], &mut short, LIMIT), Ok(None)));
});
