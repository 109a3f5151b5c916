//! The table of engines: command line, environment, protocol, exit ladder.
