//! End-to-end and interop tests on the lab.
