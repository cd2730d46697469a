//! Throughput and latency benchmarks: `cargo bench -p benches`. They measure; whether something is right is for tests.
#![forbid(unsafe_code)]
