//! Spec files: no text makes the reader panic, and what it reads it can write and read again.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    if let Ok(deployment) = controller::spec::parse("fuzz.yaml", text) {
        let again = controller::spec::parse("again.yaml", &deployment.to_yaml()).expect("our own words");
        assert_eq!(again, deployment);
    }
});
