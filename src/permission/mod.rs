//! What engines may do: one policy for all of them, by the kind of an action and what it acts on, and
//! the approvals of humans for the rest. Pure, except [`RealPlaces`], which resolves links.

pub mod answer;
pub mod approval_prompt;
pub mod approvals;
pub mod code;

mod action;
mod command;
mod command_glob;
mod files;
mod glob;
mod guard;
mod lex;
mod options;
mod own;
mod place;
mod policy;
mod programs;
mod real_fs;
mod rule;
mod ruling;
mod scripts;
#[cfg(test)]
mod tests;
mod url;

pub use self::{
    action::Action,
    own::OwnFiles,
    place::{Found, Places},
    policy::Policy,
    real_fs::RealPlaces,
    rule::{Rule, kind_name, kind_of},
    ruling::{Decision, Ruling, refusal},
};
