//! A PostgreSQL server for one test run: own folder, a socket instead of a port, gone at the end.

use std::fs;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};

use atoll_store::Location;

const BIN: &str = "/usr/lib/postgresql/15/bin";

pub struct Server {
    dir: tempfile::TempDir,
    process: Child,
    databases: AtomicU32,
}

/// An empty database; its server stops when the last one is dropped.
pub struct Database {
    server: std::sync::Arc<Server>,
    name: String,
}

/// A new database on the server that the tests of this process share.
pub fn database() -> Database {
    static SHARED: Mutex<Weak<Server>> = Mutex::new(Weak::new());
    let mut shared = SHARED.lock().unwrap_or_else(PoisonError::into_inner);
    let server = shared.upgrade().unwrap_or_else(|| {
        let server = std::sync::Arc::new(Server::start());
        *shared = std::sync::Arc::downgrade(&server);
        server
    });
    drop(shared);
    let name = format!("atoll_{}", server.databases.fetch_add(1, Ordering::Relaxed));
    let created = server.psql(&format!("CREATE DATABASE {name} TEMPLATE template0"));
    assert!(created.status.success(), "no database: {}", String::from_utf8_lossy(&created.stderr));
    Database { server, name }
}

impl Database {
    pub fn url(&self) -> String {
        let socket = self.server.dir.path().to_str().unwrap().replace('/', "%2F");
        format!("postgres://postgres@{socket}/{}", self.name)
    }

    pub fn location(&self) -> Location {
        self.url().parse().unwrap_or_else(|error| match error {})
    }
}

impl Server {
    fn start() -> Self {
        let uid = rustix::process::getuid();
        assert!(uid.is_root(), "this test needs root, to start a PostgreSQL server as user postgres");
        assert!(Path::new(BIN).exists(), "this test needs Debian's package postgresql (version 15) in {BIN}");
        let dir = tempfile::Builder::new().prefix("atoll-pg-").tempdir().unwrap();
        let (user, group) = postgres_ids();
        std::os::unix::fs::chown(dir.path(), Some(user), Some(group)).unwrap();
        let data = dir.path().join("data");
        let as_postgres = |program: &str| {
            let mut command = Command::new(PathBuf::from(BIN).join(program));
            command.uid(user).gid(group).current_dir("/").stdin(Stdio::null());
            command
        };
        let made = as_postgres("initdb")
            .args(["--auth=trust", "--encoding=UTF8", "--locale=C.UTF-8", "--no-sync", "-D"])
            .arg(&data)
            .output()
            .unwrap();
        assert!(made.status.success(), "initdb: {}", String::from_utf8_lossy(&made.stderr));
        let log = fs::File::create(dir.path().join("log")).unwrap();
        let process = as_postgres("postgres")
            .arg("-D")
            .arg(&data)
            .arg("-k")
            .arg(dir.path())
            .args(["-c", "listen_addresses=", "-c", "fsync=off", "-c", "max_connections=200"])
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap();
        let server = Self { dir, process, databases: AtomicU32::new(0) };
        let deadline = Instant::now() + Duration::from_secs(60);
        while !server.psql("SELECT 1").status.success() {
            assert!(Instant::now() < deadline, "PostgreSQL did not answer: {}", server.log());
            std::thread::sleep(Duration::from_millis(50));
        }
        server
    }

    fn psql(&self, sql: &str) -> Output {
        Command::new(PathBuf::from(BIN).join("psql"))
            .args(["-X", "-U", "postgres", "-d", "postgres", "-c", sql, "-h"])
            .arg(self.dir.path())
            .output()
            .unwrap()
    }

    fn log(&self) -> String {
        fs::read_to_string(self.dir.path().join("log")).unwrap_or_default()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // SIGQUIT is PostgreSQL's immediate shutdown: it takes its children along.
        if let Some(pid) = rustix::process::Pid::from_raw(self.process.id() as i32) {
            rustix::process::kill_process(pid, rustix::process::Signal::QUIT).ok();
        }
        self.process.wait().ok();
    }
}

/// The ids of Debian's user `postgres`.
fn postgres_ids() -> (u32, u32) {
    let passwd = fs::read_to_string("/etc/passwd").unwrap();
    let line = passwd.lines().find(|line| line.starts_with("postgres:")).expect("there is no user postgres");
    let fields: Vec<_> = line.split(':').collect();
    (fields[2].parse().unwrap(), fields[3].parse().unwrap())
}
