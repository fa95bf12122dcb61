//! Regions: three-letter codes with a place. The table holds the codes that users of Fly.io know,
//! retired ones included, so that an operator in one of those cities needs no configuration.

use std::fmt;
use std::str::FromStr;

use serde::Serialize;

use crate::ids::{InvalidId, serde_as_text};

/// A region's code, three lower-case letters. Being well formed does not make it known: see
/// [`RegionCode::place`].
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RegionCode([u8; 3]);

impl RegionCode {
    pub fn as_str(&self) -> &str {
        // Only ASCII letters are ever stored.
        std::str::from_utf8(&self.0).unwrap_or_default()
    }

    /// The known place of this code.
    pub fn place(&self) -> Option<&'static Region> {
        REGIONS.iter().find(|region| region.code == self.as_str())
    }
}

impl fmt::Display for RegionCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for RegionCode {
    type Err = InvalidId;

    fn from_str(text: &str) -> Result<Self, InvalidId> {
        match *text.as_bytes() {
            [a, b, c] if [a, b, c].iter().all(u8::is_ascii_lowercase) => Ok(Self([a, b, c])),
            _ => Err(InvalidId::new("region", text, "three letters such as \"ams\", \"nrt\" or \"ord\"")),
        }
    }
}
serde_as_text!(RegionCode);

/// Continents as the platform API names them.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum GeoRegion {
    Africa,
    AsiaPacific,
    Europe,
    NorthAmerica,
    SouthAmerica,
}

/// A known region: code, city, coordinates in degrees.
#[derive(Clone, Copy, Debug)]
pub struct Region {
    pub code: &'static str,
    pub city: &'static str,
    pub latitude: f64,
    pub longitude: f64,
    pub geo: GeoRegion,
    /// Member of the alias `us`, besides its continent's.
    pub in_us: bool,
}

const fn region(
    code: &'static str,
    city: &'static str,
    latitude: f64,
    longitude: f64,
    geo: GeoRegion,
    in_us: bool,
) -> Region {
    Region { code, city, latitude, longitude, geo, in_us }
}

use GeoRegion::{Africa, AsiaPacific, Europe, NorthAmerica, SouthAmerica};

/// All known regions, sorted by code. Coordinates are rounded to a tenth of a degree.
pub const REGIONS: &[Region] = &[
    region("ams", "Amsterdam, Netherlands", 52.4, 4.9, Europe, false),
    region("arn", "Stockholm, Sweden", 59.3, 18.1, Europe, false),
    region("atl", "Atlanta, Georgia (US)", 33.7, -84.4, NorthAmerica, true),
    region("blr", "Bangalore, India", 13.0, 77.6, AsiaPacific, false),
    region("bog", "Bogotá, Colombia", 4.7, -74.1, SouthAmerica, false),
    region("bom", "Mumbai, India", 19.1, 72.9, AsiaPacific, false),
    region("bos", "Boston, Massachusetts (US)", 42.4, -71.1, NorthAmerica, true),
    region("cdg", "Paris, France", 48.9, 2.4, Europe, false),
    region("den", "Denver, Colorado (US)", 39.7, -105.0, NorthAmerica, true),
    region("dfw", "Dallas, Texas (US)", 32.8, -96.8, NorthAmerica, true),
    region("ewr", "Secaucus, New Jersey (US)", 40.8, -74.1, NorthAmerica, true),
    region("eze", "Buenos Aires, Argentina", -34.8, -58.5, SouthAmerica, false),
    region("fra", "Frankfurt, Germany", 50.1, 8.7, Europe, false),
    region("gdl", "Guadalajara, Mexico", 20.7, -103.3, NorthAmerica, false),
    region("gig", "Rio de Janeiro, Brazil", -22.9, -43.2, SouthAmerica, false),
    region("gru", "São Paulo, Brazil", -23.5, -46.6, SouthAmerica, false),
    region("hkg", "Hong Kong", 22.3, 114.2, AsiaPacific, false),
    region("iad", "Ashburn, Virginia (US)", 39.0, -77.5, NorthAmerica, true),
    region("jnb", "Johannesburg, South Africa", -26.2, 28.0, Africa, false),
    region("lax", "Los Angeles, California (US)", 34.1, -118.2, NorthAmerica, true),
    region("lhr", "London, United Kingdom", 51.5, -0.1, Europe, false),
    region("maa", "Chennai, India", 13.1, 80.3, AsiaPacific, false),
    region("mad", "Madrid, Spain", 40.4, -3.7, Europe, false),
    region("mia", "Miami, Florida (US)", 25.8, -80.2, NorthAmerica, true),
    region("nrt", "Tokyo, Japan", 35.7, 139.7, AsiaPacific, false),
    region("ord", "Chicago, Illinois (US)", 41.9, -87.6, NorthAmerica, true),
    region("otp", "Bucharest, Romania", 44.4, 26.1, Europe, false),
    region("phx", "Phoenix, Arizona (US)", 33.4, -112.1, NorthAmerica, true),
    region("qro", "Querétaro, Mexico", 20.6, -100.4, NorthAmerica, false),
    region("scl", "Santiago, Chile", -33.4, -70.7, SouthAmerica, false),
    region("sea", "Seattle, Washington (US)", 47.6, -122.3, NorthAmerica, true),
    region("sin", "Singapore", 1.3, 103.8, AsiaPacific, false),
    region("sjc", "San Jose, California (US)", 37.3, -121.9, NorthAmerica, true),
    region("syd", "Sydney, Australia", -33.9, 151.2, AsiaPacific, false),
    region("waw", "Warsaw, Poland", 52.2, 21.0, Europe, false),
    region("yul", "Montreal, Canada", 45.5, -73.6, NorthAmerica, false),
    region("yyz", "Toronto, Canada", 43.7, -79.4, NorthAmerica, false),
];

/// One element of a region expression such as `"ord,us,any"`, resolved in order.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum RegionTerm {
    Code(RegionCode),
    Continent(GeoRegion),
    UnitedStates,
    Any,
}

impl RegionTerm {
    /// Whether a region is meant by this term.
    pub fn matches(&self, code: RegionCode) -> bool {
        match self {
            Self::Code(wanted) => *wanted == code,
            Self::Continent(geo) => code.place().is_some_and(|place| place.geo == *geo),
            Self::UnitedStates => code.place().is_some_and(|place| place.in_us),
            Self::Any => true,
        }
    }
}

/// A region expression: comma-separated codes, the aliases `apac eu na sa us usa`, and `any`.
pub fn parse_expression(text: &str) -> Result<Vec<RegionTerm>, InvalidId> {
    text.split(',')
        .map(|term| match term.trim() {
            "any" => Ok(RegionTerm::Any),
            "apac" => Ok(RegionTerm::Continent(AsiaPacific)),
            "eu" => Ok(RegionTerm::Continent(Europe)),
            "na" => Ok(RegionTerm::Continent(NorthAmerica)),
            "sa" => Ok(RegionTerm::Continent(SouthAmerica)),
            "us" | "usa" => Ok(RegionTerm::UnitedStates),
            code => code.parse().map(RegionTerm::Code),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_sorted_and_well_formed() {
        assert!(REGIONS.is_sorted_by_key(|region| region.code));
        for region in REGIONS {
            let code: RegionCode = region.code.parse().unwrap();
            assert_eq!(code.place().unwrap().city, region.city);
            assert!(region.latitude.abs() <= 90.0 && region.longitude.abs() <= 180.0);
        }
    }

    #[test]
    fn unknown_codes_parse_but_have_no_place() {
        assert!("xyz".parse::<RegionCode>().unwrap().place().is_none());
        for bad in ["", "am", "amst", "AMS", "a1s"] {
            assert!(bad.parse::<RegionCode>().is_err(), "{bad} was accepted");
        }
    }

    #[test]
    fn expressions_resolve_in_order() {
        let terms = parse_expression("ord, us,any").unwrap();
        let lax: RegionCode = "lax".parse().unwrap();
        assert!(!terms[0].matches(lax) && terms[1].matches(lax) && terms[2].matches(lax));
        assert!(parse_expression("ord,,us").is_err());
    }
}
