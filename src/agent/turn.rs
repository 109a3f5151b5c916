//! Runs one turn: joins a protocol with a carrier, clocks and channels. The same for all engines.
