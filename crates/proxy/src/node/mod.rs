//! The machines of this edge's own node: every request to them, from whichever edge, passes here, so
//! their load is known exactly and their limits are kept exactly.

mod idle;
mod machine;
mod pool;
mod report;
mod serve;
mod table;

pub(crate) use idle::run as run_idle;
pub(crate) use machine::Permit;
pub(crate) use pool::{Pool, PoolKey, Sender};
pub(crate) use report::run as run_reports;
pub(crate) use serve::{Answer, Exchange, Reached, Setback, Terms, Tunnel, Woken, dial, open, serve};
pub(crate) use table::{Machines, OwnView};
