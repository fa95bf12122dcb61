//! What was dropped, and why. Counted where it happens, without locks.

use std::sync::atomic::{AtomicU64, Ordering};

macro_rules! counters {
    ($($(#[$doc:meta])* $name:ident,)*) => {
        /// Counted since the link was opened.
        #[derive(Debug, Default)]
        pub struct Counters { $($(#[$doc])* pub(super) $name: AtomicU64,)* }

        /// A reading of [`Counters`].
        #[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
        pub struct Dropped { $($(#[$doc])* pub $name: u64,)* }

        impl Counters {
            pub fn read(&self) -> Dropped {
                Dropped { $($name: self.$name.load(Ordering::Relaxed),)* }
            }
        }

        impl Dropped {
            /// Name and count of each, for metrics.
            pub fn named(&self) -> Vec<(&'static str, u64)> {
                vec![$((stringify!($name), self.$name),)*]
            }
        }
    };
}

counters! {
    /// Datagrams that are none of the protocol.
    malformed,
    /// Datagrams that name a session that is not there.
    unknown_session,
    /// Handshakes by somebody who is no peer, or who does not know our key.
    unknown_peer,
    /// Datagrams that claimed to be a peer's and are not: forged, repeated or far too late.
    rejected,
    /// Handshakes that were answered with a cookie, as there were too many.
    challenged,
    /// Packets of a peer from an address that is not allowed to it.
    spoofed,
    /// Packets into the link whose destination is no peer's.
    no_route,
    /// Packets for a peer that is not known to be anywhere.
    no_endpoint,
    /// What the kernel did not take, by socket or interface.
    not_sent,
}

pub(super) fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}
