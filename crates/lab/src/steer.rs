//! Lab steering, not BGP: which edge a client reaches at the service address. Pure; the engine asks
//! again after every change.

use crate::address::Port;
use crate::path::Paths;

/// The living edge with the least path delay there and back; the earlier in the world on a tie.
pub fn nearest(client: Port, edges: impl IntoIterator<Item = Port>, paths: &Paths) -> Option<Port> {
    edges.into_iter().filter_map(|edge| Some((paths.round_trip(client, edge)?, edge))).min().map(|(_, edge)| edge)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::path::Path;

    const CLIENT: Port = Port(0);
    const NEAR: Port = Port(1);
    const FAR: Port = Port(2);

    fn paths() -> Paths {
        let mut paths = Paths::unconnected(3);
        for (edge, ms) in [(NEAR, 5), (FAR, 80)] {
            let path = Some(Path::delayed(Duration::from_millis(ms)));
            paths.set(CLIENT, edge, path);
            paths.set(edge, CLIENT, path);
        }
        paths
    }

    #[test]
    fn the_nearest_living_edge_is_chosen() {
        assert_eq!(nearest(CLIENT, [FAR, NEAR], &paths()), Some(NEAR));
        assert_eq!(nearest(CLIENT, [FAR], &paths()), Some(FAR));
        assert_eq!(nearest(CLIENT, [], &paths()), None);
    }

    #[test]
    fn an_edge_that_cannot_answer_is_not_chosen() {
        let mut paths = paths();
        paths.cut(NEAR, CLIENT);
        assert_eq!(nearest(CLIENT, [NEAR, FAR], &paths), Some(FAR));
        paths.heal(NEAR, CLIENT);
        paths.slow(CLIENT, NEAR, Duration::from_millis(200));
        assert_eq!(nearest(CLIENT, [NEAR, FAR], &paths), Some(FAR));
    }

    #[test]
    fn ties_go_to_the_earlier_host() {
        let mut paths = paths();
        let near = paths.effective(CLIENT, NEAR);
        paths.set(CLIENT, FAR, near);
        paths.set(FAR, CLIENT, near);
        assert_eq!(nearest(CLIENT, [FAR, NEAR], &paths), Some(NEAR));
    }
}
