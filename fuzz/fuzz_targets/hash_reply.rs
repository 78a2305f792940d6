//! Requests for hashes and answers to them under libFuzzer.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| fuzz_bodies::hash_reply(data));
