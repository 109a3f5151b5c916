//! One bridge thread: turns in order.
