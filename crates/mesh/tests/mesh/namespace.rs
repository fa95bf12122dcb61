//! A network namespace, held by a thread that lives in it. Everything started from it lives there too.

use std::process::Command;
use std::sync::mpsc;
use std::thread::JoinHandle;

use rustix::thread::UnshareFlags;

type Job = Box<dyn FnOnce() + Send>;

pub struct Namespace {
    /// Of the thread, which names the namespace to `ip`.
    pub thread: i32,
    jobs: Option<mpsc::Sender<Job>>,
    running: Option<JoinHandle<()>>,
}

impl Namespace {
    pub fn new() -> Self {
        assert!(rustix::process::geteuid().is_root(), "network namespaces are made here: run this as root");
        let (jobs, todo) = mpsc::channel::<Job>();
        let (tell, told) = mpsc::channel();
        let running = std::thread::spawn(move || {
            // SAFETY: only this thread changes its namespace; no descriptors are shared that depend on it.
            unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWNET) }.unwrap();
            tell.send(rustix::thread::gettid().as_raw_nonzero().get()).unwrap();
            todo.into_iter().for_each(|job| job());
        });
        let namespace = Self { thread: told.recv().unwrap(), jobs: Some(jobs), running: Some(running) };
        namespace.sh("ip link set lo up");
        namespace
    }

    /// Runs in the namespace and waits.
    pub fn run<T: Send + 'static>(&self, job: impl FnOnce() -> T + Send + 'static) -> T {
        let (tell, told) = mpsc::channel();
        let job = Box::new(move || tell.send(job()).unwrap());
        self.jobs.as_ref().unwrap().send(job).unwrap();
        told.recv().expect("the job in the namespace panicked")
    }

    /// What a shell says there; it must succeed.
    pub fn sh(&self, script: &str) -> String {
        // A virtual machine's shell would take its own `ip`, which knows less.
        let script = format!("ip() {{ /sbin/ip \"$@\"; }}\n{script}");
        self.run(move || {
            let output = Command::new("/bin/sh").args(["-ec", &script]).output().unwrap();
            let text = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
            assert!(output.status.success(), "{script}: {text}");
            text
        })
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        self.jobs = None;
        if let Some(running) = self.running.take() {
            // A job that panicked has failed the test already.
            let _ = running.join();
        }
    }
}
