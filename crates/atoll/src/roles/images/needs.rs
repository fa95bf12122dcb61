//! Which images must stay: those of machines, as the agent tells, and those that are being made ready.
//! A collection begins with a fixed set of what it spares. Making ready one of these goes on beside it;
//! any other image waits until the collection has ended, so that nothing is removed under its hands.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

use atoll_images::Digest;

#[derive(Default)]
pub struct Needs {
    state: Mutex<State>,
    ended: Notify,
}

#[derive(Default)]
struct State {
    /// Unknown until the agent has read all its machines' records: until then nothing is collected.
    pinned: Option<HashSet<Digest>>,
    /// Not pinned any more, and their age not begun yet.
    released: HashSet<Digest>,
    /// How many make each image ready.
    in_hand: HashMap<Digest, usize>,
    /// What the collection under way spares.
    spared: Option<HashSet<Digest>>,
}

impl Needs {
    /// What machines need from now on.
    pub fn pin(&self, digests: HashSet<Digest>) {
        let mut state = self.lock();
        let before = state.pinned.take().unwrap_or_default();
        state.released.extend(before.difference(&digests));
        state.pinned = Some(digests);
    }

    pub fn is_pinned(&self, image: &Digest) -> bool {
        self.lock().pinned.as_ref().is_some_and(|pinned| pinned.contains(image))
    }

    /// Waits until no collection could take the image; none can while the answer lives.
    pub async fn hold(self: &Arc<Self>, image: Digest) -> InHand {
        loop {
            let mut ended = std::pin::pin!(self.ended.notified());
            // From here on an end is not missed.
            ended.as_mut().enable();
            {
                let mut state = self.lock();
                if state.spared.as_ref().is_none_or(|spared| spared.contains(&image)) {
                    *state.in_hand.entry(image).or_default() += 1;
                    return InHand { needs: self.clone(), image };
                }
            }
            ended.await;
        }
    }

    /// Begins a collection, unless it is not known yet what machines need.
    pub fn begin_collection(self: &Arc<Self>) -> Option<Collection> {
        let mut state = self.lock();
        let mut spared = state.pinned.clone()?;
        spared.extend(state.in_hand.keys());
        state.spared = Some(spared.clone());
        Some(Collection { spared, released: std::mem::take(&mut state.released), needs: self.clone() })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Every change is whole before anything can panic.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// An image that is being made ready.
pub struct InHand {
    needs: Arc<Needs>,
    image: Digest,
}

impl Drop for InHand {
    fn drop(&mut self) {
        let mut state = self.needs.lock();
        if let Some(count) = state.in_hand.get_mut(&self.image) {
            *count -= 1;
            if *count == 0 {
                state.in_hand.remove(&self.image);
            }
        }
    }
}

/// A collection under way; it ends when this is dropped.
pub struct Collection {
    pub spared: HashSet<Digest>,
    /// Needed by machines until some time after the last collection: their age begins now.
    pub released: HashSet<Digest>,
    needs: Arc<Needs>,
}

impl Drop for Collection {
    fn drop(&mut self) {
        self.needs.lock().spared = None;
        self.needs.ended.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn image(name: &str) -> Digest {
        Digest::of(name.as_bytes())
    }

    #[test]
    fn nothing_is_collected_before_the_machines_are_known() {
        let needs = Arc::new(Needs::default());
        assert!(needs.begin_collection().is_none());
        needs.pin(HashSet::from([image("a")]));
        assert_eq!(needs.begin_collection().unwrap().spared, [image("a")].into());
    }

    #[test]
    fn what_machines_no_longer_need_is_released_once() {
        let needs = Arc::new(Needs::default());
        needs.pin(HashSet::from([image("a"), image("b")]));
        needs.pin(HashSet::from([image("b")]));
        needs.pin(HashSet::from([image("b")]));
        let first = needs.begin_collection().unwrap();
        assert_eq!((&first.released, &first.spared), (&[image("a")].into(), &[image("b")].into()));
        drop(first);
        assert_eq!(needs.begin_collection().unwrap().released, [].into());
    }

    #[tokio::test]
    async fn a_collection_spares_what_is_in_hand_and_others_wait_for_its_end() {
        let needs = Arc::new(Needs::default());
        needs.pin(HashSet::from([image("pinned")]));
        let in_hand = needs.hold(image("pulled")).await;
        let collection = needs.begin_collection().unwrap();
        assert_eq!(collection.spared, [image("pinned"), image("pulled")].into());
        // Both go on beside it.
        drop(needs.hold(image("pinned")).await);
        drop(needs.hold(image("pulled")).await);
        drop(in_hand);

        let other = tokio::spawn({
            let needs = needs.clone();
            async move { drop(needs.hold(image("other")).await) }
        });
        tokio::task::yield_now().await;
        assert!(!other.is_finished(), "it did not wait");
        drop(collection);
        tokio::time::timeout(Duration::from_secs(10), other).await.unwrap().unwrap();
    }
}
