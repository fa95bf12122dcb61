//! Which machines are near: measured round trips where there are any, else distances on the globe.

use atoll_model::row::MachineRow;

use super::view::View;
use crate::place::Position;

/// What a machine in this region takes whose node was never probed.
const SAME_REGION_MS: f64 = 1.0;
/// What one takes of which not even the place is known.
const UNKNOWN_MS: f64 = 1000.0;

/// The expected round trip to a machine, in milliseconds.
fn round_trip_ms(view: &View, machine: &MachineRow) -> f64 {
    if machine.node == view.here.node {
        return 0.0;
    }
    if let Some(measured) = view.reach.round_trip(&machine.node) {
        return measured.as_secs_f64() * 1e3;
    }
    if machine.region == view.here.region {
        return SAME_REGION_MS;
    }
    match (Position::of(view.here.region), Position::of(machine.region)) {
        (Some(here), Some(there)) => SAME_REGION_MS + here.round_trip_ms(&there),
        _ => UNKNOWN_MS,
    }
}

/// The machines, nearest first; those at the same distance keep their order.
pub(super) fn nearest_first(view: &View, machines: &mut [&MachineRow]) {
    machines.sort_by_cached_key(|machine| {
        // Whole microseconds: floats have no order that sorts.
        (round_trip_ms(view, machine) * 1e3) as u64
    });
}
