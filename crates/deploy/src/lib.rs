//! The durable executor of deploys. The server runs a deploy, so a laptop may close and control may
//! be killed: what was decided and what was done lies in the records, and whoever finds them goes on.
//!
//! A request becomes a release ([`Deploys::start`]); an executor takes its lease, has `rollout` plan
//! it once and then does what the plan and the recorded outcomes say comes next, writing down each
//! action before it begins and after it ended. People follow by the events written along with them.
//!
//! The executor sees the platform through [`World`] alone. This crate knows no HTTP, and decides
//! nothing about the order of steps, placement or health: that is `rollout`'s.

mod asked;
mod barrier;
mod deploys;
mod engine;
mod feed;
mod gate;
mod journal;
mod moves;
mod narrate;
mod perform;
mod planning;
mod platform;
mod run;
mod status;
mod timing;
mod wish;
mod world;

#[cfg(test)]
mod tests;

pub use barrier::{Barrier, BarrierFailure};
pub use deploys::Deploys;
pub use feed::EventFeed;
pub use moves::{Leaving, Outlook};
pub use timing::Timing;
pub use world::{Setback, Sight, World};
