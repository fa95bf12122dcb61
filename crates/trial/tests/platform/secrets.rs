//! Secrets that servers share beside their mesh keys: made anew with each certificate, lost by nobody's death.

use anyhow::ensure;

use atoll_trial::platform::{PAIR, Role, SOON};
use atoll_trial::private::Pair;
use atoll_trial::short_lives::{A_FEW_SECONDS, another_secret, join_with_lives_of, shared_secret};
use atoll_trial::wait::until;

use crate::support::trial;

/// Secrets that are seen to come while packets flow.
const SECRETS: usize = 2;
/// They flow for longer than a certificate lives.
const PACKETS: usize = 1300;

#[test]
fn secrets_change_under_load_without_a_loss_and_outlive_processes_files_and_control() {
    trial("secrets", PAIR, async |platform| {
        let late = join_with_lives_of(platform, A_FEW_SECONDS).await?;
        let (mut secret, _) = until("the first secret", SOON, async || shared_secret(platform).await).await?;
        let pair = Pair::make(platform, ["ams", "nrt"]).await?;
        let changing = async {
            for _ in 0..SECRETS {
                secret = another_secret(platform, secret).await?;
            }
            Ok::<_, anyhow::Error>(())
        };
        let (counted, changed) = tokio::join!(pair.count_quick(platform, PACKETS), changing);
        let counted = counted?;
        changed?;
        println!("while secrets changed: {counted:?}");
        ensure!(counted.lost == 0, "{counted:?}");

        // Each dies at a moment as good as any; the second one has lost its file when it is back.
        for (node, forgets) in [(platform.node("ams")?, false), (&late, true)] {
            if forgets {
                std::fs::remove_file(node.seen_from_outside(&node.state()?.join("net/secrets"))?)?;
            }
            let net = node.pid(Role::Net)?;
            node.signal(net, "KILL").await?;
            node.replaced(Role::Net, net).await?;
            let took = pair.reached(platform).await?;
            println!("{} is back after {took:.1?}, its secrets {}", node.name(), if forgets { "lost" } else { "kept" });
            secret = another_secret(platform, secret).await?;
        }

        // Certificates end while control is silent, and with them nothing else.
        let ams = platform.node("ams")?;
        let control = ams.pid(Role::Control)?;
        ams.signal(control, "STOP").await?;
        let counted = pair.count_quick(platform, PACKETS).await?;
        ams.signal(control, "CONT").await?;
        println!("while control was silent: {counted:?}");
        ensure!(counted.lost == 0, "{counted:?}");
        Ok(())
    });
}
