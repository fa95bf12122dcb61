//! Which edge a client reaches at the service address.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use atoll_lab::{Host, Lab};

use crate::support::{SERVICE, client, eventually, node, start};

const PORT: u16 = 80;

/// Answers every connection to the service address with the host's name.
async fn serve(lab: &Lab, name: &'static str) {
    let host = lab.host(name).unwrap();
    let listener = host.in_network(|| TcpListener::bind((SERVICE, PORT))).await.unwrap().unwrap();
    // Ends with the test's process; a listener in a network that is gone only waits.
    thread::spawn(move || {
        while let Ok((mut stream, _)) = listener.accept() {
            if stream.write_all(name.as_bytes()).is_err() {
                continue;
            }
        }
    });
}

async fn edge_of(client: &Host) -> Option<String> {
    let asked = client.in_network(|| {
        let to = SocketAddr::from((SERVICE, PORT));
        let mut stream = TcpStream::connect_timeout(&to, Duration::from_millis(100)).ok()?;
        stream.set_read_timeout(Some(Duration::from_millis(100))).ok()?;
        let mut name = String::new();
        stream.read_to_string(&mut name).ok()?;
        Some(name)
    });
    asked.await.unwrap()
}

/// How long it takes until the client is served by this edge.
async fn served_by(client: &Host, edge: &str) -> Duration {
    let began = Instant::now();
    eventually(&format!("served by {edge}"), async || (edge_of(client).await.as_deref() == Some(edge)).then_some(()))
        .await;
    began.elapsed()
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_reach_the_nearest_living_edge() {
    // Near Berlin: Amsterdam at 4 ms, Paris at 7 ms, so that connecting is quick everywhere.
    let world = format!("{}{}{}", node("ams", "ams"), node("cdg", "cdg"), client("berlin", "Berlin"));
    let lab = start(&world).await;
    serve(&lab, "ams").await;
    serve(&lab, "cdg").await;
    let (berlin, ams) = (lab.host("berlin").unwrap(), lab.host("ams").unwrap());
    assert_eq!(edge_of(&berlin).await.as_deref(), Some("ams"));
    // Ten times what is expected at most: other tests keep the machine busy.
    let soon = Duration::from_secs(5);

    lab.slow("berlin", "ams", Duration::from_millis(50)).await.unwrap();
    assert!(served_by(&berlin, "cdg").await < soon);
    lab.heal_all().await.unwrap();
    assert!(served_by(&berlin, "ams").await < soon);

    // What changed before has been followed by now: nothing but the cut moves the client.
    let began = Instant::now();
    lab.cut("berlin", "ams").await.unwrap();
    served_by(&berlin, "cdg").await;
    let moved = began.elapsed();
    assert!((Duration::from_millis(190)..soon).contains(&moved), "moved after {moved:?}");
    lab.heal_all().await.unwrap();
    assert!(served_by(&berlin, "ams").await < soon);

    ams.withdraw().await.unwrap();
    assert!(served_by(&berlin, "cdg").await < soon);
    ams.announce().await.unwrap();
    assert!(served_by(&berlin, "ams").await < soon);

    ams.kill().await.unwrap();
    assert!(served_by(&berlin, "cdg").await < soon);
    lab.host("cdg").unwrap().pause().await.unwrap();
    eventually("nobody left", async || lab.status().host("berlin").unwrap().steered_to.is_none().then_some(())).await;
    assert_eq!(edge_of(&berlin).await, None);
}
