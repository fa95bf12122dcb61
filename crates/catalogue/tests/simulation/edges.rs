//! What simulated edges do: choose their watches, apply, swap, acknowledge.

use std::collections::BTreeMap;
use std::time::Duration;

use atoll_catalogue::Snapshot;
use atoll_catalogue::protocol::lease::EdgeLease;
use atoll_catalogue::protocol::message::{Ack, Event, Request};
use atoll_catalogue::protocol::replica::{AskAgain, Outcome};
use atoll_catalogue::protocol::targets::{SILENCE, Situation, Target, watch_targets};
use atoll_catalogue::protocol::{PathId, Positions, Replica};
use atoll_model::Owner;

use crate::actors::{Edge, Life, REGIONS, Watched};
use crate::net::Host;
use crate::world::{Bug, CONTROLS, HEARTBEAT, WORKERS, What, Wire, World};

impl World {
    pub fn edge_tick(&mut self, edge: usize) {
        let (now, host) = (self.now, CONTROLS + WORKERS + edge);
        let me = &self.edges[edge];
        let targets = watch_targets(&Situation {
            view: me.replica.view(),
            region: me.region,
            hubs: CONTROLS,
            hub: me.hub,
            hub_since: me.hub_since,
            heard_at: me.heard_at,
            now,
        });
        let wanted: Vec<Host> = targets.iter().map(|target| self.host_of(target)).collect();
        let me = &mut self.edges[edge];
        if let Some(&hub) = wanted.iter().find(|host| **host < CONTROLS)
            && hub != me.hub
        {
            (me.hub, me.hub_since) = (hub, now);
        }
        let silent = |watched: &Watched| now.saturating_sub(watched.heard_at) >= SILENCE;
        let closed: Vec<Host> = (me.watched.iter())
            .filter(|(host, watched)| !wanted.contains(host) || silent(watched))
            .map(|(host, _)| *host)
            .collect();
        for server in closed {
            let old = me.watched.remove(&server).unwrap();
            me.replica.close(PathId(old.stream));
        }
        for server in wanted {
            if !self.edges[edge].watched.contains_key(&server) {
                let positions = self.edges[edge].serves.clone();
                let stream = self.open_stream(host, server, positions);
                self.edges[edge].watched.insert(server, Watched { stream, heard_at: now });
            }
        }
        if now.saturating_sub(self.edges[edge].acked_at) >= HEARTBEAT {
            self.acknowledge(edge);
        }
    }

    fn host_of(&self, target: &Target) -> Host {
        match target {
            Target::Hub(number) => *number,
            Target::Worker { node, .. } => {
                CONTROLS + self.workers.iter().position(|worker| worker.name == *node).unwrap()
            }
        }
    }

    fn acknowledge(&mut self, edge: usize) {
        let (now, clock) = (self.now, self.clock(CONTROLS + WORKERS + edge));
        let me = &mut self.edges[edge];
        me.acked_at = now;
        let positions = if self.bug == Bug::AckBeforeSwap { me.replica.positions().clone() } else { me.serves.clone() };
        let refused = me.replica.refused_rows().cloned().collect();
        let ack = Ack { positions, refused, lease: Some(EdgeLease::request(clock)) };
        let streams: Vec<(Host, u64)> = me.watched.iter().map(|(host, watched)| (*host, watched.stream)).collect();
        for (server, stream) in streams {
            let lease = ack.lease.filter(|_| server < CONTROLS);
            self.send(stream, true, Wire::Request(Request::Ack(Ack { lease, ..ack.clone() })));
        }
    }

    pub fn edge_event(&mut self, edge: usize, from: Host, stream: u64, event: Event) {
        let (now, clock) = (self.now, self.clock(CONTROLS + WORKERS + edge));
        let me = &mut self.edges[edge];
        match me.watched.get_mut(&from).filter(|watched| watched.stream == stream) {
            Some(watched) => watched.heard_at = now,
            None => return,
        }
        if from < CONTROLS {
            me.heard_at = now;
        }
        match event {
            Event::Heartbeat => {}
            Event::Lease(mut grant) => {
                if self.bug == Bug::LeaseFromArrival {
                    grant.sent_at = clock;
                }
                me.lease.granted(grant);
            }
            Event::Rows(mut part) => {
                if self.bug == Bug::IgnoreEpochs && matches!(part.owner, Owner::Node(_)) {
                    part.epoch = u64::MAX;
                }
                let Outcome { moved, ask_again, .. } = me.replica.receive(PathId(stream), part);
                if moved && !me.swapping {
                    me.swapping = true;
                    // Usually at once; sometimes the machine is busy.
                    let busy = if self.chance.one_in(10) { 400_000 } else { 10_000 };
                    let at = now + self.chance.micros(0, busy);
                    self.queue.at(at, What::Swap { edge, life: self.edges[edge].life.number });
                }
                if moved && self.bug == Bug::AckBeforeSwap {
                    self.acknowledge(edge);
                }
                self.report.gaps += u64::from(ask_again != AskAgain::No);
                match ask_again {
                    AskAgain::No => {}
                    AskAgain::ThisPath => {
                        let positions = self.edges[edge].serves.clone();
                        self.send(stream, true, Wire::Request(Request::Watch(positions)));
                    }
                    AskAgain::AllPaths => {
                        let me = &mut self.edges[edge];
                        for watched in std::mem::take(&mut me.watched).values() {
                            me.replica.close(PathId(watched.stream));
                        }
                    }
                }
            }
        }
    }

    pub fn swap(&mut self, edge: usize, life: u64) {
        let me = &mut self.edges[edge];
        if !me.life.up || me.life.number != life {
            return;
        }
        me.swapping = false;
        me.served = me.replica.view().clone();
        me.serves = me.replica.positions().clone();
        self.acknowledge(edge);
    }
}

impl Edge {
    pub fn new(number: usize, life: Life) -> Self {
        Self {
            life,
            name: format!("edge{number}").parse().unwrap(),
            region: REGIONS[number % REGIONS.len()].parse().unwrap(),
            replica: Replica::default(),
            served: Snapshot::default(),
            serves: Positions::new(),
            swapping: false,
            lease: EdgeLease::default(),
            watched: BTreeMap::new(),
            hub: number % CONTROLS,
            hub_since: Duration::ZERO,
            heard_at: Duration::ZERO,
            acked_at: Duration::ZERO,
            old_disk: BTreeMap::new(),
        }
    }
}
