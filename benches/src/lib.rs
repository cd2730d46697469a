//! Throughput and latency benchmarks.
