//! The lab on the real kernel: needs root. Each test runs worlds of its own and cleans them up.

mod bgp;
mod ending;
mod hosts;
mod network;
mod steering;
mod support;
