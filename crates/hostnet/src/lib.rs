//! Makes links, addresses and routes match a wanted state.
