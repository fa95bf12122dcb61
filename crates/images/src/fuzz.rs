//! Everything here that reads foreign bytes, as functions of bytes alone. They must return for any
//! input, whatever they answer.

use crate::{
    Digest, Document, ImageReference, ImportError, LayerError, LayerSummary, UnpackLimits,
    image::{parse_config, step},
    import,
    layer::{
        Expected,
        stream::{Discard, read_layer},
    },
    manifest::media_type_of,
    reference::InvalidReference,
};

/// Small enough for a fuzzer's memory, large enough to reach everything.
fn limits() -> UnpackLimits {
    UnpackLimits { bytes: 16 << 20, entries: 10_000, ratio_floor: 1 << 20, ..UnpackLimits::default() }
}

/// Reads a layer, packed or not, as unpacking does.
pub fn layer(bytes: &[u8]) -> Result<LayerSummary, LayerError> {
    read_layer(bytes, &Expected::default(), &limits(), &mut Discard)
}

/// Parses an image reference.
pub fn reference(text: &str) -> Result<ImageReference, InvalidReference> {
    text.parse()
}

/// Reads an archive of an image and plans its import.
pub fn archive(bytes: &[u8]) -> Result<import::Imported, ImportError> {
    import::check_archive(bytes, &limits())
}

/// Reads a manifest, an index or an image's configuration.
pub fn document(bytes: &[u8]) {
    let digest = Digest::of(bytes);
    if let Ok(document) = Document::parse(bytes) {
        assert!(document.references().iter().all(|reference| document.names(&reference.digest)));
        // Accepted documents have a type to be served under.
        assert!(media_type_of(bytes).is_ok());
    }
    // An index without our platform leads nowhere, and a configuration may be none.
    drop((step(digest, bytes), parse_config(digest, bytes)));
}
