//! Child processes: own group, pipes, deadline, kill, stragglers.
