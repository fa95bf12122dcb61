//! Health checks and readiness probes of running machines: when to probe ([`schedule`], pure), how
//! ([`probe`]), and the tasks that do it ([`prober`]). Results go to the machine's task; nothing here
//! knows what follows from them.

pub mod probe;
pub mod prober;
pub mod schedule;
mod tls;
