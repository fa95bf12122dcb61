//! Platforms on trial: whole platforms in lab worlds, under a load that never retries. The demo, the
//! end-to-end tests and the benches are made of this. Uses the program's faces only.

pub mod load;
