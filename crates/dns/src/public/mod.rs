//! The platform's own zones, for everybody: the app domain, and zones that customers delegate. Names are
//! those by which edges know apps; an app's addresses are its own, or those that all apps share, or those
//! of the nearest edges. Secondaries are told of changes and given whole zones; answers are signed as they
//! are given.

mod answer;
mod changes;
mod edges;
mod lookup;
mod places;
mod responder;
mod sign;
mod transfer;
mod zone;

pub use changes::follow;
pub use places::{InvalidPlaces, Places};
pub use responder::Public;
pub use sign::{InvalidKey, Signer};
pub use zone::{Kind, NameServer, View, Zone};

#[cfg(test)]
mod tests;
