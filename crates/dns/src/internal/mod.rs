//! Names of the private network: `.internal`, `.flycast` and the reverse names of 6PN addresses. All
//! decisions are pure: [`answer`] is a function of a [`View`], the network that asks and the question.
//!
//! A caller learns of its own network alone; another's names do not exist for it.

mod answer;
mod forms;
mod lists;
mod nearest;
mod responder;
mod reverse;
mod view;

pub use answer::{Answer, answer};
pub use responder::{Callers, Internal, Recursion};
pub use view::{Here, View};

#[cfg(test)]
mod tests;
