//! Images: a content store by digest, names, import, unpacking, our registry and pulls from others.
//!
//! This crate knows nothing of machines. It gives a worker folders to mount and a summary of what an
//! image says about itself; what runs from them is somebody else's.
//!
//! Everything that comes in is treated as hostile: content is verified against its digest while it
//! streams, layers are parsed strictly and written confined to their folder, and every size has a
//! bound. What is refused leaves nothing behind.

mod digest;
mod ensure;
pub mod fuzz;
mod image;
mod import;
mod layer;
mod manifest;
mod pull;
mod reference;
pub mod registry;
mod source;
mod store;
pub mod task;
#[cfg(test)]
mod test_images;

pub use self::{
    digest::{Digest, Hasher, InvalidDigest},
    ensure::{EnsureError, UnpackedImage, ensure_image},
    image::{ExposedPort, Image, ImageConfig, ImageError},
    import::{ImportError, Imported, import_archive, import_path},
    layer::{
        Exceeded, InvalidPath, InvalidPax, LayerError, LayerSummary, Refusal, TapeError, UnpackLimits, WriteError,
    },
    manifest::{Descriptor, Document, Index, InvalidManifest, Manifest, Platform},
    pull::{Login, PullError, PullOptions, Puller},
    reference::{ImageReference, InvalidReference, RegistryHost, Repository, Tag, Target},
    source::{BlobSource, BlobStream, FetchError, SourceError},
    store::{BlobWriter, Collected, ImageStore, NamedImage, StagedBlob, StoreError},
};
