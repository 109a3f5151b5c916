//! The dispatcher's decisions. Pure.
