//! Where the programs and the examples' images lie that a trial runs.

use std::path::{Path, PathBuf};

use anyhow::{Context, ensure};

/// Names the program on trial where it is not beside the running one.
pub const PROGRAM_VARIABLE: &str = "ATOLL_BIN";

/// The program on trial.
pub fn atoll() -> anyhow::Result<PathBuf> {
    match std::env::var_os(PROGRAM_VARIABLE) {
        Some(path) => Path::new(&path).canonicalize().with_context(|| format!("{PROGRAM_VARIABLE} names no program")),
        None => beside("atoll"),
    }
}

/// The load generator.
pub fn load_generator() -> anyhow::Result<PathBuf> {
    beside("atoll-load")
}

/// An example's image, an OCI layout.
pub fn example_image(name: &str) -> anyhow::Result<PathBuf> {
    let layout = checkout().join("target/examples").join(name);
    ensure!(
        layout.join("index.json").is_file(),
        "there is no image of the example {name}; scripts/build-examples.sh {name} makes it"
    );
    layout.canonicalize().with_context(|| format!("the image of the example {name} cannot be found"))
}

/// The checkout that this program was built from.
pub fn checkout() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// Test programs live one folder below the others.
fn beside(name: &str) -> anyhow::Result<PathBuf> {
    let running = std::env::current_exe()?;
    (running.ancestors().skip(1).take(2))
        .map(|folder| folder.join(name))
        .find(|candidate| candidate.is_file())
        .with_context(|| format!("there is no {name} beside {}; `make build` makes it", running.display()))
}
