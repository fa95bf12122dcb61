//! What operators look at.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use atoll_signals::metrics::{Samples, Source, names};

/// Codes that are counted, by name. All others are one.
const CODES: [&str; 7] = ["noerror", "formerr", "servfail", "nxdomain", "notimp", "refused", "other"];

/// What became of questions at a server's sockets.
#[derive(Default)]
pub struct Counters {
    answers: [AtomicU64; CODES.len()],
    pub(super) recursions: AtomicU64,
    pub(super) dropped: AtomicU64,
    pub(super) truncated: AtomicU64,
    pub(super) overloaded: AtomicU64,
    pub(super) connections: AtomicU64,
}

impl Counters {
    pub(super) fn answered(&self, answer: &[u8]) {
        let code = answer.get(3).map_or(0, |flags| usize::from(flags & 0xf));
        self.answers[code.min(CODES.len() - 1)].fetch_add(1, Ordering::Relaxed);
    }
}

pub(super) fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}

/// A server's counters among a process's metrics.
pub(super) struct Counted {
    /// Whose names it answers.
    pub names: &'static str,
    pub counters: Arc<Counters>,
}

impl Source for Counted {
    fn collect(&self, samples: &mut Samples) {
        let Self { names: whose, counters } = self;
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        for (code, counter) in CODES.iter().zip(&counters.answers) {
            samples.counter(&names::DNS_ANSWERS, &[whose, code], read(counter));
        }
        let limited =
            [("dropped", &counters.dropped), ("truncated", &counters.truncated), ("overloaded", &counters.overloaded)];
        for (how, counter) in limited {
            samples.counter(&names::DNS_LIMITED, &[whose, how], read(counter));
        }
        samples.counter(&names::DNS_RECURSIONS, &[whose], read(&counters.recursions));
        samples.counter(&names::DNS_CONNECTIONS, &[whose], read(&counters.connections));
    }
}
