//! How far each server's processes have come with control's rows, as they said themselves. Other than a lease,
//! a word is kept when its process is gone: what it went by last is what it may come back with.

use std::collections::BTreeMap;

use atoll_model::row::Reader;
use atoll_model::{NodeName, Owner, RowKey, RowVersion};

use super::hub::SessionId;
use super::message::{Ack, MAX_LISTED_REFUSALS, Positions};

/// One entry for each process of a server that ever joined.
#[derive(Default)]
pub struct Account {
    words: BTreeMap<(NodeName, Reader), Word>,
}

struct Word {
    session: SessionId,
    position: Option<RowVersion>,
    /// Unknown until the session's first acknowledgement, or when there are too many.
    refused: Option<Vec<RowKey>>,
}

impl Account {
    /// A process opened a watch, or asked again on the same one.
    pub fn opened(&mut self, node: &NodeName, reader: Reader, session: SessionId, positions: &Positions) {
        let key = (node.clone(), reader);
        let refused = self.words.remove(&key).filter(|known| known.session == session).and_then(|known| known.refused);
        let position = positions.get(&Owner::Control).copied();
        self.words.insert(key, Word { session, position, refused });
    }

    /// Whatever an earlier session says late is not the process of now.
    pub fn acknowledged(&mut self, node: &NodeName, reader: Reader, session: SessionId, ack: &Ack) {
        let word = self.words.get_mut(&(node.clone(), reader)).filter(|word| word.session == session);
        let Some(word) = word else { return };
        word.position = ack.positions.get(&Owner::Control).copied().or(word.position);
        word.refused = Some(ack.refused.clone()).filter(|listed| listed.len() <= MAX_LISTED_REFUSALS);
    }

    /// Whether the process goes by control's write of a row, or by a later one.
    pub fn goes_by(&self, node: &NodeName, reader: Reader, key: &RowKey, version: RowVersion) -> bool {
        self.words.get(&(node.clone(), reader)).is_some_and(|word| {
            word.position >= Some(version) && word.refused.as_ref().is_some_and(|refused| !refused.contains(key))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(sequence: u64) -> RowVersion {
        RowVersion { epoch: 1, sequence }
    }

    fn positions(sequence: u64) -> Positions {
        Positions::from([(Owner::Control, at(sequence))])
    }

    fn ack(sequence: u64, refused: &[RowKey]) -> Ack {
        Ack { positions: positions(sequence), refused: refused.to_vec(), lease: None }
    }

    #[test]
    fn a_process_goes_by_what_it_acknowledged_last() {
        let (node, key) = (&"ams1".parse().unwrap(), &RowKey::Challenge("web.apps.test".into()));
        let (first, second) = (SessionId(1), SessionId(2));
        let mut account = Account::default();
        let has = |account: &Account, sequence| account.goes_by(node, Reader::Net, key, at(sequence));
        account.opened(node, Reader::Net, first, &positions(7));
        assert!(!has(&account, 7), "what it refused is not known yet");
        account.acknowledged(node, Reader::Net, first, &ack(8, &[]));
        assert!(has(&account, 8) && !has(&account, 9));
        assert!(!account.goes_by(node, Reader::Edge, key, at(1)), "of another process nothing is known");
        account.acknowledged(node, Reader::Net, first, &Ack::default());
        assert!(has(&account, 8), "nothing moved");
        account.acknowledged(node, Reader::Net, first, &ack(9, std::slice::from_ref(key)));
        assert!(!has(&account, 9), "it refused the row");

        // Another process, on what was kept on disk.
        account.acknowledged(node, Reader::Net, first, &ack(9, &[]));
        account.opened(node, Reader::Net, second, &positions(3));
        account.acknowledged(node, Reader::Net, first, &ack(10, &[]));
        account.acknowledged(node, Reader::Net, second, &Ack::default());
        assert!(has(&account, 3) && !has(&account, 4));
    }
}
