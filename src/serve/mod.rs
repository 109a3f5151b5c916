//! The embedded bridge.
