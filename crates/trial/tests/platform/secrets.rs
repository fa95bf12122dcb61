//! Secrets that servers share beside their mesh keys: made anew with each certificate, lost by nobody's death.

use anyhow::{Context, ensure};

use atoll_model::MachineState;
use atoll_trial::platform::{MachineSpec, Node, Origin, Platform, Role, SOON};
use atoll_trial::wait::until;

use crate::joining::PAIR;
use crate::support::trial;

/// Of servers' certificates; each leader makes a new secret at half of it.
const LIFE: &str = "6";
/// Secrets that are seen to come while packets flow, for about six seconds.
const SECRETS: usize = 2;
const PACKETS: &str = "1200";
const BETWEEN_PACKETS: &str = "0.005";

/// What the first server shares with the second one: when the certificate ends under which it was made.
async fn shared(platform: &Platform) -> anyhow::Result<u64> {
    let found = platform.client().mesh().await?;
    let ways = found.servers.iter().filter_map(|server| server.report.as_ref()).flat_map(|report| &report.ways);
    let until: Vec<_> = ways.map(|way| way.secret_until).collect();
    ensure!(until.len() == 2, "{} ways", until.len());
    ensure!(until[0] == until[1], "they do not mean the same: {until:?}");
    until[0].context("they share none yet")
}

/// Waits for another secret than this one.
async fn another(platform: &Platform, than: u64) -> anyhow::Result<u64> {
    let waited = until("a new secret", SOON, async || {
        let now = shared(platform).await?;
        ensure!(now != than, "it is the old one");
        Ok(now)
    });
    Ok(waited.await?.0)
}

/// A machine of the app in this region, and its private address.
async fn machine(platform: &Platform, region: &str) -> anyhow::Result<(String, String)> {
    let id = platform.create_machine("web", &MachineSpec { region, ..MachineSpec::default() }).await?;
    let machine = platform.in_state("web", &id, MachineState::Started).await?;
    Ok((id, machine.private_ip))
}

#[test]
fn secrets_change_under_load_without_a_loss_and_outlive_processes_and_files() {
    trial("secrets", PAIR, async |platform| {
        let first = platform.node_mut("ams")?;
        first.end().await?;
        first.set_arguments(&["--certificate-seconds", LIFE]);
        first.start(&Origin::First).await?;
        let control = platform.nodes_address()?;
        let token = platform.client().node_token().await?.token;
        let mut nrt = Node::new(platform.host("late")?, "nrt");
        nrt.start(&Origin::Joins { control, token }).await?;
        let (mut secret, _) = until("the first secret", SOON, async || shared(platform).await).await?;
        let ams = platform.node("ams")?;
        platform.create_app("web").await?;
        let (near, _) = machine(platform, "ams").await?;
        let (_, far) = machine(platform, "nrt").await?;
        let ping = async |arguments: &[&str]| {
            let output = ams.in_machine(&near, "ping", &[&["-6", "-q"], arguments, &[&far]].concat()).await?;
            Ok::<_, anyhow::Error>(String::from_utf8(output.stdout)?)
        };
        let reaches = async || {
            let said = ping(&["-c", "1", "-W", "1"]).await?;
            ensure!(said.contains(" 0% packet loss"), "{said}");
            Ok(())
        };
        until("one reaches the other", SOON, async || reaches().await).await?;

        let changing = async {
            for _ in 0..SECRETS {
                secret = another(platform, secret).await?;
            }
            Ok::<_, anyhow::Error>(secret)
        };
        let (counted, changed) = tokio::join!(ping(&["-c", PACKETS, "-i", BETWEEN_PACKETS]), changing);
        let counted = counted?;
        secret = changed?;
        println!("while secrets changed: {}", counted.lines().find(|line| line.contains("loss")).unwrap_or(&counted));
        ensure!(counted.contains(" 0% packet loss"), "{counted}");

        // Each dies at a moment as good as any; the second one has lost its file when it is back.
        for (node, forgets) in [(ams, false), (&nrt, true)] {
            if forgets {
                std::fs::remove_file(node.seen_from_outside(&node.state()?.join("net/secrets"))?)?;
            }
            let net = node.pid(Role::Net)?;
            node.signal(net, "KILL").await?;
            node.replaced(Role::Net, net).await?;
            let (_, took) = until("one reaches the other again", SOON, async || reaches().await).await?;
            println!("{} is back after {took:.1?}, its secrets {}", node.name(), if forgets { "lost" } else { "kept" });
            secret = another(platform, secret).await?;
        }
        Ok(())
    });
}
