//! What can go wrong with the mesh, by operation.

use std::io;

use crate::key::PublicKey;

#[derive(Debug, thiserror::Error)]
pub enum MeshError {
    #[error("{0:?} cannot name a link: 1 to 15 bytes without slash and space")]
    LinkName(String),
    #[error("make link {link}")]
    Link {
        link: String,
        #[source]
        source: io::Error,
    },
    #[error("listen on UDP port {port}")]
    Listen {
        port: u16,
        #[source]
        source: io::Error,
    },
    #[error("start the threads of link {link}")]
    Start {
        link: String,
        #[source]
        source: io::Error,
    },
    /// The kernel refused a change or an answer could not be read.
    #[error("{operation} of link {link}")]
    Kernel {
        operation: &'static str,
        link: String,
        #[source]
        source: io::Error,
    },
    /// A worker thread gave up; the link carries nothing until it is opened again.
    #[error("link {link} has stopped: {reason}")]
    Stopped { link: String, reason: String },
    #[error("there is no peer {0}")]
    UnknownPeer(PublicKey),
    #[error("{0} is this node's own key, which cannot be a peer")]
    OwnKey(PublicKey),
    #[error("peer {0} is named twice")]
    Twice(PublicKey),
    #[error("more than {limit} {what}")]
    TooMany { what: &'static str, limit: usize },
}
