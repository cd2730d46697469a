//! The daemon on the public host: the tunnel's end, Caddy, and the ingress.
