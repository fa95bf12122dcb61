//! What links do to packets.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::thread;
use std::time::{Duration, Instant};

use atoll_lab::path::Path;
use atoll_lab::verb::Verb;

use crate::support::{echo, pair, round_trips, udp, undisturbed};

fn ms(milliseconds: u64) -> Duration {
    Duration::from_millis(milliseconds)
}

/// Never below the configured round trip, and typically at most this much above.
const TOLERANCE: Duration = Duration::from_millis(2);

#[track_caller]
fn check_round_trip(socket: &UdpSocket, to: SocketAddr, configured: Duration) {
    let taken = round_trips(socket, to, 41);
    assert!(taken.len() > 35, "{} of 41 came back", taken.len());
    let (least, median) = (taken[0], taken[taken.len() / 2]);
    assert!(least >= configured, "{least:?} is faster than the configured {configured:?}");
    assert!(median <= configured + TOLERANCE, "typically {median:?}, configured {configured:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_round_trip_takes_what_is_configured_and_changes_live() {
    let (lab, a, b) = pair("delay = \"20ms\"").await;
    let ((from, _), (server, to)) = (udp(&a).await, udp(&b).await);
    echo(server);
    check_round_trip(&from, to, ms(40));

    lab.slow("a", "b", ms(10)).await.unwrap();
    check_round_trip(&from, to, ms(60));
    lab.heal("b", "a").await.unwrap();
    check_round_trip(&from, to, ms(40));

    let path = Some(Path::delayed(ms(5)));
    lab.apply(Verb::SetPath { a: "a".into(), b: "b".into(), path, one_way: true }).await.unwrap();
    check_round_trip(&from, to, ms(25));
}

#[tokio::test(flavor = "multi_thread")]
async fn hosts_reach_each_other_over_ipv6_and_by_name() {
    let (_lab, a, b) = pair("delay = \"1ms\"").await;
    let (to, from) = (b.ipv6().unwrap(), a.ipv6().unwrap());
    let server = b.in_network(move || UdpSocket::bind((to, 0))).await.unwrap().unwrap();
    let to = server.local_addr().unwrap();
    echo(server);
    let socket = a.in_network(move || UdpSocket::bind((from, 0))).await.unwrap().unwrap();
    socket.set_read_timeout(Some(ms(500))).unwrap();
    check_round_trip(&socket, to, ms(2));

    let known = a.command("getent").unwrap().args(["ahostsv4", "b"]).output().await.unwrap();
    assert!(String::from_utf8_lossy(&known.stdout).starts_with("10.77.0.2 "), "{known:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_one_way_cut_leaves_the_way_back() {
    let (lab, a, b) = pair("delay = \"1ms\"").await;
    let ((at_a, a_address), (at_b, b_address)) = (udp(&a).await, udp(&b).await);
    let passes = |from: &UdpSocket, to: &UdpSocket, address| {
        from.send_to(b"x", address).unwrap();
        undisturbed(|| to.recv(&mut [0; 8])).is_ok()
    };
    lab.cut_one_way("a", "b").await.unwrap();
    assert!(!passes(&at_a, &at_b, b_address));
    assert!(passes(&at_b, &at_a, a_address));
    lab.heal_all().await.unwrap();
    assert!(passes(&at_a, &at_b, b_address));
    lab.isolate("b").await.unwrap();
    assert!(!passes(&at_a, &at_b, b_address) && !passes(&at_b, &at_a, a_address));
    lab.heal_host("b").await.unwrap();
    assert!(passes(&at_a, &at_b, b_address) && passes(&at_b, &at_a, a_address));
}

/// Sends numbered datagrams and gives the numbers that arrive.
fn send_numbered(from: &UdpSocket, at: &UdpSocket, to: SocketAddr, count: u32) -> Vec<u32> {
    let from = from.try_clone().unwrap();
    let sender = thread::spawn(move || {
        for number in 0..count {
            from.send_to(&number.to_be_bytes(), to).unwrap();
            // Small pauses, so that the receiver's buffer never overflows.
            if number % 20 == 19 {
                thread::sleep(ms(1));
            }
        }
    });
    let mut arrived = Vec::new();
    let mut number = [0; 4];
    while undisturbed(|| at.recv(&mut number)).is_ok() {
        arrived.push(u32::from_be_bytes(number));
    }
    sender.join().unwrap();
    arrived
}

#[tokio::test(flavor = "multi_thread")]
async fn loss_is_about_what_is_configured_one_way() {
    let (lab, a, b) = pair("").await;
    let ((at_a, _), (at_b, to)) = (udp(&a).await, udp(&b).await);
    assert_eq!(send_numbered(&at_a, &at_b, to, 500).len(), 500);
    lab.lose("a", "b", 10.0).await.unwrap();
    let arrived = send_numbered(&at_a, &at_b, to, 3_000).len();
    assert!((2_600..2_800).contains(&arrived), "{arrived} of 3000 arrived at 10 % loss");
    let counters = lab.apply(Verb::Status).await.unwrap().relay.counters;
    assert!(counters.lost >= 200, "{counters:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn jitter_varies_the_delay_and_keeps_the_order() {
    let (_lab, a, b) = pair("delay = \"10ms\"\njitter = \"8ms\"").await;
    let ((at_a, _), (at_b, to)) = (udp(&a).await, udp(&b).await);
    let arrived = send_numbered(&at_a, &at_b, to, 1_000);
    assert_eq!(arrived, (0..1_000).collect::<Vec<_>>());
    echo(at_b);
    let taken = round_trips(&at_a, to, 60);
    let (least, most) = (taken[0], taken[taken.len() - 1]);
    assert!(least >= ms(4) && most - least > ms(5), "from {least:?} to {most:?}");
}

/// Bytes a second of one TCP stream for about a second; what arrives is what was sent.
async fn throughput(a: &atoll_lab::Host, b: &atoll_lab::Host) -> f64 {
    let address = b.ipv4().unwrap();
    let listener = b.in_network(move || TcpListener::bind((address, 0))).await.unwrap().unwrap();
    let to = listener.local_addr().unwrap();
    let receiver = thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut buffer = vec![0; 256 << 10];
        let (mut total, mut sum) = (0_u64, 0_u64);
        loop {
            let length = stream.read(&mut buffer).unwrap();
            if length == 0 {
                return (total, sum);
            }
            total += length as u64;
            sum += buffer[..length].iter().map(|byte| u64::from(*byte)).sum::<u64>();
        }
    });
    let stream = a.in_network(move || TcpStream::connect(to)).await.unwrap().unwrap();
    let block: Vec<u8> = (0..=255).cycle().take(128 << 10).collect();
    let block_sum: u64 = block.iter().map(|byte| u64::from(*byte)).sum();
    let began = Instant::now();
    let sender = thread::spawn(move || {
        let mut stream = stream;
        let mut blocks = 0;
        while began.elapsed() < Duration::from_secs(1) {
            stream.write_all(&block).unwrap();
            blocks += 1;
        }
        blocks
    });
    let blocks: u64 = sender.join().unwrap();
    let (total, sum) = receiver.join().unwrap();
    assert_eq!((total, sum), (blocks * (128 << 10), blocks * block_sum));
    total as f64 / began.elapsed().as_secs_f64()
}

#[tokio::test(flavor = "multi_thread")]
async fn tcp_is_fast_because_segments_pass_whole() {
    let (_lab, a, b) = pair("delay = \"0s\"").await;
    let megabits = throughput(&a, &b).await * 8.0 / 1e6;
    println!("{megabits:.0} Mbit/s through the relay");
    assert!(megabits > 400.0, "{megabits:.0} Mbit/s");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rate_limit_holds() {
    let (_lab, a, b) = pair("delay = \"5ms\"\nrate = \"20mbit\"").await;
    let megabits = throughput(&a, &b).await * 8.0 / 1e6;
    assert!((10.0..21.0).contains(&megabits), "{megabits:.1} Mbit/s at 20 Mbit/s");
}
