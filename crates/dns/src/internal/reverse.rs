//! Names of addresses: `ip6.arpa` for the caller's own network.

use std::net::{IpAddr, Ipv6Addr};

use atoll_model::address::{MACHINE_DNS, NetworkId, network_of};

use super::answer::Answer;
use super::view::View;
use crate::wire::{Name, Type};

/// Hex digits of a whole address.
const NIBBLES: usize = 32;
/// Where names of all 6PN addresses are, `fdaa::/16`.
const ZONE: [&[u8]; 6] = [b"a", b"a", b"d", b"f", b"ip6", b"arpa"];

/// Answers names of 6PN addresses; all others are elsewhere.
pub(super) fn answer(view: &View, caller: NetworkId, name: &Name, kind: Type) -> Answer {
    let above = name.label_count().saturating_sub(ZONE.len());
    if !name.labels().skip(above).eq(ZONE) {
        return Answer::Elsewhere;
    }
    match address_of(name) {
        None => Answer::NoSuchName,
        // Names above addresses have nothing of their own; that some may be empty is nobody's concern.
        Some((_, digits)) if digits < NIBBLES => Answer::NoData,
        Some((bits, _)) => match pointer(view, caller, Ipv6Addr::from_bits(bits)) {
            None => Answer::NoSuchName,
            Some(name) if matches!(kind, Type::PTR | Type::ANY) => Answer::Pointer(Box::new(name)),
            Some(_) => Answer::NoData,
        },
    }
}

/// The address that an `ip6.arpa` name spells, as far as it does, and how many digits it gives.
fn address_of(name: &Name) -> Option<(u128, usize)> {
    // Two labels are no digits: `ip6` and `arpa`.
    let count = name.label_count().checked_sub(2).filter(|count| *count <= NIBBLES)?;
    let mut bits = 0;
    for (index, label) in name.labels().take(count).enumerate() {
        let digit = match label {
            [digit] => char::from(*digit).to_digit(16)?,
            _ => return None,
        };
        // The leftmost label is the last digit that is given.
        bits |= u128::from(digit) << (4 * (NIBBLES - count + index));
    }
    Some((bits, count))
}

fn pointer(view: &View, caller: NetworkId, address: Ipv6Addr) -> Option<Name> {
    if address == MACHINE_DNS {
        return "_dns.internal".parse().ok();
    }
    if network_of(address) != Some(caller) {
        return None;
    }
    if let Some(machine) = view.catalogue.machine_by_address(address)
        && machine.network == caller
        && !machine.skip_dns
    {
        return format!("{}.vm.{}.internal", machine.id, machine.app).parse().ok();
    }
    if let Some(app) = view.catalogue.app_by_address(IpAddr::V6(address)) {
        return format!("{}.flycast", app.name).parse().ok();
    }
    let device = view.catalogue.device_by_address(address)?;
    format!("{}._peer.internal", device.name).parse().ok()
}
