//! The workload of the start benchmark: says when it began to run, by the clock that the host and all
//! its namespaces share, then waits to be ended. With the argument `once` it ends by itself.

use rustix::time::{ClockId, clock_gettime};

fn main() {
    let now = clock_gettime(ClockId::Monotonic);
    println!("first {}", now.tv_sec * 1_000_000 + now.tv_nsec / 1000);
    while std::env::args().nth(1).as_deref() != Some("once") {
        std::thread::park();
    }
}
