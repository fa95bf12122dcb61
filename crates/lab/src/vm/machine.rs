//! A virtual machine as a process: what it is told, how it is kept. Runs in a helper process.

use std::fs;
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::process::{Pid, PidfdFlags, Signal};
use serde::{Deserialize, Serialize};

use super::files::VmFiles;
use super::image::{self, AGENT};
use crate::cgroup::Group;
use crate::host::init;
use crate::sys::{self, Fork};

/// Programs that run in a guest at the same time.
pub const PORTS: usize = 8;

/// A QEMU that has not made its sockets by then never will.
const START_LIMIT: Duration = Duration::from_secs(15);

/// Enough for a container of 256 MiB to meet its own limit before the kernel meets its, with a memory disk
/// of big programs.
const MEMORY_MIB: u32 = 1024;
const DISK_BYTES: u64 = 4 << 30;

/// All that a machine's keeper needs to know.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Machine {
    pub name: String,
    /// The host's group below every cgroup hierarchy of the lab's machine.
    pub group: PathBuf,
    /// For its sockets, memory disk and disk image.
    pub folder: PathBuf,
    /// Unpacked packages; see [`super::files`].
    pub packages: PathBuf,
    /// The `atoll-lab` program.
    pub program: PathBuf,
    /// Files and folders of this machine that the guest has at the same paths.
    pub files: Vec<PathBuf>,
    /// Where its disk is mounted in the guest.
    pub disk: PathBuf,
    pub hosts_file: PathBuf,
    /// The relay's process, in whose network namespace the interface is.
    pub relay: i32,
    pub interface: String,
    pub mac: String,
}

/// Runs the keeper: prints `ready <pid>` once the machine runs (its system does not yet), and returns
/// when it is dead. `lifeline` is readable, at its end, once the lab is gone.
pub fn keep(machine: &Machine, lifeline: impl AsFd) -> io::Result<()> {
    let mut command = prepare(machine)?;
    let relay = Pid::from_raw(machine.relay).ok_or(io::ErrorKind::InvalidInput)?;
    let relay = rustix::process::pidfd_open(relay, PidfdFlags::empty())?;
    match sys::fork()? {
        Fork::Child => {
            rustix::process::set_parent_process_death_signal(Some(Signal::KILL))?;
            Group::named(&machine.group)?.enter_leaf()?;
            sys::setns(&relay, libc::CLONE_NEWNET)?;
            sys::drop_stdin_and_stdout()?;
            Err(command.exec())
        }
        Fork::Parent(qemu) => {
            wait_for_ports(machine, qemu)?;
            writeln!(io::stdout(), "ready {}", qemu.as_raw_nonzero())?;
            init::watch(qemu, lifeline)
        }
    }
}

/// QEMU makes its sockets in their order before the guest starts.
fn wait_for_ports(machine: &Machine, qemu: Pid) -> io::Result<()> {
    let process = rustix::process::pidfd_open(qemu, PidfdFlags::empty())?;
    let deadline = Instant::now() + START_LIMIT;
    let last = port_socket(&machine.folder, PORTS - 1);
    while !last.exists() {
        let look_again = Timespec { tv_sec: 0, tv_nsec: 5_000_000 };
        let died = rustix::event::poll(&mut [PollFd::new(&process, PollFlags::IN)], Some(&look_again))? > 0;
        if died || Instant::now() > deadline {
            return Err(io::Error::other("QEMU did not start"));
        }
    }
    Ok(())
}

fn prepare(machine: &Machine) -> io::Result<Command> {
    let files = VmFiles::find(&machine.packages).map_err(io::Error::other)?;
    fs::create_dir_all(&machine.folder)?;
    let memory_disk = machine.folder.join("memory-disk");
    let hosts = fs::read_to_string(&machine.hosts_file)?;
    fs::write(&memory_disk, image::pack(&machine.program, &files.modules, &machine.files, &hosts)?)?;
    let disk = machine.folder.join("disk.ext4");
    if !disk.exists() {
        make_disk(&disk)?;
    }
    for port in 0..PORTS {
        // Those of a machine that was killed.
        match fs::remove_file(port_socket(&machine.folder, port)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    let mut command = Command::new(&files.qemu);
    let libraries = files.libraries.iter().map(|folder| folder.display().to_string()).collect::<Vec<_>>();
    command.env("LD_LIBRARY_PATH", libraries.join(":"));
    for folder in &files.firmware {
        command.arg("-L").arg(folder);
    }
    command.args(arguments(machine, &files.kernel, &memory_disk, &disk));
    Ok(command)
}

fn make_disk(file: &Path) -> io::Result<()> {
    fs::File::create(file)?.set_len(DISK_BYTES)?;
    let made = Command::new("mkfs.ext4").args(["-q", "-F"]).arg(file).status()?;
    if made.success() { Ok(()) } else { Err(io::Error::other(format!("mkfs.ext4: {made}"))) }
}

fn arguments(machine: &Machine, kernel: &Path, memory_disk: &Path, disk: &Path) -> Vec<String> {
    let text = |path: &Path| path.display().to_string();
    // Without its clock's rate a guest on a busy machine hangs while it measures it.
    let clock = match processor_khz() {
        Some(khz) => format!("tsc_early_khz={khz} tsc=reliable"),
        None => String::new(),
    };
    let kernel_line = format!(
        "console=ttyS0 quiet panic=-1 mitigations=off cryptomgr.notests random.trust_cpu=on {clock} \
         cgroup_no_v1=all rdinit={AGENT} -- internal guest {} {}",
        machine.name,
        text(&machine.disk)
    );
    let mut arguments: Vec<String> = [
        // The timers of a real board stay: without them an emulated guest cannot calibrate.
        "-M",
        "microvm,acpi=on,pit=on,pic=on,rtc=on,isa-serial=on,x-option-roms=off,auto-kernel-cmdline=off",
        "-accel",
        "tcg,thread=multi,tb-size=64",
        "-cpu",
        "max",
        "-smp",
        "1",
        "-nodefaults",
        "-no-user-config",
        "-display",
        "none",
        "-no-reboot",
        "-device",
        "virtio-serial-device",
    ]
    .map(str::to_owned)
    .to_vec();
    let mut add = |option: &str, value: String| arguments.extend([option.to_owned(), value]);
    add("-m", MEMORY_MIB.to_string());
    add("-kernel", text(kernel));
    add("-initrd", text(memory_disk));
    add("-append", kernel_line);
    add("-serial", format!("file:{}", text(&machine.folder.join("console.log"))));
    add("-drive", format!("id=disk,file={},format=raw,if=none,cache=writeback", text(disk)));
    add("-device", "virtio-blk-device,drive=disk".to_owned());
    add("-netdev", format!("tap,id=net,ifname={},script=no,downscript=no", machine.interface));
    add("-device", format!("virtio-net-device,netdev=net,mac={}", machine.mac));
    for port in 0..PORTS {
        let socket = text(&port_socket(&machine.folder, port));
        add("-chardev", format!("socket,path={socket},server=on,wait=off,id=port{port}"));
        add("-device", format!("virtserialport,chardev=port{port},name=lab.{port}"));
    }
    arguments
}

pub fn port_socket(folder: &Path, port: usize) -> PathBuf {
    folder.join(format!("port-{port}.sock"))
}

/// The rate of this machine's time stamp counter, which an emulated guest sees as its own.
fn processor_khz() -> Option<u64> {
    let text = fs::read_to_string("/proc/cpuinfo").ok()?;
    let line = text.lines().find(|line| line.starts_with("cpu MHz"))?;
    let megahertz: f64 = line.split(':').nth(1)?.trim().parse().ok()?;
    Some((megahertz * 1e3) as u64)
}
