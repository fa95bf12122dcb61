//! The relay's loop: one thread, an epoll over the ports, the control socket and a timer.

use std::collections::BTreeMap;
use std::io::{self, BufRead, BufReader, Write};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use rustix::buffer::spare_capacity;
use rustix::event::{Timespec, epoll};
use rustix::time::{Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags};

use super::packet::{LARGEST_FRAME, OFFLOAD_HEADER, PacketSocket};
use super::switch::Switch;
use super::wire::{Answer, Order, Report};
use crate::address::Port;
use crate::sys;

/// Frames taken from one port before others get their turn.
const BATCH: usize = 64;
const FIFO_PRIORITY: i32 = 10;

const CONTROL_EVENT: u64 = u64::MAX;
const TIMER_EVENT: u64 = u64::MAX - 1;

/// Runs the relay, in a new network namespace, until the other end of `control` closes.
pub fn run(control: UnixStream, hosts: usize, seed: u64) -> io::Result<()> {
    sys::unshare(libc::CLONE_NEWNET)?;
    // The relay's ends of the uplinks are wires and say nothing of their own.
    std::fs::write("/proc/sys/net/ipv6/conf/default/disable_ipv6", "1")?;
    sys::finest_timer_slack()?;
    let priority = raise_priority();
    let poll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
    let timer =
        rustix::time::timerfd_create(TimerfdClockId::Monotonic, TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC)?;
    epoll::add(&poll, &timer, epoll::EventData::new_u64(TIMER_EVENT), epoll::EventFlags::IN)?;
    epoll::add(&poll, &control, epoll::EventData::new_u64(CONTROL_EVENT), epoll::EventFlags::IN)?;

    let mut relay = Relay { switch: Switch::new(hosts, seed), sockets: BTreeMap::new(), refused: 0, priority };
    let mut orders = BufReader::new(control.try_clone()?);
    let mut answers = control;
    let mut buffer = vec![0; LARGEST_FRAME];
    let mut armed = None;
    let mut events = Vec::with_capacity(hosts + 2);
    loop {
        relay.send_due();
        let next = relay.switch.next_due();
        if next != armed {
            arm(&timer, next)?;
            armed = next;
        }
        events.clear();
        match epoll::wait(&poll, spare_capacity(&mut events), None::<&Timespec>) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        for event in &events {
            match event.data.u64() {
                TIMER_EVENT => {
                    // Only clears the readiness; what is due is known without the count.
                    let mut count = [0; 8];
                    match rustix::io::read(&timer, &mut count) {
                        Ok(_) | Err(rustix::io::Errno::AGAIN) => armed = None,
                        Err(error) => return Err(error.into()),
                    }
                }
                CONTROL_EVENT => {
                    // Orders are single lines written whole, so that waiting for the end of one is short.
                    if !relay.take_orders(&mut orders, &mut answers, &poll)? {
                        return Ok(());
                    }
                }
                port => relay.take_frames(Port(port as usize), &mut buffer),
            }
        }
    }
}

struct Relay {
    switch: Switch,
    sockets: BTreeMap<Port, PacketSocket>,
    refused: u64,
    priority: String,
}

impl Relay {
    fn send_due(&mut self) {
        let now = sys::monotonic();
        while let Some((to, frame)) = self.switch.due(now) {
            let sent = self.sockets.get(&to).map(|socket| socket.send(&frame));
            if !matches!(sent, Some(Ok(()))) {
                self.refused += 1;
            }
        }
    }

    fn take_frames(&mut self, from: Port, buffer: &mut [u8]) {
        let Some(socket) = self.sockets.get(&from) else { return };
        for _ in 0..BATCH {
            match socket.receive(buffer) {
                Ok(Some(frame)) => self.switch.receive(sys::monotonic(), from, frame, OFFLOAD_HEADER),
                // An interface that went down says so once; the lab detaches it.
                Ok(None) | Err(_) => return,
            }
        }
    }

    /// Carries out every order that has arrived; false once the lab has hung up.
    fn take_orders(
        &mut self,
        orders: &mut BufReader<UnixStream>,
        answers: &mut UnixStream,
        poll: impl AsFd,
    ) -> io::Result<bool> {
        loop {
            let mut line = String::new();
            if orders.read_line(&mut line)? == 0 {
                return Ok(false);
            }
            let answer = match serde_json::from_str(&line) {
                Ok(order) => self.obey(order, &poll).map_or_else(Answer::Refused, |()| Answer::Done(self.report())),
                Err(error) => Answer::Refused(format!("not an order: {error}")),
            };
            let mut text = serde_json::to_string(&answer)?;
            text.push('\n');
            answers.write_all(text.as_bytes())?;
            if orders.buffer().is_empty() {
                return Ok(true);
            }
        }
    }

    fn obey(&mut self, order: Order, poll: impl AsFd) -> Result<(), String> {
        match order {
            Order::Attach { port, interface } => {
                let failed = |error: io::Error| format!("attach {interface}: {error}");
                let socket = PacketSocket::open(&interface).map_err(failed)?;
                epoll::add(poll, &socket, epoll::EventData::new_u64(port.0 as u64), epoll::EventFlags::IN)
                    .map_err(|errno| failed(errno.into()))?;
                self.sockets.insert(port, socket);
                self.switch.attach(port);
            }
            Order::Detach { port } => {
                // Closing the socket takes it out of the epoll set.
                self.sockets.remove(&port);
                self.switch.detach(port);
            }
            Order::Paths { paths } => {
                for (from, to, path) in paths {
                    self.switch.set_path(from, to, path);
                }
            }
            Order::Report => {}
        }
        Ok(())
    }

    fn report(&self) -> Report {
        let mut counters = self.switch.counters();
        counters.refused = self.refused;
        Report { priority: self.priority.clone(), counters }
    }
}

/// The best scheduling this process may have, by name.
fn raise_priority() -> String {
    if sys::set_fifo(FIFO_PRIORITY).is_ok() {
        return format!("SCHED_FIFO {FIFO_PRIORITY}");
    }
    match rustix::process::setpriority_process(None, -20) {
        Ok(()) => "nice -20".to_owned(),
        Err(_) => "normal".to_owned(),
    }
}

fn arm(timer: impl AsFd, at: Option<Duration>) -> io::Result<()> {
    let to_spec = |time: Duration| Timespec { tv_sec: time.as_secs() as i64, tv_nsec: time.subsec_nanos().into() };
    // Zero disarms; a monotonic time is never zero.
    let value = Itimerspec { it_interval: to_spec(Duration::ZERO), it_value: to_spec(at.unwrap_or_default()) };
    rustix::time::timerfd_settime(timer, TimerfdTimerFlags::ABSTIME, &value)?;
    Ok(())
}
