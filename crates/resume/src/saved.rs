//! Tickets on disk. The caller seals these bytes: they hold secrets.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use crate::ticket::Ticket;

/// All tickets of an initiator, of one run of its host: their times mean nothing in another.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Saved {
    /// The id that the kernel chose when the host started.
    boot: String,
    tickets: Vec<Ticket>,
}

impl Saved {
    pub fn new<'a>(boot: &str, tickets: impl IntoIterator<Item = &'a Ticket>) -> Self {
        Self { boot: boot.to_owned(), tickets: tickets.into_iter().cloned().collect() }
    }

    /// # Errors
    /// Never, as all that is in it can be written.
    pub fn encode(&self) -> Result<Zeroizing<Vec<u8>>, serde_json::Error> {
        serde_json::to_vec(self).map(Zeroizing::new)
    }

    /// Those that are still good.
    ///
    /// # Errors
    /// If the bytes are something else.
    pub fn decode(bytes: &[u8], boot: &str, now: Duration) -> Result<Vec<Ticket>, serde_json::Error> {
        let saved: Self = serde_json::from_slice(bytes)?;
        let same = saved.boot == boot;
        Ok(saved.tickets.into_iter().filter(|ticket| same && ticket.is_good(now)).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::party::Party;
    use crate::ticket::{Grant, TICKET_LIFE};

    #[test]
    fn a_ticket_outlives_its_process_but_neither_its_time_nor_its_host() {
        let responder = Party { node: "nrt1".parse().unwrap(), mesh_key: [2; 32] };
        let address = "192.0.2.1:51822".parse().unwrap();
        let asked = Duration::from_secs(1000);
        let ticket = Ticket::new(Grant::new(&[7; 48]), responder, address, asked);
        let bytes = Saved::new("one boot", [&ticket]).encode().unwrap();
        let read = |boot, now| Saved::decode(&bytes, boot, now).unwrap();
        assert_eq!(read("one boot", asked).first(), Some(&ticket));
        assert_eq!(read("one boot", asked + TICKET_LIFE - Duration::from_millis(1)), [ticket]);
        assert_eq!(read("one boot", asked + TICKET_LIFE), []);
        assert_eq!(read("another boot", asked), []);
        assert_eq!(read("one boot", Duration::ZERO), [], "given in the future");
        assert!(Saved::decode(b"{}", "one boot", asked).is_err());
    }

    #[test]
    fn a_secret_is_not_shown() {
        let grant = Grant::new(&[0xab; 48]);
        assert!(
            !format!("{grant:?}")
                .contains("171, 171, 171, 171, 171, 171, 171, 171, 171, 171, 171, 171, 171, 171, 171, 171, 171")
        );
        assert!(format!("{:?}", grant.secret).contains(".."));
    }
}
