//! Makes the interfaces of this process.

use std::io::ErrorKind;
use std::time::{Duration, Instant};

use atoll_mesh::{Made, MeshError, PrivateKey, Settings, kernel, link_mtu};

/// What links between servers nearly always carry.
const UNDERLAY_MTU: u16 = 1500;
/// The process of an earlier start may be ending still: it gives its lock up first, then its interfaces, which
/// take their time, and then its ports.
const PORT_FREE_WITHIN: Duration = Duration::from_secs(5);
const PORT_TRIED_EVERY: Duration = Duration::from_millis(20);

/// The largest packet of a link whose ways are not measured yet.
pub fn mtu() -> u16 {
    link_mtu(UNDERLAY_MTU)
}

/// None where this host has no such links at all: `without` says what that means.
pub fn make(link: &str, port: u16, private_key: &PrivateKey, without: &str) -> anyhow::Result<Option<Made>> {
    let settings = Settings { link: link.to_owned(), listen_port: port, mtu: mtu(), private_key: private_key.clone() };
    kernel::delete_leftover(link)?;
    let began = Instant::now();
    loop {
        match atoll_mesh::make(&settings) {
            Ok(made) => return Ok(Some(made)),
            Err(error @ MeshError::Link { .. }) => {
                tracing::error!(error = &error as &dyn std::error::Error, "{without}");
                return Ok(None);
            }
            Err(MeshError::Listen { source, .. })
                if source.kind() == ErrorKind::AddrInUse && began.elapsed() < PORT_FREE_WITHIN =>
            {
                std::thread::sleep(PORT_TRIED_EVERY);
            }
            Err(error) => return Err(error.into()),
        }
    }
}
