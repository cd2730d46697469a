//! The OpenVPN protocol without I/O: bytes, time and randomness in, bytes and events out.
