//! What happens to the world: machines come and go, links are cut, processes die, disks are restored.

use std::time::Duration;

use atoll_catalogue::protocol::Replica;
use atoll_catalogue::protocol::barrier::{BarrierId, HubId, OpenBarrier, Target};
use atoll_catalogue::protocol::lease::EdgeLease;
use atoll_model::{MachineId, MachineState, RowKey};

use crate::actors::*;
use crate::net::Host;
use crate::world::*;

const MACHINE_IDS: u64 = 14;

impl World {
    /// A bit of ordinary life.
    pub fn act(&mut self) {
        match self.chance.below(10) {
            0 => {
                let app = *self.chance.pick(&APPS);
                self.write_app(app);
            }
            1 | 2 => self.open_barrier(),
            _ => self.touch_machine(),
        }
        if self.now < CALM {
            let next = self.now + self.chance.micros(10_000, 150_000);
            self.queue.at(next, What::Act);
        }
    }

    fn touch_machine(&mut self) {
        let worker = self.chance.below(WORKERS as u64) as usize;
        if !self.workers[worker].life.up {
            return;
        }
        let id = MachineId::from_random(self.chance.below(MACHINE_IDS));
        let key = RowKey::Machine(id);
        self.stamp += 1;
        let stamp = self.stamp;
        let dice = self.chance.below(4);
        if let Some(row) = self.workers[worker].machines.get_mut(&id) {
            row.changed_at_ms = stamp;
            if dice == 0 {
                self.workers[worker].machines.remove(&id);
            } else {
                let started = row.state == MachineState::Started;
                row.state = if started { MachineState::Stopped } else { MachineState::Started };
            }
        } else if !self.lives_elsewhere(id, worker) {
            let app = *self.chance.pick(&APPS);
            let me = &mut self.workers[worker];
            let row = machine_row(id, app, &me.name, me.free_address(), stamp, stamp);
            me.machines.insert(id, row);
        }
        self.publish(worker, key);
    }

    /// Control creates a machine on a node only once it took it from the node that had it.
    fn lives_elsewhere(&self, id: MachineId, here: usize) -> bool {
        self.workers.iter().enumerate().any(|(n, worker)| {
            n != here && worker.machines.contains_key(&id) && worker.epoch >= self.store.nodes[&worker.name].epoch
        })
    }

    pub fn open_barrier(&mut self) {
        let Some((key, owner, version)) = self.history.recent(&mut self.chance) else { return };
        self.store.barriers += 1;
        let id = BarrierId(self.store.barriers);
        self.store.book.open.push(OpenBarrier { id, target: Target { key, owner, version }, passed: Vec::new() });
        // Deploys do not wait for ever either.
        if self.store.book.open.len() > 8 {
            self.store.book.open.remove(0);
        }
    }

    pub fn fault(&mut self) {
        if self.now >= CALM {
            return;
        }
        match self.chance.below(14) {
            0..=4 => self.cut_link(),
            5 => {
                let host = self.chance.below(HOSTS as u64) as usize;
                self.isolate(host);
            }
            6 | 7 => {
                let host = self.chance.below(HOSTS as u64) as usize;
                self.kill(host);
            }
            8 => {
                let control = self.chance.below(CONTROLS as u64) as usize;
                self.kill(control);
            }
            9 => {
                // `atoll node remove --lost`, maybe of a node that lives on behind a cut.
                let worker = self.chance.below(WORKERS as u64) as usize;
                self.raise_epoch(worker);
            }
            10 | 11 => self.slow_link(),
            _ => self.back_up(),
        }
        let next = self.now + self.chance.micros(100_000, 1_500_000);
        self.queue.at(next, What::Fault);
    }

    fn cut_link(&mut self) {
        let (from, to) = (self.chance.below(HOSTS as u64) as Host, self.chance.below(HOSTS as u64) as Host);
        let end = self.now + self.chance.micros(200_000, 6_000_000);
        self.links.cut(from, to);
        self.queue.at(end, What::Heal(from, to));
        if self.chance.one_in(2) {
            self.links.cut(to, from);
            self.queue.at(end, What::Heal(to, from));
        }
    }

    fn slow_link(&mut self) {
        let (from, to) = (self.chance.below(HOSTS as u64) as Host, self.chance.below(HOSTS as u64) as Host);
        let end = self.now + self.chance.micros(1_000_000, 8_000_000);
        let by = self.chance.micros(100_000, 2_500_000);
        self.links.slow_down(from, to, by);
        self.queue.at(end, What::Heal(from, to));
    }

    fn isolate(&mut self, host: Host) {
        let end = self.now + self.chance.micros(200_000, 8_000_000);
        for other in (0..HOSTS).filter(|other| *other != host) {
            for (from, to) in [(host, other), (other, host)] {
                self.links.cut(from, to);
                self.queue.at(end, What::Heal(from, to));
            }
        }
    }

    fn kill(&mut self, host: Host) {
        let life = match host {
            _ if host < CONTROLS => &mut self.controls[host].life,
            _ if host < CONTROLS + WORKERS => &mut self.workers[host - CONTROLS].life,
            _ => &mut self.edges[host - CONTROLS - WORKERS].life,
        };
        if std::mem::take(&mut life.up) {
            let back = self.now + self.chance.micros(50_000, 5_000_000);
            self.queue.at(back, What::Revive(host));
        }
    }

    /// Copies a disk, for being restored later.
    fn back_up(&mut self) {
        let worker = &mut self.workers[self.chance.below(WORKERS as u64) as usize];
        worker.old_disk = (worker.epoch, worker.machines.clone());
        let edge = &mut self.edges[self.chance.below(EDGES as u64) as usize];
        edge.old_disk = edge.replica.save().by_owner();
    }

    pub fn revive(&mut self, host: Host) {
        let kind = self.chance.below(4);
        if host < CONTROLS {
            let number = self.controls[host].life.number + 1;
            let clock = self.controls[host].life.clock;
            let life = Life { up: true, number, clock };
            self.controls[host] = Control::new(HubId(number * CONTROLS as u64 + host as u64), life);
        } else if host < CONTROLS + WORKERS {
            self.revive_worker(host - CONTROLS, kind);
        } else {
            self.revive_edge(host - CONTROLS - WORKERS, kind);
        }
        let life = self.life(host).number;
        self.queue.at(self.now, What::Tick { host, life });
    }

    fn revive_worker(&mut self, worker: usize, kind: u64) {
        let now = self.now;
        let me = &mut self.workers[worker];
        me.life.up = true;
        me.life.number += 1;
        me.served.clear();
        match kind {
            // Its disk is lost: it joins again.
            0 => {
                me.machines.clear();
                let epoch = self.raise_epoch(worker);
                self.workers[worker].epoch = epoch;
                self.rebuild_log(worker, 0);
            }
            // An old disk is put back; in one of two cases the clock is set back as well.
            1 => {
                (me.epoch, me.machines) = me.old_disk.clone();
                if self.chance.one_in(2) {
                    me.wall_offset -= Duration::from_secs(50).min(me.wall_offset);
                }
                let wall = now + me.wall_offset;
                self.rebuild_log(worker, wall.as_micros() as u64);
            }
            _ => {
                let wall = now + me.wall_offset;
                let last = wall.as_micros() as u64;
                let last = last.max(me.log.log().position().sequence);
                self.rebuild_log(worker, last);
            }
        }
    }

    fn revive_edge(&mut self, edge: usize, kind: u64) {
        let now = self.now;
        let me = &mut self.edges[edge];
        me.life.up = true;
        me.life.number += 1;
        me.replica = match kind {
            0 => Replica::default(),
            1 => Replica::restore(me.old_disk.clone()),
            _ => Replica::restore(me.replica.save().by_owner()),
        };
        me.served = me.replica.view().clone();
        me.serves = me.replica.positions().clone();
        me.swapping = false;
        me.lease = EdgeLease::default();
        me.watched.clear();
        (me.hub_since, me.heard_at) = (now, now);
    }

    /// The end of all faults.
    pub fn calm(&mut self) {
        self.links.heal_all();
        for host in 0..HOSTS {
            if !self.life(host).up {
                self.revive(host);
            }
        }
        self.store.book.open.clear();
        // The last barrier must close: nothing stands in its way any more.
        self.write_app(APPS[0]);
        self.open_barrier_on_last();
    }

    fn open_barrier_on_last(&mut self) {
        let (key, owner, version) = self.history.last().expect("something was written");
        let id = BarrierId(u64::MAX);
        self.store.book.open.push(OpenBarrier { id, target: Target { key, owner, version }, passed: Vec::new() });
    }

    /// A user's request comes to some edge.
    pub fn visit(&mut self) -> Result<(), String> {
        let next = self.now + self.chance.micros(5_000, 60_000);
        self.queue.at(next, What::Visit);
        let edge = self.chance.below(EDGES as u64) as usize;
        let app = *self.chance.pick(&APPS);
        let me = &self.edges[edge];
        let started: Vec<_> = (me.served.machines_of(&app.parse().unwrap()).iter())
            .filter(|row| me.life.up && row.state == MachineState::Started)
            .cloned()
            .collect();
        if started.is_empty() {
            return Ok(());
        }
        let chosen = self.chance.pick(&started).clone();
        let worker = self.workers.iter().position(|worker| worker.name == chosen.node).unwrap();
        let (here, there) = (CONTROLS + WORKERS + edge, CONTROLS + worker);
        if !self.links.carries(here, there) || !self.links.carries(there, here) {
            return Ok(());
        }
        // The node's own proxy looks at what the worker has now.
        let me = &self.workers[worker];
        let current = me.machines.get(&chosen.id);
        let is_right = current.is_some_and(|row| row.app == chosen.app && row.state == MachineState::Started);
        if !is_right && self.bug != Bug::NoRecheck {
            self.report.bounced += 1;
            if self.now > CALM + Duration::from_secs(15) {
                return Err(format!("{:?}: an edge still sends to machine {} in vain", self.now, chosen.id));
            }
            return Ok(());
        }
        // And connects where the worker says, never where the caller believes.
        let address = match current {
            Some(row) if self.bug != Bug::NoRecheck => row.private_ipv4,
            _ => chosen.private_ipv4,
        };
        let reached = me.machines.values().find(|row| row.private_ipv4 == address);
        match reached {
            Some(row) if row.app == chosen.app && row.state == MachineState::Started => {
                self.report.delivered += 1;
                Ok(())
            }
            Some(row) => Err(format!(
                "{:?}: a request for {} reached machine {} of {}, which is {}",
                self.now, chosen.app, row.id, row.app, row.state
            )),
            None => Ok(()),
        }
    }
}
