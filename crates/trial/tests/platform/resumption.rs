//! Connections opened before the mesh's sessions are there again; and whoever recorded how.

use std::net::UdpSocket;
use std::num::NonZeroU32;
use std::os::fd::OwnedFd;

use anyhow::{Context, ensure};
use rustix::net::sockopt::set_socket_recv_buffer_size_force;
use rustix::net::{AddressFamily, Protocol, RecvFlags, SocketType, recv, socket};

use atoll_trial::first_call::{after_restart, has_tickets, net_metric};
use atoll_trial::platform::{Node, Platform, Role, SOON, TWO_REGIONS};
use atoll_trial::wait::until;

use crate::support::trial;

/// Where early packets arrive.
const PORT: u16 = 51_823;
/// IPv4, as the kernel numbers what a network card carries.
const IPV4: u16 = 0x0800;
/// All that a host receives during one restart, in bytes.
const BUFFER: usize = 16 << 20;
/// Kills of one process; a call must meet the time of one round trip, which a busy machine may miss.
const TRIES: usize = 5;

/// Everything that passes a host's interfaces.
struct Tap(OwnedFd);

impl Tap {
    async fn open(node: &Node) -> anyhow::Result<Self> {
        let protocol = NonZeroU32::new(u32::from(IPV4.to_be())).map(Protocol::from_raw);
        let open = move || socket(AddressFamily::PACKET, SocketType::DGRAM, protocol);
        let tap = node.host().in_network(open).await??;
        set_socket_recv_buffer_size_force(&tap, BUFFER)?;
        Ok(Self(tap))
    }

    /// What went to the port of early packets since the last look.
    fn early(&self) -> Vec<Vec<u8>> {
        let mut buffer = [0; 2048];
        let mut found = Vec::new();
        while let Ok((length, _)) = recv(&self.0, &mut buffer[..], RecvFlags::DONTWAIT) {
            let packet = &buffer[..length];
            let header = usize::from(packet[0] & 0xf) * 4;
            let udp = packet.get(9) == Some(&17);
            let Some(payload) = packet.get(header + 8..).filter(|_| udp) else { continue };
            if packet[header + 2..header + 4] == PORT.to_be_bytes() && payload.starts_with(b"atr\x01") {
                found.push(payload.to_vec());
            }
        }
        found
    }
}

async fn taken(node: &Node) -> anyhow::Result<u64> {
    net_metric(node, "atoll_mesh_resumption_packets_total", &[("way", "taken")]).await
}

/// Datagrams refused for any of these reasons.
async fn refused(node: &Node, reasons: &[&str]) -> anyhow::Result<u64> {
    let mut sum = 0;
    for reason in reasons {
        sum += net_metric(node, "atoll_mesh_resumption_refused_total", &[("reason", reason)]).await?;
    }
    Ok(sum)
}

/// Sends recorded datagrams from another host and waits until all were refused, for these reasons.
async fn replay(platform: &Platform, recorded: &[Vec<u8>], to: &Node, reasons: &[&str]) -> anyhow::Result<()> {
    let (before, taken_before) = (refused(to, reasons).await?, taken(to).await?);
    let (target, datagrams) = (to.address(PORT)?, recorded.to_vec());
    let send = move || {
        let socket = UdpSocket::bind("0.0.0.0:0")?;
        datagrams.iter().try_for_each(|datagram| socket.send_to(datagram, target).map(drop))
    };
    platform.host("osaka")?.in_network(send).await??;
    until("replayed datagrams are refused", SOON, async || {
        let more = refused(to, reasons).await? - before;
        ensure!(more >= recorded.len() as u64, "{more} of {}", recorded.len());
        Ok(())
    })
    .await?;
    ensure!(taken(to).await? == taken_before, "a replayed datagram was taken");
    Ok(())
}

#[test]
fn a_call_after_a_restart_takes_a_round_trip_less_and_cannot_be_replayed() {
    trial("resumption", TWO_REGIONS, async |platform| {
        platform.create_app("web").await?;
        let caller = platform.running_machine("web", "nrt").await?.id;
        let callee = platform.running_machine("web", "ams").await?.address;
        let (ams, nrt) = (platform.node("ams")?, platform.node("nrt")?);
        let url = format!("http://[{callee}]:8080/healthz");
        until("the servers reach each other", SOON, async || {
            let output = nrt.in_machine(&caller, "curl", &["-sSfg", "--max-time", "2", &url]).await?;
            ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
            Ok(())
        })
        .await?;

        let tap = Tap::open(ams).await?;
        let mut recorded = Vec::new();
        for _ in 0..TRIES {
            has_tickets(nrt, 1).await?;
            tap.early();
            let call = after_restart(nrt, &caller, callee).await?;
            recorded = tap.early();
            println!("{} early packets, {call:?}", recorded.len());
            if taken(ams).await? > 0 {
                break;
            }
        }
        ensure!(taken(ams).await? > 0 && !recorded.is_empty(), "no call was opened early");
        let returned = net_metric(nrt, "atoll_mesh_resumption_packets_total", &[("way", "returned")]).await?;
        ensure!(returned > 0, "no early answer came back");
        replay(platform, &recorded, ams, &["replayed", "used", "unknown"]).await?;

        // A responder that restarted knows no ticket; the call goes on by the handshake.
        has_tickets(nrt, 1).await?;
        let old = ams.kill(Role::Net).await?;
        ams.replaced(Role::Net, old).await?;
        until("it gives tickets again", SOON, async || taken(ams).await).await?;
        replay(platform, &recorded, ams, &["unknown"]).await?;
        let before = refused(ams, &["unknown"]).await?;
        let call = after_restart(nrt, &caller, callee).await.context("without resumption")?;
        println!("{call:?} after the responder's restart");
        ensure!(taken(ams).await? == 0, "a ticket outlived the process that gave it");
        println!("{} early packets refused", refused(ams, &["unknown"]).await? - before);
        Ok(())
    });
}
