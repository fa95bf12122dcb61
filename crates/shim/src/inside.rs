//! Files and folders inside a machine's root, reached from outside. The image decides what lies
//! there, so every path is resolved by the kernel with the root as its end: links lead neither out
//! nor through `/proc`.

use std::fs::File;
use std::io::Write;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{AtFlags, Mode, OFlags, ResolveFlags, mkdirat, openat2, unlinkat};
use rustix::io::Errno;

const FOLDER: OFlags = OFlags::PATH.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC);
const FOLDER_MODE: Mode = Mode::from_raw_mode(0o755);

/// The folder at `path` inside `root`; missing ones are made. Links are followed inside the root.
pub fn make_folder(root: BorrowedFd<'_>, path: &str) -> Result<OwnedFd, Errno> {
    let mut walked = String::from("/");
    let mut folder = open(root, "/", ResolveFlags::empty())?;
    for name in path.split('/').filter(|name| !matches!(*name, "" | ".")) {
        walked.push_str(name);
        folder = match open(root, &walked, ResolveFlags::empty()) {
            Err(Errno::NOENT) => {
                mkdirat(&folder, name, FOLDER_MODE)?;
                open(root, &walked, ResolveFlags::empty())?
            }
            other => other?,
        };
        walked.push('/');
    }
    Ok(folder)
}

/// The folder `name` directly inside `folder`, made when missing, and never through a link: what is
/// mounted there must be where everybody looks for it.
pub fn mount_point(folder: BorrowedFd<'_>, name: &str) -> Result<OwnedFd, Errno> {
    match mkdirat(folder, name, FOLDER_MODE) {
        Ok(()) | Err(Errno::EXIST) => open(folder, name, ResolveFlags::NO_SYMLINKS),
        Err(error) => Err(error),
    }
}

/// Writes a file at `path` inside `root`, with its folders. Whatever lay there but a folder is
/// replaced, so that a link is not written through.
pub fn write_file(root: BorrowedFd<'_>, path: &str, content: &[u8], mode: u32) -> Result<(), Errno> {
    let (folder, name) = path.rsplit_once('/').unwrap_or(("", path));
    if matches!(name, "" | "." | "..") {
        return Err(Errno::INVAL);
    }
    let folder = make_folder(root, folder)?;
    match unlinkat(&folder, name, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => {}
        Err(error) => return Err(error),
    }
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let file = openat2(&folder, name, flags, Mode::from_raw_mode(mode & 0o7777), ResolveFlags::BENEATH)?;
    // The mode at creation is cut by the process's mask.
    rustix::fs::fchmod(file.as_fd(), Mode::from_raw_mode(mode & 0o7777))?;
    File::from(file).write_all(content).map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO))
}

fn open(root: BorrowedFd<'_>, path: &str, more: ResolveFlags) -> Result<OwnedFd, Errno> {
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS | more;
    loop {
        // The kernel asks for another try when a rename or mount anywhere came between the steps of a path with `..`.
        match openat2(root, path, FOLDER, Mode::empty(), resolve) {
            Err(Errno::AGAIN | Errno::INTR) => {}
            result => return result,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::{PermissionsExt, symlink};
    use std::path::Path;

    fn folder(path: &Path) -> File {
        File::open(path).unwrap()
    }

    #[test]
    fn files_and_their_folders_are_made_with_their_mode() {
        let dir = tempfile::tempdir().unwrap();
        write_file(folder(dir.path()).as_fd(), "/a/b/c", b"hello", 0o640).unwrap();
        let path = dir.path().join("a/b/c");
        assert_eq!(fs::read(&path).unwrap(), b"hello");
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o7777, 0o640);
        write_file(folder(dir.path()).as_fd(), "a/b/c", b"again", 0o600).unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"again");
    }

    #[test]
    fn links_never_lead_out() {
        let dir = tempfile::tempdir().unwrap();
        let (root, outside) = (dir.path().join("root"), dir.path().join("outside"));
        fs::create_dir_all(&root).unwrap();
        fs::create_dir_all(&outside).unwrap();
        fs::write(outside.join("secret"), "kept").unwrap();
        symlink(&outside, root.join("absolute")).unwrap();
        symlink("../outside", root.join("relative")).unwrap();
        symlink(outside.join("secret"), root.join("file")).unwrap();
        let handle = folder(&root);
        // Both links lead to places that do not exist in the root.
        for path in ["/absolute/secret", "/relative/secret", "/../outside/secret"] {
            let _ = write_file(handle.as_fd(), path, b"stolen", 0o644);
        }
        write_file(handle.as_fd(), "/file", b"mine", 0o644).unwrap();
        assert_eq!(fs::read(outside.join("secret")).unwrap(), b"kept");
        assert_eq!(fs::read_dir(&outside).unwrap().count(), 1);
        assert!(fs::symlink_metadata(root.join("file")).unwrap().is_file());
        assert!(mount_point(handle.as_fd(), "relative").is_err());
    }

    #[test]
    fn a_link_inside_the_root_is_followed() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir_all(dir.path().join("private/etc")).unwrap();
        symlink("/private/etc", dir.path().join("etc")).unwrap();
        write_file(folder(dir.path()).as_fd(), "/etc/hosts", b"x", 0o644).unwrap();
        assert!(dir.path().join("private/etc/hosts").is_file());
    }

    #[test]
    fn renames_elsewhere_stop_nobody() {
        let (dir, elsewhere) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        symlink("../".repeat(30), dir.path().join("up")).unwrap();
        let (one, other) = (elsewhere.path().join("one"), elsewhere.path().join("other"));
        fs::create_dir(&one).unwrap();
        let ended = std::sync::atomic::AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while !ended.load(std::sync::atomic::Ordering::Relaxed) {
                    fs::rename(&one, &other).and_then(|()| fs::rename(&other, &one)).unwrap();
                }
            });
            let written: Vec<_> =
                (0..5000).map(|_| write_file(folder(dir.path()).as_fd(), "/up/written", b"x", 0o644)).collect();
            ended.store(true, std::sync::atomic::Ordering::Relaxed);
            assert_eq!(written.into_iter().find(Result::is_err), None);
        });
        assert!(dir.path().join("written").is_file());
    }

    #[test]
    fn names_that_are_no_file_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("folder")).unwrap();
        for path in ["", "/", "/a/..", "/folder/", "/folder"] {
            assert!(write_file(folder(dir.path()).as_fd(), path, b"", 0o644).is_err(), "{path:?} was written");
        }
    }
}
