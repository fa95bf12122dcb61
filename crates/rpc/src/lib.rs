//! How Atoll's processes talk: gRPC contracts, the certificate authority, and mutual TLS with
//! identities instead of addresses. This crate moves messages between proven peers; it does not know
//! what callers do with them.

pub mod authorities;
pub mod ca;
pub mod channel;
pub mod contract;
pub mod files;
pub mod identity;
pub mod join_token;
pub mod rotation;
pub mod server;
pub mod stream;
pub mod tls;
pub mod trust;

/// Generated from `proto/atoll/*.proto`.
pub mod proto {
    pub mod catalogue {
        tonic::include_proto!("atoll.catalogue.v1");
    }
    pub mod control {
        tonic::include_proto!("atoll.control.v1");
    }
    pub mod mesh {
        tonic::include_proto!("atoll.mesh.v1");
    }
    pub mod place {
        tonic::include_proto!("atoll.place.v1");
    }
    pub mod worker {
        tonic::include_proto!("atoll.worker.v1");
    }
}
