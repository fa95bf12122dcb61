//! Round trips of small datagrams between the ends of a cable.

use std::net::{IpAddr, UdpSocket};
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};

use super::ends::Cable;
use crate::figure::Samples;

const TRIPS: usize = 1_000;
/// Between two trips: both ends have gone to sleep, as at little load.
const PAUSE: Duration = Duration::from_millis(2);
/// Until the first answer: a handshake may have to be repeated.
const PATIENCE: Duration = Duration::from_secs(20);

/// From the near address to the far one and back.
pub fn median_ms(cable: &Cable, (near, far): (IpAddr, IpAddr)) -> anyhow::Result<f64> {
    let echo = cable.in_far(move || UdpSocket::bind((far, 0)))?.context("cannot listen at the far end")?;
    let to = echo.local_addr()?;
    echo.set_read_timeout(Some(Duration::from_millis(500)))?;
    let near = cable.in_near(move || UdpSocket::bind((near, 0)))?.context("cannot listen at the near end")?;
    near.set_read_timeout(Some(Duration::from_millis(200)))?;
    let (end, ended) = std::sync::mpsc::channel::<()>();
    let serving = std::thread::spawn(move || {
        let mut buffer = [0; 64];
        while let Err(std::sync::mpsc::TryRecvError::Empty) = ended.try_recv() {
            if let Ok((length, from)) = echo.recv_from(&mut buffer) {
                // One that cannot be sent is a lost trip.
                let _ = echo.send_to(&buffer[..length], from);
            }
        }
    });
    let trips = trips(&near, to);
    drop(end);
    serving.join().map_err(|_| anyhow::anyhow!("the far end panicked"))?;
    Ok(trips?.p50())
}

fn trips(socket: &UdpSocket, to: std::net::SocketAddr) -> anyhow::Result<Samples> {
    let mut buffer = [0; 64];
    let deadline = Instant::now() + PATIENCE;
    loop {
        // Before the first handshake there may be no way.
        let heard = socket.send_to(b"first", to).and_then(|_| socket.recv_from(&mut buffer));
        if heard.is_ok() {
            break;
        }
        ensure!(Instant::now() < deadline, "no answer within {PATIENCE:?}");
    }
    let mut samples = Vec::new();
    for number in 0..TRIPS as u64 {
        std::thread::sleep(PAUSE);
        let began = Instant::now();
        socket.send_to(&number.to_be_bytes(), to)?;
        // Answers to earlier questions may come late.
        while let Ok((length, _)) = socket.recv_from(&mut buffer) {
            if buffer[..length] == number.to_be_bytes() {
                samples.push(began.elapsed().as_secs_f64() * 1e3);
                break;
            }
        }
    }
    ensure!(samples.len() > TRIPS * 9 / 10, "only {} of {TRIPS} answers came", samples.len());
    Ok(samples.into_iter().collect())
}
