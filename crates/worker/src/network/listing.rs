//! Takes apart what `nft --json list set` and `list map` write. Pure.

use serde::Deserialize;
use serde::de::{DeserializeOwned, Error};

/// What a set or map holds; of a map as pairs.
///
/// # Errors
/// If this is no listing of a set, or its elements are of another kind.
pub fn elements<E: DeserializeOwned>(listing: &[u8]) -> serde_json::Result<Vec<E>> {
    let listing: Listing<E> = serde_json::from_slice(listing)?;
    let set = listing.nftables.into_iter().find_map(|object| object.set);
    set.map(|set| set.elem).ok_or_else(|| serde_json::Error::custom("nft lists no set"))
}

#[derive(Deserialize)]
struct Listing<E> {
    nftables: Vec<Object<E>>,
}

#[derive(Deserialize)]
struct Object<E> {
    #[serde(alias = "map")]
    set: Option<Set<E>>,
}

#[derive(Deserialize)]
struct Set<E> {
    /// Left out of the listing of an empty set.
    #[serde(default = "Vec::new")]
    elem: Vec<E>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_listing_is_one_set_with_elements_or_none() {
        let full = br#"{"nftables": [{"metainfo": {"version": "1"}}, {"set": {"name": "a", "elem": ["x", "y"]}}]}"#;
        assert_eq!(elements::<String>(full).unwrap(), ["x", "y"]);
        let empty = br#"{"nftables": [{"metainfo": {"version": "1"}}, {"set": {"name": "a"}}]}"#;
        assert!(elements::<String>(empty).unwrap().is_empty());
        let map = br#"{"nftables": [{"map": {"name": "a", "map": "ipv4_addr", "elem": [["x", "192.0.2.1"]]}}]}"#;
        assert_eq!(elements::<(String, String)>(map).unwrap(), [("x".to_owned(), "192.0.2.1".to_owned())]);
        for wrong in [br#"{"nftables": [{"metainfo": {}}]}"#.as_slice(), b"{}", b""] {
            assert!(elements::<String>(wrong).is_err());
        }
        assert!(elements::<u32>(full).is_err());
    }
}
