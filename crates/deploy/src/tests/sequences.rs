//! Random sequences of what operators and fate do to an app, against a model of what they must lead to.

use std::collections::BTreeMap;

use atoll_rollout::desired::ScaleCount;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use super::*;

/// What is true of the app between two deploys.
#[derive(Clone, PartialEq, Debug)]
struct Model {
    regions: Vec<RegionCode>,
    counts: BTreeMap<RegionCode, u32>,
    /// Releases of the machines by region, in the order of their ids.
    machines: BTreeMap<RegionCode, Vec<u64>>,
}

impl Model {
    async fn of(lab: &Lab) -> Self {
        let (regions, counts) = lab.remembered().await;
        let mut machines: BTreeMap<RegionCode, Vec<u64>> = BTreeMap::new();
        for machine in lab.world.machines() {
            machines.entry(machine.region).or_default().push(machine.release);
        }
        Self { regions, counts: counts.into_iter().map(|count| (count.region, count.count)).collect(), machines }
    }

    /// After a good release, asked for like this.
    fn after(&self, asked: &Asked, release: u64, scales: bool) -> Self {
        let mut next = self.clone();
        if !asked.regions.is_empty() {
            next.regions = asked.regions.clone();
            next.counts.retain(|region, _| next.regions.contains(region));
        }
        if let Some(counts) = &asked.counts {
            next.counts = counts.iter().map(|count| (count.region, count.count)).collect();
        }
        let wanted = next.regions.iter().map(|region| (*region, 1)).chain(next.counts.clone());
        let wanted: BTreeMap<RegionCode, u32> = wanted.collect();
        next.machines = wanted
            .iter()
            .map(|(region, count)| {
                let kept = self.machines.get(region).filter(|_| scales).cloned().unwrap_or_default();
                let mut releases: Vec<u64> = kept.into_iter().take(*count as usize).collect();
                releases.resize(*count as usize, release);
                (*region, releases)
            })
            .filter(|(_, machines)| !machines.is_empty())
            .collect();
        next
    }

    /// New machines get any id, so their order says nothing.
    fn in_order(mut self) -> Self {
        self.machines.values_mut().for_each(|releases| releases.sort_unstable());
        self
    }

    fn count(&self) -> usize {
        self.machines.values().map(Vec::len).sum()
    }
}

fn some_regions(dice: &mut StdRng) -> Vec<RegionCode> {
    let chosen = REGIONS.iter().filter(|_| dice.random_bool(0.6)).map(|code| code.parse().unwrap()).collect::<Vec<_>>();
    if chosen.is_empty() { vec![REGIONS[0].parse().unwrap()] } else { chosen }
}

#[tokio::test]
async fn every_sequence_of_deploys_scalings_kills_and_losses_keeps_its_promises() {
    for seed in 0..25 {
        run_sequence(seed).await;
    }
}

async fn run_sequence(seed: u64) {
    let dice = &mut StdRng::seed_from_u64(seed);
    let lab = Lab::new().await;
    let mut last = lab.deployed().await.version;
    let mut executor = lab.executor();
    for number in 0..6 {
        let at = format!("seed {seed}, change {number}");
        if dice.random_bool(0.2) {
            // Somebody destroys a machine by hand; the app keeps one at least.
            lab.world.destroy_one(dice.random_range(0..8));
        }
        let before = Model::of(&lab).await;
        let (scales, immediate) = (dice.random_bool(0.3), dice.random_bool(0.3));
        let mut asked = Asked::default();
        if scales {
            let counts = before.regions.iter().map(|region| ScaleCount {
                group: "app".into(),
                region: *region,
                count: dice.random_range(1..4),
            });
            asked.counts = Some(counts.collect());
        } else if dice.random_bool(0.5) {
            asked.regions = some_regions(dice);
        }
        let next = last + 1;
        let broken = dice.random_bool(0.3);
        if broken {
            lab.world.break_release(next);
        }
        let kill = dice.random_bool(0.6);
        if kill {
            let fault = if dice.random_bool(0.5) { Fault::DeathBefore } else { Fault::DeathAfter };
            lab.world.plan_fault(dice.random_range(0..40), fault);
        }
        lab.world.least_serving();
        let strategy = if immediate { "[deploy]\nstrategy = 'immediate'\n" } else { "" };
        let release = if scales { lab.scale_release(&asked).await } else { lab.release_asked(strategy, &asked).await };
        assert_eq!(release.version, next, "{at}");
        executor.engine.wake();
        if kill {
            lab.dead_or_over(&release).await;
            drop(executor);
            lab.world.revive();
            executor = lab.executor();
        }
        let status = lab.ended(&release).await;
        let after = Model::of(&lab).await;
        let good = before.after(&asked, next, scales);
        let expected = if status == ReleaseStatus::Complete { &good } else { &before };
        assert_eq!(
            after.clone().in_order(),
            expected.clone().in_order(),
            "{at}: {status:?}, {asked:?}, immediate: {immediate}"
        );
        assert_eq!(lab.world.serving().len(), after.count(), "{at}: a machine is not in the routing");
        if broken && good.machines.values().flatten().any(|release| *release == next) {
            assert_eq!(status, ReleaseStatus::Failed, "{at}");
        }
        if scales || !immediate {
            let least = lab.world.least_serving().unwrap_or(usize::MAX);
            assert!(least >= before.count().min(good.count()), "{at}: {least} served at one moment");
        }
        last = next;
    }
}
