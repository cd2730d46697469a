//! Searches for inputs that a fuzz target fails on. `FUZZ_TARGET` names the target; the arguments are libFuzzer's:
//!
//! ```text
//! cd tests/fuzz/driver
//! RUSTC_BOOTSTRAP=1 RUSTFLAGS="-Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
//!   -Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table \
//!   -Cllvm-args=-sanitizer-coverage-trace-compares -Cdebug-assertions" \
//!   cargo build --release --target "$(rustc -vV | sed -n 's/host: //p')"
//! FUZZ_TARGET=push_reply target/*/release/fuzz-driver ../corpus/push_reply -max_total_time=600
//! ```
#![no_main]

use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;

static TARGET: LazyLock<fn(&[u8])> = LazyLock::new(|| {
    let wanted = std::env::var("FUZZ_TARGET").unwrap_or_default();
    match fuzz::TARGETS.iter().find(|(name, _)| *name == wanted) {
        Some((_, target)) => *target,
        None => panic!("FUZZ_TARGET={wanted} is not a target; choose among those in tests/fuzz/corpus"),
    }
});

fuzz_target!(|bytes: &[u8]| TARGET(bytes));
