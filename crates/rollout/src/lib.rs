//! Pure decisions: from a snapshot to a plan that can be printed, stored, compared and replayed.
//! Nothing here performs I/O, reads a clock or draws a random number; moments, seeds and fresh ids
//! are arguments.

pub mod autostop;
pub mod deploy;
pub mod desired;
pub mod gate;
pub mod moving;
pub mod placement;
pub mod plan;
pub mod progress;
pub mod restart;

pub use plan::{Effect, Plan, Step, StepId};
pub use progress::{Action, ActionId, Next, Record, Verdict, next_actions};
