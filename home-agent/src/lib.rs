//! The daemon at home: the tunnel's end and the services.
