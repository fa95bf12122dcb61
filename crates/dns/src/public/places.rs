//! Where networks are: a table of the operator's, as geolocation data is sold or made.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};

use atoll_model::RegionCode;

use crate::place::Position;
use crate::wire::mask;

/// Lines of a table. Twice what the largest common data sets have.
const MAX_LINES: usize = 8_000_000;

/// A line that cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {problem}; write for example \"192.0.2.0/24,52.4,4.9\" or \"2001:db8::/32,ams\"")]
pub struct InvalidPlaces {
    /// From 1 on.
    pub line: usize,
    pub problem: &'static str,
}

/// Networks with their places. The longest network that holds an address counts.
#[derive(Clone, Debug, Default)]
pub struct Places {
    by_network: HashMap<(bool, u8, u128), Position>,
    /// Lengths of networks that occur, longest first, of IPv4 and of IPv6.
    lengths: [Vec<u8>; 2],
}

fn bits(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(address) => u128::from(address.to_bits()),
        IpAddr::V6(address) => Ipv6Addr::to_bits(address),
    }
}

impl Places {
    /// Reads a table: a line for each network with its place, which is a latitude and a longitude in
    /// degrees, or a region's code. Empty lines and those that begin with `#` are passed over.
    pub fn parse(text: &str) -> Result<Self, InvalidPlaces> {
        let mut places = Self::default();
        for (index, line) in text.lines().enumerate() {
            let invalid = |problem| InvalidPlaces { line: index + 1, problem };
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            if index >= MAX_LINES {
                return Err(invalid("the table is too long"));
            }
            let mut fields = line.split(',').map(str::trim);
            let network = fields.next().and_then(network).ok_or(invalid("a network is an address, / and a length"))?;
            let rest: Vec<&str> = fields.collect();
            let position = position(&rest).ok_or(invalid("a place is a latitude and a longitude, or a region"))?;
            places.insert(network, position);
        }
        Ok(places)
    }

    fn insert(&mut self, (address, length): (IpAddr, u8), position: Position) {
        let key = (address.is_ipv4(), length, bits(mask(address, length)));
        self.by_network.insert(key, position);
        let lengths = &mut self.lengths[usize::from(address.is_ipv6())];
        if let Err(at) = lengths.binary_search_by(|known| length.cmp(known)) {
            lengths.insert(at, length);
        }
    }

    /// The place of an address of which `known` leading bits are told, and how many of them say so.
    pub fn find(&self, address: IpAddr, known: u8) -> Option<(Position, u8)> {
        let lengths = self.lengths[usize::from(address.is_ipv6())].iter().filter(|length| **length <= known);
        lengths.copied().find_map(|length| {
            let key = (address.is_ipv4(), length, bits(mask(address, length)));
            self.by_network.get(&key).map(|position| (*position, length))
        })
    }
}

fn network(text: &str) -> Option<(IpAddr, u8)> {
    let (address, length) = text.split_once('/')?;
    let (address, length): (IpAddr, u8) = (address.parse().ok()?, length.parse().ok()?);
    let longest = if address.is_ipv4() { 32 } else { 128 };
    (length <= longest).then_some((address, length))
}

fn position(fields: &[&str]) -> Option<Position> {
    match fields {
        [region] => Position::of(region.parse::<RegionCode>().ok()?),
        [latitude, longitude] => {
            let (latitude, longitude): (f64, f64) = (latitude.parse().ok()?, longitude.parse().ok()?);
            (latitude.abs() <= 90.0 && longitude.abs() <= 180.0).then(|| Position::new(latitude, longitude))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_network_that_is_told_counts() {
        let table = "# made by hand\n\n192.0.0.0/16, ams\n192.0.2.0/24,35.7,139.7\n2001:db8::/32,ord\n";
        let places = Places::parse(table).unwrap();
        let find = |address: &str, known| {
            let (position, length) = places.find(address.parse().unwrap(), known)?;
            let near = ["ams", "nrt", "ord"]
                .into_iter()
                .find(|code| Position::of(code.parse().unwrap()).unwrap().distance_km(&position) < 50.0);
            Some((near.unwrap(), length))
        };
        assert_eq!(find("192.0.2.9", 32), Some(("nrt", 24)));
        assert_eq!(find("192.0.2.9", 20), Some(("ams", 16)));
        assert_eq!(find("192.0.3.9", 32), Some(("ams", 16)));
        assert_eq!(find("2001:db8:7::1", 56), Some(("ord", 32)));
        assert_eq!(find("198.51.100.1", 32), None);
    }

    #[test]
    fn a_bad_line_is_named() {
        for bad in ["192.0.2.0", "192.0.2.0/33,ams", "192.0.2.0/24", "192.0.2.0/24,xyz", "192.0.2.0/24,91,0", "x/1,ams"]
        {
            assert_eq!(Places::parse(&format!("10.0.0.0/8,ams\n{bad}")).unwrap_err().line, 2, "{bad}");
        }
    }
}
