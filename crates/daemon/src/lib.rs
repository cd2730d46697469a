//! The process shell of a daemon: configuration, logs, metrics, signals, shutdown.
