//! One daemon a state directory.
