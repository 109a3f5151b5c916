//! The store on a real disk and on one that fails.
