//! The rules of the dispatcher, one by one. What they make up together is for the simulation.
