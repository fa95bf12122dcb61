//! A host with a kernel of its own, in a world with a host of namespaces. Needs root, and a folder made
//! by `worlds/fetch-vm.sh` named in `ATOLL_LAB_VM`.

use std::io::Read;
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::time::{Duration, Instant};

use atoll_lab::{Host, Lab, Options, World, address::SERVICE_ADDRESS, vm::files::FILES_VARIABLE};

const WORLD: &str = r#"
[[host]]
name = "box"
city = "ams"
role = "node"
kind = "vm"
[[host]]
name = "user"
city = "ams"
role = "client"
[[link]]
a = "box"
b = "user"
delay = "10ms"
"#;

const LIMIT: Duration = Duration::from_secs(60);

async fn run(host: &Host, script: &str) -> (Option<i32>, String) {
    let output = host.command("sh").unwrap().args(["-c", script]).output().await.unwrap();
    let text = [output.stdout, output.stderr].concat();
    (output.status.code(), String::from_utf8_lossy(&text).trim().to_owned())
}

/// Connects until somebody listens, and reads what is said.
async fn hear(from: &Host, to: SocketAddr) -> (String, Duration) {
    let deadline = Instant::now() + LIMIT;
    loop {
        let heard = from.in_network(move || {
            let began = Instant::now();
            let mut stream = TcpStream::connect_timeout(&to, Duration::from_secs(5)).ok()?;
            let connected = began.elapsed();
            let mut text = String::new();
            stream.read_to_string(&mut text).ok()?;
            Some((text, connected))
        });
        if let Some(heard) = heard.await.unwrap() {
            return heard;
        }
        assert!(Instant::now() < deadline, "nobody listened within {LIMIT:?}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_virtual_machine_is_a_host_like_others_with_its_own_kernel() {
    assert!(rustix::process::geteuid().is_root(), "virtual machines are put into control groups: run this as root");
    assert!(std::env::var_os(FILES_VARIABLE).is_some(), "name a folder made by worlds/fetch-vm.sh in {FILES_VARIABLE}");
    let program = Some(Path::new(env!("CARGO_BIN_EXE_atoll-lab")).to_owned());
    let shared = tempfile::NamedTempFile::new_in("/var/tmp").unwrap();
    std::fs::write(&shared, "from outside").unwrap();
    let vm_files = vec![shared.path().to_owned()];
    let options = Options { program, vm_files, ..Options::default() };
    let lab = Lab::start(&World::parse(WORLD).unwrap(), &options).await.unwrap();
    let (machine, user) = (lab.host("box").unwrap(), lab.host("user").unwrap());

    // Programs.
    assert_eq!(run(&machine, "hostname; exit 9").await, (Some(9), "box".to_owned()));
    assert_eq!(run(&machine, &format!("cat {}", shared.path().display())).await.1, "from outside");
    let missing = machine.command("no-such-program").unwrap().output().await.unwrap();
    assert_eq!(missing.status.code(), Some(127));
    let many = run(&machine, "seq 1 100000 | md5sum").await.1;
    assert!(many.starts_with("dea9193b768319cbb4ff1a137ac03113"), "{many}");

    // Its own kernel: pure version 2 control groups, WireGuard, netem.
    let (code, told) = run(
        &machine,
        "cd /sys/fs/cgroup && echo '+memory +pids +cpu' > cgroup.subtree_control && mkdir child \
         && echo 64M > child/memory.max && cat child/memory.max && ! grep -q ' cgroup ' /proc/mounts",
    )
    .await;
    assert_eq!((code, told.as_str()), (Some(0), "67108864"));
    let made = run(&machine, "/sbin/ip link add wg0 type wireguard && /sbin/ip link show wg0 | head -1").await;
    assert!(made.0 == Some(0) && made.1.contains("wg0"), "{made:?}");

    // The same network: addresses, delay, steering.
    let disk = machine.disk().unwrap();
    let script =
        format!("echo kept > {}/file; sync; echo hello | nc -l -p 7000; echo served | nc -l -p 7001", disk.display());
    let serving = tokio::spawn({
        let machine = machine.clone();
        async move { run(&machine, &script).await }
    });
    let (text, connected) = hear(&user, (machine.ipv4().unwrap(), 7000).into()).await;
    assert_eq!(text, "hello\n");
    assert!(connected >= Duration::from_millis(20), "connected in {connected:?} over 20 ms");
    assert_eq!(hear(&user, (SERVICE_ADDRESS, 7001).into()).await.0, "served\n");
    assert_eq!(serving.await.unwrap().0, Some(0));

    // A power cut.
    machine.kill().await.unwrap();
    assert!(machine.command("true").is_err());
    machine.boot().await.unwrap();
    assert_eq!(run(&machine, &format!("cat {}/file", disk.display())).await, (Some(0), "kept".to_owned()));
}
