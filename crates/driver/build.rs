//! Hands the paths of the two static programs to the compiler, which embeds them.

use std::path::PathBuf;
use std::process::ExitCode;

fn main() -> ExitCode {
    for name in ["ATOLL_SHIM_BIN", "ATOLL_GUEST_BIN"] {
        println!("cargo::rerun-if-env-changed={name}");
        let path = std::env::var_os(name).map(PathBuf::from);
        let Some(path) = path.and_then(|path| path.canonicalize().ok()) else {
            println!("cargo::error={name} must name a built static program; run `make static` first");
            return ExitCode::SUCCESS;
        };
        println!("cargo::rerun-if-changed={}", path.display());
        println!("cargo::rustc-env={name}={}", path.display());
    }
    ExitCode::SUCCESS
}
