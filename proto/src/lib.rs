//! The protobuf control channel: generated types and their checked conversion to model.
