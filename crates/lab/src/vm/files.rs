//! Where QEMU and the guest's kernel are: Debian packages unpacked into a folder, not installed.
//! `worlds/fetch-vm.sh` makes such a folder.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use crate::error::LabError;

/// Names the folder of unpacked packages.
pub const FILES_VARIABLE: &str = "ATOLL_LAB_VM";

/// What runs a guest.
#[derive(Debug, Clone)]
pub struct VmFiles {
    pub qemu: PathBuf,
    /// Folders with the libraries of QEMU.
    pub libraries: Vec<PathBuf>,
    /// Folders with its firmware.
    pub firmware: Vec<PathBuf>,
    pub kernel: PathBuf,
    pub modules: PathBuf,
}

impl VmFiles {
    /// Finds the parts in a folder of unpacked packages.
    pub fn find(folder: &Path) -> Result<Self, LabError> {
        let missing = |what: &str| {
            let told = format!("{what} is not in {}: make that folder with worlds/fetch-vm.sh", folder.display());
            LabError::Invalid(told)
        };
        let qemu = folder.join("usr/bin/qemu-system-x86_64");
        if !qemu.is_file() {
            return Err(missing("QEMU"));
        }
        let kernel = first_in(&folder.join("boot"), "vmlinuz-").map_err(|_| missing("a kernel"))?;
        let modules = first_in(&folder.join("lib/modules"), "").map_err(|_| missing("a folder of modules"))?;
        Ok(Self {
            qemu,
            libraries: ["usr/lib/x86_64-linux-gnu", "lib/x86_64-linux-gnu"].map(|part| folder.join(part)).to_vec(),
            firmware: ["usr/share/qemu", "usr/share/seabios"].map(|part| folder.join(part)).to_vec(),
            kernel,
            modules,
        })
    }
}

fn first_in(folder: &Path, prefix: &str) -> io::Result<PathBuf> {
    let mut found = fs::read_dir(folder)?
        .map(|entry| entry.map(|entry| entry.path()))
        .filter(|path| match path {
            Ok(path) => path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(prefix)),
            Err(_) => true,
        })
        .collect::<io::Result<Vec<_>>>()?;
    found.sort();
    found.into_iter().next().ok_or_else(|| io::ErrorKind::NotFound.into())
}
