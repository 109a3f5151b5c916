//! What the agent is told: envelope, bootstrap, history block, defanging. Pure.
