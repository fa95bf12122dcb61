//! The first process of a guest: mounts, loads modules, then runs programs for whoever asks on the
//! serial ports. The process itself reaps orphans; a child of it serves the ports.

use std::fs::{self, File, Permissions};
use std::io::{self, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::mount::MountFlags;
use rustix::process::{Signal, WaitOptions};

use super::image::MODULES;
use super::wire::{self, Frame, Request};
use crate::sys::{self, Fork};

/// A port says nothing when the other side comes or goes; it is looked at this often.
const LOOK: Duration = Duration::from_millis(10);

/// Runs the guest; returns only if that is impossible.
pub fn run(name: &str, disk: &Path) -> io::Result<()> {
    leave_the_first_root()?;
    mount("proc", "/proc", "proc")?;
    mount("sysfs", "/sys", "sysfs")?;
    mount("devtmpfs", "/dev", "devtmpfs")?;
    mount("tmpfs", "/run", "tmpfs")?;
    mount("tmpfs", "/tmp", "tmpfs")?;
    fs::set_permissions("/tmp", Permissions::from_mode(0o1777))?;
    mount("cgroup2", "/sys/fs/cgroup", "cgroup2")?;
    load_modules()?;
    rustix::system::sethostname(name.as_bytes())?;
    Command::new("/bin/busybox").args(["--install", "-s", "/bin"]).status()?;
    fs::create_dir_all(disk)?;
    mount("/dev/vda", disk, "ext4")?;
    fs::write("/proc/sys/net/ipv4/ip_forward", "1")?;
    match sys::fork()? {
        Fork::Child => serve(),
        Fork::Parent(_) => loop {
            match rustix::process::wait(WaitOptions::empty()) {
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        },
    }
}

/// The kernel's first root can never be changed for another, which containers do to theirs: it is
/// mounted once more over itself, and that is the root from here on.
fn leave_the_first_root() -> io::Result<()> {
    rustix::mount::mount_bind("/", "/root")?;
    rustix::process::chdir("/root")?;
    rustix::mount::mount_move(".", "/")?;
    rustix::process::chroot(".")?;
    Ok(())
}

fn mount(source: &str, target: impl AsRef<Path>, filesystem: &str) -> io::Result<()> {
    let target = target.as_ref();
    match rustix::mount::mount(source, target, filesystem, MountFlags::empty(), None) {
        // The kernel mounts some of these itself.
        Ok(()) | Err(rustix::io::Errno::BUSY) => Ok(()),
        Err(error) => Err(io::Error::new(
            io::Error::from(error).kind(),
            format!("mount {filesystem} at {}: {error}", target.display()),
        )),
    }
}

fn load_modules() -> io::Result<()> {
    let mut files = fs::read_dir(MODULES)?.map(|entry| Ok(entry?.path())).collect::<io::Result<Vec<PathBuf>>>()?;
    files.sort();
    for file in files {
        match rustix::system::finit_module(File::open(&file)?, c"", 0) {
            Ok(()) | Err(rustix::io::Errno::EXIST) => {}
            // Not every guest needs every module; the console tells.
            Err(error) => eprintln!("module {}: {error}", file.display()),
        }
    }
    Ok(())
}

fn serve() -> io::Result<()> {
    let mut serving = Vec::new();
    for entry in fs::read_dir("/sys/class/virtio-ports")? {
        let device = Path::new("/dev").join(entry?.file_name());
        serving.push(thread::spawn(move || {
            loop {
                if let Err(error) = serve_port(&device) {
                    eprintln!("{}: {error}", device.display());
                }
                thread::sleep(LOOK);
            }
        }));
    }
    for thread in serving {
        if thread.join().is_err() {
            return Err(io::Error::other("a port's thread ended"));
        }
    }
    Ok(())
}

/// Serves one session after the other until something is wrong with the stream.
fn serve_port(device: &Path) -> io::Result<()> {
    let port = File::options().read(true).write(true).open(device)?;
    loop {
        let (session, frame) = wire::read(Patient(&port))?;
        if let Frame::Run(request) = frame {
            let code = run_program(&port, session, &request)?;
            wire::write(&port, session, &Frame::Exit(code))?;
        }
    }
}

/// Reads on while nobody is connected, which the device tells as an end.
struct Patient<'p>(&'p File);

impl Read for Patient<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            match self.0.read(buffer)? {
                0 => thread::sleep(LOOK),
                length => return Ok(length),
            }
        }
    }
}

fn run_program(port: &File, session: u32, request: &Request) -> io::Result<i32> {
    let [name, arguments @ ..] = &request.program[..] else { return Ok(127) };
    let spawned = Command::new(name)
        .args(arguments)
        .env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
        .envs(request.environment.iter().map(|(key, value)| (key, value)))
        .current_dir(&request.folder)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0)
        .spawn();
    let mut child = match spawned {
        Ok(child) => child,
        Err(error) => {
            wire::write(port, session, &Frame::Error(format!("{name}: {error}\n").into_bytes()))?;
            return Ok(127);
        }
    };
    let writer = Arc::new(Mutex::new(port.try_clone()?));
    let mut pumps = Vec::new();
    if let Some(output) = child.stdout.take() {
        pumps.push(pump(output, Arc::clone(&writer), session, Frame::Output));
    }
    if let Some(errors) = child.stderr.take() {
        pumps.push(pump(errors, Arc::clone(&writer), session, Frame::Error));
    }
    if let Some(mut input) = child.stdin.take() {
        let bytes = request.input.clone();
        // A program that does not read its input is not at fault.
        thread::spawn(move || drop(input.write_all(&bytes)));
    }
    let code = wait_while_connected(port, &mut child)?;
    for pump in pumps {
        if pump.join().is_err() {
            return Err(io::Error::other("an output's thread ended"));
        }
    }
    Ok(code)
}

fn pump(
    mut from: impl Read + Send + 'static,
    to: Arc<Mutex<File>>,
    session: u32,
    frame: fn(Vec<u8>) -> Frame,
) -> thread::JoinHandle<()> {
    thread::spawn(move || {
        let mut buffer = vec![0; 32 << 10];
        while let Ok(length @ 1..) = from.read(&mut buffer) {
            let port = to.lock().unwrap_or_else(PoisonError::into_inner);
            if wire::write(&*port, session, &frame(buffer[..length].to_vec())).is_err() {
                break;
            }
        }
    })
}

/// The program's exit code; a program whose caller is gone is killed.
fn wait_while_connected(port: &File, child: &mut Child) -> io::Result<i32> {
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or_default()));
        }
        let mut watched = [PollFd::new(port, PollFlags::empty())];
        rustix::event::poll(&mut watched, Some(&Timespec { tv_sec: 0, tv_nsec: 0 }))?;
        if watched[0].revents().contains(PollFlags::HUP)
            && let Some(group) = rustix::process::Pid::from_raw(child.id() as i32)
        {
            match rustix::process::kill_process_group(group, Signal::KILL) {
                Ok(()) | Err(rustix::io::Errno::SRCH) => {}
                Err(error) => return Err(error.into()),
            }
        }
        thread::sleep(LOOK);
    }
}
