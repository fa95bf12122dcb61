//! The page about fly.toml says what the program does: it is made from the same table.

use std::path::Path;

#[test]
fn the_page_of_keys_is_up_to_date() {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/fly-toml.md");
    let expected = atoll_manifest::keys::markdown();
    if std::env::var_os("ATOLL_UPDATE_DOCS").is_some() {
        std::fs::write(&page, &expected).unwrap();
    }
    let found = std::fs::read_to_string(&page).unwrap_or_default();
    assert!(found == expected, "docs/fly-toml.md is stale: run this test with ATOLL_UPDATE_DOCS=1 and read the diff");
}
