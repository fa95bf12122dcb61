//! What a machine may not do, and what happens when it tries.

use std::fs;
use std::os::unix::fs::symlink;

use atoll_driver::{Driver, DriverError, FileSpec};
use atoll_model::guest::{CpuKind, Guest};

use crate::support::{World, cgroup_roots, eventually, exec, log, within};

#[tokio::test]
async fn too_much_memory_is_reported_as_such() {
    let world = World::new();
    let mut spec = world.machine("exec tail /dev/zero");
    spec.guest = Guest { memory_mb: 32, ..Guest::DEFAULT };
    let (exit, _) = world.run(&spec).await;
    assert_eq!((exit.code, exit.signal, exit.oom_killed, exit.error), (137, Some(9), true, None));
    let (exit, _) = world.run(&world.machine("kill -9 $$")).await;
    assert_eq!((exit.code, exit.oom_killed), (137, false));
}

#[tokio::test]
async fn a_fork_bomb_stays_in_its_machine() {
    let world = World::new();
    // The main process forks once, which is not refused, and goes on as something else.
    let mut spec = world.machine("bomb() { bomb | bomb & }; bomb & exec sleep 1000");
    spec.pids_limit = 40;
    let machine = world.start(&spec).await;
    // The limit counts the guest and its threads as well, and is never passed.
    let mut most = 0;
    for _ in 0..200 {
        most = most.max(machine.stats().await.unwrap().processes);
    }
    assert!((2..=40).contains(&most), "{most} processes");
    machine.kill().await.unwrap();
    within("an exit", machine.wait()).await;
    world.destroy(&spec).await;
}

#[tokio::test]
async fn cpu_limits_follow_the_size() {
    let world = World::new();
    let unified = cgroup_roots().len() == 1;
    let read = |spec: &atoll_driver::MachineSpec, v1: &str, v2: &str| {
        let path = if unified {
            format!("/sys/fs/cgroup/{}/{v2}", spec.cgroup)
        } else {
            format!("/sys/fs/cgroup/cpu/{}/{v1}", spec.cgroup)
        };
        fs::read_to_string(path).unwrap().trim().to_owned()
    };
    let mut spec = world.machine("exec sleep 1000");
    spec.guest = Guest { cpu_kind: CpuKind::Performance, cpus: 2, memory_mb: 4096 };
    let _machine = world.start(&spec).await;
    assert!(read(&spec, "cpu.cfs_quota_us", "cpu.max").starts_with("200000"));
    world.destroy(&spec).await;
    let spec = world.machine("exec sleep 1000");
    let _machine = world.start(&spec).await;
    assert_eq!(read(&spec, "cpu.shares", "cpu.weight"), if unified { "6" } else { "64" });
    world.destroy(&spec).await;
}

#[tokio::test]
async fn forbidden_system_calls_fail() {
    let world = World::new();
    let attempts = [
        "mount -t tmpfs none /tmp",
        "umount /proc",
        "unshare -m true",
        "unshare -U true",
        "nsenter -t 1 -m true",
        "mknod /tmp/disk b 8 0",
        "chroot / mount -t proc none /tmp",
        "hostname changed",
        "date -s 2001-01-01; test $(date +%Y) = 2001",
        "swapoff -a; swapon /etc/passwd",
        "dmesg",
        "pivot_root / /tmp",
        "echo 1 > /proc/sys/kernel/panic",
        "echo b > /proc/sysrq-trigger",
        "echo x > /sys/kernel/uevent_helper",
        "cat /proc/1/environ",
        "readlink /proc/1/fd/3",
        "echo x > /proc/1/fd/0",
        "ls /proc/1/root/",
        "cat /proc/1/exe",
        "echo -1000 > /proc/self/oom_score_adj",
    ];
    for attempt in attempts {
        let output =
            world.output(&format!("if ({attempt}) >/dev/null 2>&1; then echo POSSIBLE; else echo refused; fi")).await;
        assert_eq!(output, "refused\n", "{attempt}");
    }
}

#[tokio::test]
async fn root_has_the_usual_capabilities_and_can_gain_none() {
    let world = World::new();
    let output = world.output("grep -E '^(Cap|NoNewPrivs|Seccomp:)' /proc/self/status").await;
    let value = |name: &str| {
        let line = output.lines().find(|line| line.starts_with(name)).unwrap_or_else(|| panic!("{output}"));
        line.split_whitespace().nth(1).unwrap().to_owned()
    };
    // chown, dac_override, fowner, fsetid, kill, setgid, setuid, setpcap, net_bind_service, net_raw,
    // sys_chroot, audit_write, setfcap: the usual set without mknod.
    assert_eq!(value("CapBnd"), "00000000a00425fb");
    assert_eq!(value("CapEff"), "00000000a00425fb");
    assert_eq!(value("CapInh"), "0000000000000000");
    assert_eq!(value("CapAmb"), "0000000000000000");
    assert_eq!((value("NoNewPrivs").as_str(), value("Seccomp:").as_str()), ("1", "2"));

    let mut spec = world.machine("grep CapEff /proc/self/status");
    spec.process.user = "web".into();
    assert_eq!(world.run(&spec).await.1, "CapEff:\t0000000000000000\n");
}

#[tokio::test]
async fn commands_are_confined_like_the_main_process() {
    let world = World::new();
    let spec = world.machine("exec sleep 1000");
    let machine = world.start(&spec).await;
    let finished = exec(&machine, &["sh", "-c", "grep -E '^(CapBnd|NoNewPrivs|Seccomp:)' /proc/self/status"]).await;
    assert_eq!(finished.stdout, "CapBnd:\t00000000a00425fb\nNoNewPrivs:\t1\nSeccomp:\t2\n");
    machine.kill().await.unwrap();
    world.destroy(&spec).await;
}

#[tokio::test]
async fn secrets_of_the_host_are_masked() {
    let world = World::new();
    let output = world
        .output(
            "for f in kcore keys timer_list interrupts; do wc -c < /proc/$f; done 2>/dev/null
             ls /sys/firmware /proc/acpi /proc/scsi 2>/dev/null | grep -v : | grep -v '^$'
             touch /sys/x /proc/sys/x 2>/dev/null || echo read-only",
        )
        .await;
    assert!(output.lines().all(|line| line == "0" || line == "read-only"), "{output}");
    assert!(output.ends_with("read-only\n"));
}

#[tokio::test]
async fn only_its_own_processes_mounts_and_network_are_seen() {
    let world = World::new();
    let output =
        world.output("ls /proc | grep -c '^[0-9]'; cat /proc/self/mountinfo; ls /sys/class/net; ls /dev").await;
    let processes: u32 = output.lines().next().unwrap().parse().unwrap();
    assert!(processes <= 5, "{output}");
    assert!(!output.contains("/var/") && !output.contains("/home"), "{output}");
    let devices: Vec<&str> = output.lines().skip_while(|line| *line != "lo").collect();
    let expected = "lo fd full mqueue null ptmx pts random shm stderr stdin stdout tty urandom zero";
    assert_eq!(devices.join(" "), expected, "{output}");
    // Its first process is the guest, which is nowhere in the root.
    assert_eq!(world.output("cat /proc/1/comm; find / -xdev -name '*guest*'").await, "atoll-guest\n");
}

#[tokio::test]
async fn nothing_leaks_into_processes() {
    let world = World::new();
    let output = world
        .output("ls -l /proc/self/fd 2>/dev/null | wc -l; env; cat /proc/self/oom_score_adj; umask; ulimit -c")
        .await;
    let mut lines: Vec<&str> = output.lines().collect();
    // A head line, three descriptors and the listing's own folder.
    assert_eq!(lines.remove(0), "5", "{output}");
    lines.sort_unstable();
    let expected = [
        "0",
        "0",
        "0022",
        "HOME=/root",
        "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        "PWD=/",
        "SHLVL=1",
    ];
    assert_eq!(lines, expected);
}

#[tokio::test]
async fn links_in_the_image_do_not_lead_files_out() {
    let world = World::new();
    let outside = world.dir.path().join("outside");
    fs::create_dir_all(&outside).unwrap();
    let hostile = world.dir.path().join("hostile");
    fs::create_dir_all(hostile.join("etc")).unwrap();
    symlink(outside.join("hosts"), hostile.join("etc/hosts")).unwrap();
    symlink(&outside, hostile.join("out")).unwrap();
    symlink("../../../../../../../..", hostile.join("up")).unwrap();
    symlink("/proc/self/root", hostile.join("magic")).unwrap();
    let mut spec = world.machine("cat /etc/hosts; cat /up/written");
    spec.layers.push(hostile.clone());
    spec.files = vec![FileSpec { path: "/up/written".into(), content: b"inside\n".to_vec(), mode: 0o644 }];
    let (_, output) = world.run(&spec).await;
    assert_eq!(output, "127.0.0.1\tlocalhost\ninside\n");
    for path in ["/out/escaped", "/magic/escaped"] {
        spec.files = vec![FileSpec { path: path.into(), content: b"x".to_vec(), mode: 0o644 }];
        let error = world.driver.start(&spec).await.map(|_| ()).unwrap_err();
        assert!(matches!(&error, DriverError::Unstartable { reason, .. } if reason.contains(path)), "{error:?}");
    }
    assert_eq!(fs::read_dir(&outside).unwrap().count(), 0);
}

#[tokio::test]
async fn links_in_the_place_of_system_folders_are_refused() {
    let world = World::new();
    for name in ["proc", "dev", "sys"] {
        let mut spec = world.machine("true");
        let hostile = world.dir.path().join(format!("hostile-{name}"));
        fs::create_dir_all(&hostile).unwrap();
        symlink("/etc", hostile.join(name)).unwrap();
        spec.layers.push(hostile);
        let error = world.driver.start(&spec).await.map(|_| ()).unwrap_err();
        assert!(matches!(&error, DriverError::Unstartable { reason, .. } if reason.contains(name)), "{error:?}");
    }
}

#[tokio::test]
async fn the_guest_cannot_be_killed_or_held_up_from_inside() {
    let world = World::new();
    let spec = world.machine("kill -9 1; kill -TERM 1; kill -STOP 1; kill -CHLD 1; echo survived; exec sleep 1000");
    let machine = world.start(&spec).await;
    eventually("the attempts", || log(&spec).contains("survived")).await;
    assert_eq!(exec(&machine, &["echo", "alive"]).await.stdout, "alive\n");
    machine.kill().await.unwrap();
    world.destroy(&spec).await;
}

#[tokio::test]
async fn a_bad_cgroup_path_makes_nothing() {
    let world = World::new();
    let mut spec = world.machine("true");
    spec.cgroup = "../escape".into();
    let error = world.driver.start(&spec).await.map(|_| ()).unwrap_err();
    assert!(atoll_signals::with_causes(&error).contains("../escape"), "{error:?}");
}
