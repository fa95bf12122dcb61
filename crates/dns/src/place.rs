//! Places on the globe: what is near what, when nothing has been measured.

use atoll_model::RegionCode;

const EARTH_RADIUS_KM: f64 = 6371.0;
/// Light in fibre, there and back, on ways half as long again as the straight one.
const KM_PER_ROUND_TRIP_MS: f64 = 100.0 / 1.5;

/// A point on the unit sphere, so that comparing distances takes a few multiplications.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Position([f64; 3]);

impl Position {
    /// From degrees.
    pub fn new(latitude: f64, longitude: f64) -> Self {
        let (latitude, longitude) = (latitude.to_radians(), longitude.to_radians());
        Self([latitude.cos() * longitude.cos(), latitude.cos() * longitude.sin(), latitude.sin()])
    }

    /// Of a region that is known.
    pub fn of(region: RegionCode) -> Option<Self> {
        region.place().map(|place| Self::new(place.latitude, place.longitude))
    }

    /// Grows as the distance shrinks: 1 at the same place, −1 on the other side of the globe.
    pub fn nearness(&self, other: &Self) -> f64 {
        self.0.iter().zip(&other.0).map(|(a, b)| a * b).sum()
    }

    /// Along the great circle.
    pub fn distance_km(&self, other: &Self) -> f64 {
        self.nearness(other).clamp(-1.0, 1.0).acos() * EARTH_RADIUS_KM
    }

    /// What a round trip to the other place should take, in milliseconds.
    pub fn round_trip_ms(&self, other: &Self) -> f64 {
        self.distance_km(other) / KM_PER_ROUND_TRIP_MS
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distances_are_those_of_the_globe() {
        let place = |code: &str| Position::of(code.parse().unwrap()).unwrap();
        let (amsterdam, tokyo, chicago) = (place("ams"), place("nrt"), place("ord"));
        assert!((amsterdam.distance_km(&tokyo) - 9_300.0).abs() < 200.0);
        assert!(amsterdam.nearness(&chicago) > amsterdam.nearness(&tokyo));
        assert!(amsterdam.distance_km(&amsterdam) < 1.0);
    }
}
