//! Where cities are and how long light takes between them. Pure; knows nothing of hosts or links.

use std::time::Duration;

use atoll_model::region::REGIONS;

/// Light in fibre: two thirds of its speed in vacuum, in km/s.
const FIBRE_KM_PER_S: f64 = 299_792.458 * 2.0 / 3.0;
const EARTH_RADIUS_KM: f64 = 6_371.0;

/// A point on the globe, in degrees.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Place {
    pub latitude: f64,
    pub longitude: f64,
}

/// Cities for clients, besides the platform's regions. Coordinates are rounded to a tenth of a degree.
const CITIES: &[(&str, f64, f64)] = &[
    ("Auckland", -36.8, 174.8),
    ("Berlin", 52.5, 13.4),
    ("Cape Town", -33.9, 18.4),
    ("Chicago", 41.9, -87.6),
    ("Dubai", 25.2, 55.3),
    ("London", 51.5, -0.1),
    ("Mumbai", 19.1, 72.9),
    ("New York", 40.7, -74.0),
    ("Osaka", 34.7, 135.5),
    ("Paris", 48.9, 2.4),
    ("San Francisco", 37.8, -122.4),
    ("Sao Paulo", -23.5, -46.6),
    ("Seoul", 37.6, 127.0),
    ("Sydney", -33.9, 151.2),
    ("Toronto", 43.7, -79.4),
    ("Warsaw", 52.2, 21.0),
];

/// The place of a region code (`"ams"`) or of a city (`"New York"`, in any case).
pub fn find(name: &str) -> Option<Place> {
    let region = REGIONS
        .iter()
        .find(|region| region.code == name)
        .map(|region| Place { latitude: region.latitude, longitude: region.longitude });
    region.or_else(|| {
        CITIES
            .iter()
            .find(|(city, ..)| city.eq_ignore_ascii_case(name))
            .map(|&(_, latitude, longitude)| Place { latitude, longitude })
    })
}

/// Great-circle distance in kilometres.
pub fn distance_km(a: Place, b: Place) -> f64 {
    let (lat_a, lat_b) = (a.latitude.to_radians(), b.latitude.to_radians());
    let half_lat = (lat_b - lat_a) / 2.0;
    let half_lon = (b.longitude - a.longitude).to_radians() / 2.0;
    // The haversine stays exact for near points, where the cosine rule loses its digits.
    let h = half_lat.sin().powi(2) + lat_a.cos() * lat_b.cos() * half_lon.sin().powi(2);
    2.0 * EARTH_RADIUS_KM * h.min(1.0).sqrt().asin()
}

/// One-way delay between two places whose cables are `path_factor` times longer than the great circle.
pub fn delay(a: Place, b: Place, path_factor: f64) -> Duration {
    Duration::from_secs_f64(distance_km(a, b) * path_factor / FIBRE_KM_PER_S)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn between(a: &str, b: &str) -> f64 {
        distance_km(find(a).unwrap(), find(b).unwrap())
    }

    #[test]
    fn known_distances_hold() {
        for (a, b, km) in [("ams", "nrt", 9_300.0), ("ams", "ord", 6_620.0), ("Berlin", "ams", 577.0)] {
            let got = between(a, b);
            assert!((got - km).abs() < km * 0.02, "{a} to {b}: {got:.0} km, expected about {km}");
        }
        assert_eq!(between("ams", "ams"), 0.0);
        assert_eq!(between("Osaka", "ord"), between("ord", "Osaka"));
    }

    #[test]
    fn delay_follows_distance_and_path_factor() {
        let (ams, nrt) = (find("ams").unwrap(), find("nrt").unwrap());
        let straight = delay(ams, nrt, 1.0).as_secs_f64() * 1e3;
        assert!((46.0..48.0).contains(&straight), "{straight} ms");
        let real = delay(ams, nrt, 1.6).as_secs_f64() * 1e3;
        assert!((real / straight - 1.6).abs() < 1e-6);
    }

    #[test]
    fn opposite_points_are_half_a_turn_apart() {
        let half = distance_km(Place { latitude: 0.0, longitude: 0.0 }, Place { latitude: 0.0, longitude: 180.0 });
        assert!((half - std::f64::consts::PI * EARTH_RADIUS_KM).abs() < 0.1);
    }

    #[test]
    fn names_are_region_codes_or_cities() {
        assert!(find("new york").is_some() && find("fra").is_some());
        assert!(find("Atlantis").is_none() && find("").is_none());
    }
}
