//! Anycast: which addresses this place announces and how, and the guard that sees to it.
//!
//! - what is wanted: [`plan`] is what the operator tells the guard, [`served`] what the edge tells it of apps
//!   that it serves, and [`damping`] which of those may be announced
//! - what is announced: [`announcements`], a function of the plan, of how the edge is ([`health`]) and how
//!   busy ([`load`])
//! - who announces: [`bird`], the BGP daemon's configuration and control socket
//! - [`guard`], the process that holds all of it together
//!
//! All but `bird::control` and [`guard`] is pure: time comes in as an argument. Nothing here knows the proxy,
//! beyond that it answers HTTP.

pub mod announcements;
pub mod bird;
pub mod damping;
pub mod guard;
pub mod health;
pub mod load;
pub mod plan;
pub mod prefix;
pub mod served;
