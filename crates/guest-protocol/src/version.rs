//! Which protocol versions a peer speaks.

use serde::{Deserialize, Serialize};

/// An inclusive range of protocol versions, said in every hello.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Versions {
    pub oldest: u32,
    pub newest: u32,
}

/// No version that both sides speak.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the peer speaks protocol {} to {}, this side {} to {}", .theirs.oldest, .theirs.newest, .ours.oldest, .ours.newest)]
pub struct Incompatible {
    pub ours: Versions,
    pub theirs: Versions,
}

impl Versions {
    /// What this build speaks. An agent must speak with shims two versions older and one newer.
    pub const OURS: Self = Self { oldest: 1, newest: 1 };

    /// The newest version that both sides speak.
    pub fn agree(self, theirs: Self) -> Result<u32, Incompatible> {
        let newest = self.newest.min(theirs.newest);
        if newest < self.oldest || newest < theirs.oldest {
            return Err(Incompatible { ours: self, theirs });
        }
        Ok(newest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_common_version_is_taken() {
        let versions = |oldest, newest| Versions { oldest, newest };
        assert_eq!(versions(1, 3).agree(versions(2, 5)), Ok(3));
        assert_eq!(versions(2, 5).agree(versions(1, 3)), Ok(3));
        assert!(versions(1, 2).agree(versions(3, 4)).is_err());
        assert!(versions(3, 4).agree(versions(1, 2)).is_err());
    }
}
