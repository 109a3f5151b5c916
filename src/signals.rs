//! Signals of the operating system: the first asks to stop, the second does not wait.
