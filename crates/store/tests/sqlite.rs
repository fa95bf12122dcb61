//! SQLite records when the process is killed and when the disk is full. Needs root, for a small disk
//! of its own.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use atoll_store::*;

const NOW: u64 = 1_800_000_000_000;

async fn open(path: &Path) -> Store {
    Store::open(&Location::Sqlite(path.to_owned())).await.unwrap()
}

async fn set(store: &Store, name: &str, value: &[u8]) -> Result<(), StoreError> {
    store.write(|tx| async move { tx.setting_set(name, value).await }).await
}

async fn get(store: &Store, name: &str) -> Option<Vec<u8>> {
    store.read(|tx| async move { tx.setting_fetch(name).await }).await.unwrap()
}

const CHILD_FILE: &str = "ATOLL_STORE_WRITER_FILE";

/// Run as a process of its own by the test below; without its variable it has nothing to do. Writes
/// pairs in one transaction each and says which it was told were written.
#[tokio::test]
async fn writer_process() {
    let Ok(path) = std::env::var(CHILD_FILE) else { return };
    let store = open(Path::new(&path)).await;
    for number in 1_u64.. {
        let value = &number.to_be_bytes();
        store
            .write(|tx| async move {
                tx.setting_set("left", value).await?;
                tx.setting_set("right", value).await
            })
            .await
            .unwrap();
        std::fs::write(format!("{path}.acknowledged"), number.to_string()).unwrap();
    }
}

#[tokio::test]
async fn a_kill_in_the_middle_of_writing_loses_nothing_acknowledged() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("control.db");
    let acknowledged = PathBuf::from(format!("{}.acknowledged", path.display()));
    for round in 0..5 {
        let mut writer = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "writer_process", "--nocapture"])
            .env(CHILD_FILE, &path)
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        let read =
            || std::fs::read_to_string(&acknowledged).ok().and_then(|text| text.parse::<u64>().ok()).unwrap_or(0);
        let deadline = Instant::now() + Duration::from_secs(30);
        std::fs::remove_file(&acknowledged).ok();
        while read() < 5 + round {
            assert!(Instant::now() < deadline, "the writer does not write");
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        writer.kill().unwrap();
        writer.wait().unwrap();
        // The kill may have cut the note short, which only asks for less.
        let told = read();
        let store = open(&path).await;
        let (left, right) = (get(&store, "left").await.unwrap(), get(&store, "right").await.unwrap());
        assert_eq!(left, right, "half a transaction was kept");
        let kept = u64::from_be_bytes(left.try_into().unwrap());
        assert!(kept >= told, "{told} was acknowledged, {kept} was kept");
        set(&store, "after", b"the kill").await.unwrap();
        store.close().await;
    }
}

/// A tmpfs of a few pages, gone when dropped.
struct SmallDisk(tempfile::TempDir);

impl SmallDisk {
    fn mount() -> Self {
        assert!(rustix::process::getuid().is_root(), "this test needs root, to mount a small disk");
        let dir = tempfile::tempdir().unwrap();
        rustix::mount::mount("tmpfs", dir.path(), "tmpfs", rustix::mount::MountFlags::empty(), Some(c"size=2m"))
            .unwrap();
        Self(dir)
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        rustix::mount::unmount(self.0.path(), rustix::mount::UnmountFlags::DETACH).ok();
    }
}

#[tokio::test]
async fn a_full_disk_is_said_clearly_and_harms_nothing() {
    let disk = SmallDisk::mount();
    let store = open(&disk.0.path().join("control.db")).await;
    set(&store, "before", b"kept").await.unwrap();
    let ballast = disk.0.path().join("ballast");
    // Fills what is left, however the file system counts.
    let mut size = 2 << 20;
    while size > 0 && std::fs::write(&ballast, vec![0_u8; size]).is_err() {
        size -= 4096;
    }
    let big = vec![7_u8; 512 << 10];
    let error = set(&store, "big", &big).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::StorageFull, "{error:?}");
    assert_eq!(get(&store, "before").await.as_deref(), Some(b"kept".as_slice()), "reading goes on");
    let backup = store.backup(&disk.0.path().join("backup"), NOW).await;
    assert!(matches!(backup, Err(BackupError::Write { .. })), "{backup:?}");
    assert!(!disk.0.path().join("backup").exists());

    std::fs::remove_file(&ballast).unwrap();
    set(&store, "big", &big).await.expect("there is room again");
    assert_eq!(get(&store, "big").await.as_deref(), Some(big.as_slice()));
    store.close().await;
}
