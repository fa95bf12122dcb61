//! Services without HTTP: after the edge has (perhaps) ended TLS, a client's bytes go to a machine as
//! they are. Which app is meant says the address the client entered at, or the name it asked TLS for.

use std::sync::Arc;
use std::time::Instant;

use atoll_model::AppName;
use atoll_model::service::{Handler, Port};
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;

use super::proxy_protocol;
use super::request::Entrance;
use super::search::{Destination, Errand, Found};
use super::tunnel::{Copied, copy_both_ways};
use crate::core::Core;
use crate::counters::TrafficClass;
use crate::errors::Cause;
use crate::node::{Answer, Exchange, Permit, Setback, Terms, open};
use crate::select::Target;
use crate::steering::Steering;

/// The code of a connection that no machine took.
const NO_MACHINE: &str = "PR01";

/// A connection to be carried to a machine.
struct Passage {
    to: Destination,
}

/// The machine's end of it.
enum FarEnd {
    Here(TcpStream, Permit),
    There(OnUpgrade),
}

impl Errand for Passage {
    type Answer = FarEnd;

    async fn attempt(&self, core: &Arc<Core>, target: &Target, terms: Terms) -> Result<FarEnd, Setback> {
        if target.local {
            let (row, service) = (&target.machine, target.service);
            let exchange = Exchange { core, row, service, terms };
            return open(&exchange).await.map(|(stream, permit)| FarEnd::Here(stream, permit));
        }
        match core.peers.open(core, target, self.to.port, terms).await? {
            Answer::Tunnel(tunnel) => Ok(FarEnd::There(tunnel.machine)),
            Answer::Response(_) => Err(Setback::untouched(Cause::PeerUnreachable)),
        }
    }

    fn may_be_repeated(&self) -> bool {
        // Nothing is sent before the connection stands.
        true
    }

    fn is_whole(&self) -> bool {
        true
    }
}

/// Carries one connection; returns when both directions have ended.
pub(super) async fn pass(
    core: &Arc<Core>,
    client: impl AsyncRead + AsyncWrite + Send,
    app: AppName,
    entrance: &Entrance,
    port: &Port,
) {
    let passage = Passage {
        to: Destination { app, port: entrance.external_port, steering: Steering::default(), began: Instant::now() },
    };
    let Found { result, machine, .. } = passage.to.search(core, &passage).await;
    let far_end = match result {
        Ok(far_end) => far_end,
        Err(failure) => {
            core.edge.counters.failure(NO_MACHINE);
            tracing::info!(app = %passage.to.app, code = NO_MACHINE, reason = %failure.text, "a connection was closed");
            return;
        }
    };
    let greeting = port.has(Handler::ProxyProto).then(|| proxy_protocol::header(port, entrance));
    let carrying = async {
        match far_end {
            FarEnd::Here(stream, permit) => {
                let copied = carry(client, stream, greeting).await;
                drop(permit);
                copied
            }
            FarEnd::There(upgrade) => match upgrade.await {
                Ok(stream) => carry(client, TokioIo::new(stream), greeting).await,
                Err(_) => Copied::default(),
            },
        }
    };
    let copied = core.edge.shutdown.end.run_until_cancelled(carrying).await.unwrap_or_default();
    if let Some(machine) = machine {
        let class = TrafficClass::of(&machine, &core.edge.config);
        core.edge.counters.bytes(class).add(copied.from_left + copied.from_right);
    }
}

async fn carry(
    client: impl AsyncRead + AsyncWrite,
    mut machine: impl AsyncRead + AsyncWrite + Unpin,
    greeting: Option<Vec<u8>>,
) -> Copied {
    if let Some(greeting) = greeting
        && machine.write_all(&greeting).await.is_err()
    {
        return Copied::default();
    }
    copy_both_ways(client, machine).await
}

/// Length and code of the message with which a PostgreSQL client asks for TLS.
const POSTGRES_TLS_REQUEST: [u8; 8] = [0, 0, 0, 8, 0x04, 0xd2, 0x16, 0x2f];

/// Lets a PostgreSQL client begin TLS; false when it wants something else.
pub(super) async fn accept_postgres_tls(stream: &mut TcpStream) -> bool {
    let mut request = [0; POSTGRES_TLS_REQUEST.len()];
    stream.read_exact(&mut request).await.is_ok()
        && request == POSTGRES_TLS_REQUEST
        && stream.write_all(b"S").await.is_ok()
}
