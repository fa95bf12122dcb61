//! What machines would send.

use std::io::{Read, Write};
use std::net::{IpAddr, Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use crate::namespace::Namespace;
use crate::place::LIMIT;

/// Sends bytes by TCP and has them come back; whether they are the same.
pub fn tcp_echo(from: &Namespace, to: &Namespace, address: IpAddr, length: usize) {
    let listener = to.run(move || TcpListener::bind((address, 0)).unwrap());
    let target = listener.local_addr().unwrap();
    let serving = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut got = Vec::new();
        stream.read_to_end(&mut got).unwrap();
        stream.write_all(&got).unwrap();
    });
    let mut stream = from.run(move || TcpStream::connect_timeout(&target, LIMIT).unwrap());
    stream.set_read_timeout(Some(LIMIT)).unwrap();
    let sent: Vec<u8> = (0..length).map(|at| (at * 7 + at / 251) as u8).collect();
    stream.write_all(&sent).unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    let mut back = Vec::new();
    stream.read_to_end(&mut back).unwrap();
    assert!(back == sent, "{} of {length} bytes came back, or others", back.len());
    serving.join().unwrap();
}

/// Answers datagrams with themselves until it is dropped.
pub struct Echo {
    pub at: SocketAddr,
    end: Arc<AtomicBool>,
    serving: Option<JoinHandle<()>>,
}

impl Echo {
    pub fn start(on: &Namespace, address: IpAddr) -> Self {
        let socket = on.run(move || UdpSocket::bind((address, 0)).unwrap());
        socket.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
        let at = socket.local_addr().unwrap();
        let end = Arc::new(AtomicBool::new(false));
        let ended = end.clone();
        let serving = std::thread::spawn(move || {
            let mut buffer = [0; 2048];
            while !ended.load(Ordering::Relaxed) {
                if let Ok((length, from)) = socket.recv_from(&mut buffer) {
                    // While its way is broken there is nobody to tell.
                    let _ = socket.send_to(&buffer[..length], from);
                }
            }
        });
        Self { at, end, serving: Some(serving) }
    }
}

impl Drop for Echo {
    fn drop(&mut self) {
        self.end.store(true, Ordering::Relaxed);
        if let Some(serving) = self.serving.take() {
            let _ = serving.join();
        }
    }
}

/// A socket there, with patience for one answer.
pub fn socket(on: &Namespace, address: IpAddr, patience: Duration) -> UdpSocket {
    let socket = on.run(move || UdpSocket::bind((address, 0)).unwrap());
    socket.set_read_timeout(Some(patience)).unwrap();
    socket
}

/// Whether a datagram comes back.
pub fn answers(socket: &UdpSocket, echo: SocketAddr) -> bool {
    let said: [u8; 16] = rand::random();
    if socket.send_to(&said, echo).is_err() {
        return false;
    }
    let mut heard = [0; 2048];
    // Answers to earlier questions may come late.
    while let Ok((length, _)) = socket.recv_from(&mut heard) {
        if heard[..length] == said {
            return true;
        }
    }
    false
}

/// Datagrams without a pause, a few on their way at any time, until they are counted.
pub struct Flow {
    end: Arc<AtomicBool>,
    sending: JoinHandle<Counted>,
}

#[derive(Debug, Clone, Copy)]
pub struct Counted {
    pub sent: u32,
    pub lost: u32,
}

/// On their way at a time: less than any queue holds.
const WINDOW: u32 = 16;
/// Without an answer for so long, what is on its way is lost.
const PATIENCE: Duration = Duration::from_secs(3);

impl Flow {
    pub fn start(from: &Namespace, address: IpAddr, echo: SocketAddr) -> Self {
        let socket = socket(from, address, PATIENCE);
        let end = Arc::new(AtomicBool::new(false));
        let ended = end.clone();
        let sending = std::thread::spawn(move || {
            let (mut sent, mut back, mut lost) = (0_u32, 0, 0);
            let mut buffer = [0; 2048];
            while !ended.load(Ordering::Relaxed) || sent > back + lost {
                while !ended.load(Ordering::Relaxed) && sent < back + lost + WINDOW {
                    socket.send_to(&[7; 700], echo).unwrap();
                    sent += 1;
                }
                match socket.recv_from(&mut buffer) {
                    Ok(_) => back += 1,
                    Err(_) => lost = sent - back,
                }
            }
            Counted { sent, lost }
        });
        Self { end, sending }
    }

    pub fn stop(self) -> Counted {
        self.end.store(true, Ordering::Relaxed);
        self.sending.join().unwrap()
    }
}
