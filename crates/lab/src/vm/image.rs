//! Packs a guest's memory disk: this program as its first process, a shell, `ip`, kernel modules, and
//! what the user wants in it, each program with its libraries.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::cpio::{Archive, Entry};
use super::modules;

/// Where this program lies in a guest.
pub const AGENT: &str = "/atoll-lab";
/// The modules, in order of loading.
pub const MODULES: &str = "/modules";

const FOLDERS: &[&str] = &["bin", "sbin", "dev", "proc", "sys", "run", "tmp", "root", "etc", "modules"];

/// Devices of the machine first, then what a node may want of its kernel.
const WANTED: &[&str] = &[
    "virtio_mmio",
    "virtio_console",
    "virtio_blk",
    "virtio_net",
    "overlay",
    "veth",
    "bridge",
    "tun",
    "nf_tables",
    "nft_chain_nat",
    "nft_masq",
    "nft_nat",
    "nft_ct",
    "nft_reject_inet",
    "nft_fib_ipv4",
    "nft_fib_ipv6",
    "nft_fib_inet",
    "wireguard",
    "sch_netem",
];

/// Programs of this machine that every guest has.
const PROGRAMS: &[&str] = &["/bin/busybox", "/sbin/ip"];

/// The memory disk for a guest with these files and folders of this machine, at the same paths.
pub fn pack(program: &Path, module_folder: &Path, extra: &[PathBuf], etc_hosts: &str) -> io::Result<Vec<u8>> {
    let mut image = Image::default();
    for folder in FOLDERS {
        image.folder(Path::new(folder));
    }
    image.copy(program, Path::new(AGENT))?;
    for path in PROGRAMS {
        image.copy(Path::new(path), Path::new(path))?;
    }
    for path in extra {
        image.copy_all(path)?;
    }
    image.bytes("etc/hosts", false, etc_hosts.as_bytes());
    image.bytes("etc/passwd", false, b"root:x:0:0:root:/root:/bin/sh\n");
    image.bytes("etc/group", false, b"root:x:0:\n");
    image.modules(module_folder)?;
    Ok(image.archive.finish())
}

#[derive(Default)]
struct Image {
    archive: Archive,
    packed: BTreeSet<PathBuf>,
}

impl Image {
    fn folder(&mut self, path: &Path) {
        let path = path.strip_prefix("/").unwrap_or(path);
        let mut part = PathBuf::new();
        for component in path.components() {
            part.push(component);
            if self.packed.insert(part.clone()) {
                self.archive.add(&part.to_string_lossy(), &Entry::Folder);
            }
        }
    }

    fn bytes(&mut self, path: &str, executable: bool, data: &[u8]) {
        self.archive.add(path, &Entry::File { executable, data });
    }

    /// Copies one file, and the libraries it is linked with.
    fn copy(&mut self, from: &Path, to: &Path) -> io::Result<()> {
        let inner = to.strip_prefix("/").unwrap_or(to);
        if let Some(parent) = inner.parent() {
            self.folder(parent);
        }
        if !self.packed.insert(inner.to_owned()) {
            return Ok(());
        }
        let data = fs::read(from)?;
        let executable = fs::metadata(from)?.permissions().mode() & 0o111 != 0;
        self.bytes(&inner.to_string_lossy(), executable, &data);
        if executable && data.starts_with(b"\x7fELF") {
            for library in libraries(from)? {
                self.copy(&library, &library)?;
            }
        }
        Ok(())
    }

    fn copy_all(&mut self, path: &Path) -> io::Result<()> {
        let kind = fs::symlink_metadata(path)?.file_type();
        if kind.is_symlink() {
            let inner = path.strip_prefix("/").unwrap_or(path);
            if let Some(parent) = inner.parent() {
                self.folder(parent);
            }
            let target = fs::read_link(path)?;
            if self.packed.insert(inner.to_owned()) {
                let entry = Entry::Link { target: &target.to_string_lossy() };
                self.archive.add(&inner.to_string_lossy(), &entry);
            }
            return Ok(());
        }
        if !kind.is_dir() {
            return self.copy(path, path);
        }
        self.folder(path);
        for entry in fs::read_dir(path)? {
            self.copy_all(&entry?.path())?;
        }
        Ok(())
    }

    fn modules(&mut self, folder: &Path) -> io::Result<()> {
        let mut files = BTreeMap::new();
        collect_modules(folder, &mut files)?;
        let mut contents = BTreeMap::new();
        let mut needs = BTreeMap::new();
        let mut waiting: Vec<String> = WANTED.iter().map(|name| modules::canonical(name)).collect();
        while let Some(name) = waiting.pop() {
            if contents.contains_key(&name) {
                continue;
            }
            if let Some(file) = files.get(&name) {
                let data = fs::read(file)?;
                let depends = modules::depends(&data);
                waiting.extend(depends.iter().cloned());
                contents.insert(name.clone(), data);
                needs.insert(name, depends);
            }
        }
        for (position, name) in modules::load_order(WANTED, &needs).into_iter().enumerate() {
            if let Some(data) = contents.get(&name) {
                self.bytes(&format!("{}/{position:03}-{name}.ko", &MODULES[1..]), false, data);
            }
        }
        Ok(())
    }
}

fn collect_modules(folder: &Path, found: &mut BTreeMap<String, PathBuf>) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            collect_modules(&entry.path(), found)?;
        } else if let Some(name) = entry.file_name().to_string_lossy().strip_suffix(".ko") {
            found.insert(modules::canonical(name), entry.path());
        }
    }
    Ok(())
}

/// The libraries of a program, by the dynamic linker's own account; none of a static one.
fn libraries(program: &Path) -> io::Result<Vec<PathBuf>> {
    let output = Command::new("ldd").arg(program).output()?;
    let text = String::from_utf8_lossy(&output.stdout);
    let words = text.lines().filter_map(|line| line.split_whitespace().find(|word| word.starts_with('/')));
    Ok(words.map(PathBuf::from).collect())
}
