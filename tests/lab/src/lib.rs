//! Namespaces, NATs, engines and real peers as a library.
