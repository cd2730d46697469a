//! Splitting and coalescing against a plain model of what a packet is and how Linux cuts one.
#![expect(clippy::unwrap_used, reason = "helpers of tests")]

mod coalesce;
mod device;
mod histories;
mod model;
mod split;
