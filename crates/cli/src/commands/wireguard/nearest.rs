//! Which gateway is nearest to this computer: the one that accepts a connection first.

use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use tokio::net::TcpStream;

use atoll_model::wire::WireGuardGateway;

/// By then even the far side of the world has answered.
const LIMIT: Duration = Duration::from_secs(2);

/// None if none answers, which may be the fault of a firewall between.
pub async fn nearest(gateways: Vec<WireGuardGateway>) -> Option<WireGuardGateway> {
    let connect = async |gateway: WireGuardGateway| {
        // Where datagrams in WebSockets arrive; one asked over UDP would not answer a stranger.
        TcpStream::connect(gateway.websocket()).await.ok().map(|_| gateway)
    };
    let mut connecting: FuturesUnordered<_> = gateways.into_iter().map(connect).collect();
    let first = async {
        while let Some(connected) = connecting.next().await {
            if connected.is_some() {
                return connected;
            }
        }
        None
    };
    tokio::time::timeout(LIMIT, first).await.unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use super::*;

    fn gateway(node: &str, at: SocketAddr) -> WireGuardGateway {
        WireGuardGateway {
            node: node.parse().unwrap(),
            region: "ams".parse().unwrap(),
            public_key: String::new(),
            endpoint: SocketAddr::new(at.ip(), 51821),
            websocket_port: at.port(),
        }
    }

    #[tokio::test]
    async fn a_gateway_that_does_not_answer_is_not_near() {
        let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let open = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let near = gateway("near", open.local_addr().unwrap());
        let found = nearest(vec![gateway("dead", closed), near.clone()]).await;
        assert_eq!(found, Some(near));
        assert_eq!(nearest(vec![gateway("dead", closed)]).await, None);
    }
}
