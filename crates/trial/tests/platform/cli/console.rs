//! `atoll ssh console`: a terminal in a machine.

use anyhow::ensure;

use atoll_trial::platform::ONE_REGION;

use super::{User, deploy_site};
use crate::support::trial;

#[test]
fn a_console_is_a_terminal_in_a_machine() {
    trial("console", ONE_REGION, async |platform| {
        deploy_site(platform, &[]).await?;
        let user = User::of(platform)?;
        let mut terminal = platform.terminal(user.folder(), &["ssh", "console", "-a", "site"], (31, 97))?;
        terminal.keys("busybox stty size\r")?;
        terminal.shows("31 97").await?;
        terminal.resize((42, 123))?;
        // The size travels beside the keys: it is asked for until it has arrived.
        terminal.keys("until busybox stty size | grep 42; do busybox sleep 0.1; done\r")?;
        terminal.shows("42 123").await?;

        // What runs says so itself: the line alone is shown before the command has the terminal.
        terminal.keys("busybox sh -c 'echo run''ning; exec busybox sleep 600'\r")?;
        terminal.shows("running").await?;
        terminal.keys("\x03")?;
        terminal.keys("echo ended with $?\r")?;
        terminal.shows("ended with 130").await?;
        terminal.keys("exit 7\r")?;
        let code = terminal.ended().await?;
        ensure!(code == Some(7), "it ended with {code:?}");

        // Without a terminal: output, input and the exit code alone.
        let said = user.types(&["ssh", "console", "-a", "site", "-C", "echo out; echo err >&2; exit 9"]).await?;
        ensure!(said.code == Some(9) && said.stdout.contains("out\n"), "{said:?}");
        // Input that the command does not read is in nobody's way, and how it ended is told all the same.
        for _ in 0..5 {
            let said =
                user.pipes("head -c 20000000 /dev/zero", &["ssh", "console", "-a", "site", "-C", "exit 9"]).await?;
            ensure!(said.code == Some(9), "{said:?}");
        }
        // Both directions flow at once.
        let said = user.pipes("seq 1000000", &["ssh", "console", "-a", "site", "-C", "/bin/busybox cat"]).await?;
        let lines = said.stdout.lines().count();
        ensure!(said.code == Some(0) && lines == 1_000_000 && said.stderr.is_empty(), "{lines} lines, {}", said.stderr);
        let missing = user.fails(4, &["ssh", "console", "-a", "site", "--machine", "00000000000001"]).await?;
        ensure!(missing.contains("machine not found"), "{missing}");
        Ok(())
    });
}
