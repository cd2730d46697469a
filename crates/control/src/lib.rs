//! gRPC between the agents (mutual TLS in the tunnel) and for agentctl (unix socket).
