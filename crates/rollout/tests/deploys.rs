//! Plans carried out in a simulated world, with failures, crashes of the executor and any order of
//! parallel actions.

use std::collections::{BTreeMap, BTreeSet};

use atoll_model::{AppName, MachineId, RegionCode};
use atoll_rollout::deploy::{Existing, MaxUnavailable, PlanError, Request, Strategy, plan};
use atoll_rollout::desired::Desired;
use atoll_rollout::placement::{NodeRoom, Placement};
use atoll_rollout::plan::{Effect, Plan};
use atoll_rollout::{Next, Record, Verdict, next_actions};
use proptest::prelude::*;

const REGIONS: [&str; 3] = ["ams", "nrt", "ord"];

fn region(code: &str) -> RegionCode {
    code.parse().unwrap()
}

fn old_machines(counts: &[usize]) -> Vec<Existing> {
    let mut machines = Vec::new();
    for (code, count) in REGIONS.iter().zip(counts) {
        for _ in 0..*count {
            machines.push(Existing {
                id: MachineId::from_random(machines.len() as u64 + 1),
                group: "app".into(),
                region: region(code),
                node: format!("node-{code}").parse().unwrap(),
                release: 1,
            });
        }
    }
    machines
}

fn desired(counts: &[usize]) -> Desired {
    let counts = REGIONS.iter().zip(counts).filter(|(_, count)| **count > 0);
    counts.map(|(code, count)| (("app".to_owned(), region(code)), *count as u32)).collect()
}

fn planned(strategy: Strategy, existing: &[Existing], desired: &Desired) -> Result<Plan, PlanError> {
    planned_without(strategy, existing, &[], desired)
}

fn planned_without(
    strategy: Strategy,
    existing: &[Existing],
    abandoned: &[Existing],
    desired: &Desired,
) -> Result<Plan, PlanError> {
    let app: AppName = "harbour".parse().unwrap();
    let nodes = REGIONS.iter().map(|code| NodeRoom {
        name: format!("node-{code}").parse().unwrap(),
        region: region(code),
        active: true,
        free_memory_mb: 10_000,
        free_cpu_milli: 10_000,
        machines_of_app: 0,
    });
    let request = Request {
        app: &app,
        generation: 4,
        release: 2,
        previous: (!existing.is_empty()).then_some(1),
        strategy,
        existing,
        abandoned,
        desired,
        service_groups: &BTreeSet::from(["app".to_owned()]),
        room: &BTreeMap::new(),
    };
    let mut next_id = 100;
    plan(&request, &mut Placement::new(nodes.collect(), 1), &mut || {
        next_id += 1;
        MachineId::from_random(next_id)
    })
}

const ROLLING: Strategy = Strategy::Rolling(MaxUnavailable(0.33));

#[derive(Clone, Debug)]
struct Simulated {
    release: u64,
    known_to_edges: bool,
    cordoned: bool,
}

/// Applies effects as idempotently as the real executor must.
struct World(BTreeMap<MachineId, Simulated>);

impl World {
    fn of(existing: &[Existing]) -> Self {
        let machine = |old: &Existing| Simulated { release: old.release, known_to_edges: true, cordoned: false };
        Self(existing.iter().map(|old| (old.id, machine(old))).collect())
    }

    fn apply(&mut self, effect: &Effect) {
        let id = effect.machine();
        match effect {
            Effect::Create { release, .. } => {
                self.0.entry(id).or_insert(Simulated { release: *release, known_to_edges: false, cordoned: false });
            }
            Effect::Destroy { .. } | Effect::Abandon { .. } => {
                self.0.remove(&id);
            }
            _ => {
                let Some(machine) = self.0.get_mut(&id) else { return };
                match effect {
                    Effect::Update { release, .. } => machine.release = *release,
                    Effect::Barrier { .. } => machine.known_to_edges = true,
                    Effect::Cordon { .. } => machine.cordoned = true,
                    Effect::Uncordon { .. } => machine.cordoned = false,
                    _ => {}
                }
            }
        }
    }

    fn serving(&self) -> usize {
        self.0.values().filter(|machine| machine.known_to_edges && !machine.cordoned).count()
    }

    fn releases(&self) -> Vec<u64> {
        self.0.values().filter(|machine| !machine.cordoned).map(|machine| machine.release).collect()
    }
}

/// Carries a plan out. `dice` chooses among ready actions and decides on failures and crashes;
/// `observe` sees the world after each effect.
fn carry_out(
    plan: &Plan,
    world: &mut World,
    mut dice: impl FnMut(usize) -> usize,
    fails: impl Fn(&Effect, bool, usize) -> bool,
    mut observe: impl FnMut(&World),
) -> Verdict {
    let mut records = Vec::new();
    for _ in 0..plan.steps.len() * 40 + 40 {
        let actions = match next_actions(plan, &records) {
            Next::Act(actions) => actions,
            Next::Finished(verdict) => return verdict,
        };
        assert!(!actions.is_empty());
        let action = actions[dice(actions.len())].clone();
        records.push(Record::Started { action: action.id });
        match dice(10) {
            // Killed before the effect, or between effect and outcome: nothing but the start is known.
            0 => {}
            1 => world.apply(&action.effect),
            roll if fails(&action.effect, action.id.undo.is_some(), roll) => {
                records.push(Record::Failed { action: action.id, reason: "no luck".into() });
            }
            _ => {
                world.apply(&action.effect);
                records.push(Record::Done { action: action.id });
            }
        }
        observe(world);
    }
    panic!("the plan does not end:\n{plan}\n{records:?}");
}

fn never(_: &Effect, _: bool, _: usize) -> bool {
    false
}

#[test]
fn a_rolling_plan_reads_like_its_description() {
    let plan = planned(ROLLING, &old_machines(&[1, 1]), &desired(&[1, 1])).unwrap();
    let expected = "\
plan 4 of harbour: v1 to v2
  0  have node-ams fetch the image of v2
  1  have node-nrt fetch the image of v2
  2  create 00000000000065 (app, v2) in ams on node-ams  (after 0, 1)
  3  wait until 00000000000065 works  (after 2)
  4  wait until every edge knows 00000000000065  (after 3)
  5  cordon 00000000000001  (after 4)
  6  wait until every edge knows 00000000000001  (after 5)
  7  drain 00000000000001  (after 6)
  8  destroy 00000000000001  (after 7)
  9  create 00000000000066 (app, v2) in nrt on node-nrt  (after 4)
 10  wait until 00000000000066 works  (after 9)
 11  wait until every edge knows 00000000000066  (after 10)
 12  cordon 00000000000002  (after 11)
 13  wait until every edge knows 00000000000002  (after 12)
 14  drain 00000000000002  (after 13)
 15  destroy 00000000000002  (after 14)
";
    assert_eq!(plan.to_string(), expected);
    let json = serde_json::to_string(&plan).unwrap();
    assert_eq!(serde_json::from_str::<Plan>(&json).unwrap(), plan);
}

#[test]
fn a_first_deploy_that_fails_leaves_no_machine() {
    let plan = planned(ROLLING, &[], &desired(&[2, 1])).unwrap();
    let mut world = World(BTreeMap::new());
    let verdict = carry_out(&plan, &mut world, |n| n - 1, |effect, _, _| matches!(effect, Effect::Gate { .. }), |_| {});
    assert!(matches!(verdict, Verdict::RolledBack { .. }), "{verdict:?}");
    assert!(world.0.is_empty());
}

#[test]
fn immediate_updates_every_machine_in_place_behind_closed_doors() {
    let old = old_machines(&[1, 1]);
    let plan = planned(Strategy::Immediate, &old, &desired(&[1, 1])).unwrap();
    let expected = "\
plan 4 of harbour: v1 to v2
  0  have node-ams fetch the image of v2
  1  have node-nrt fetch the image of v2
  2  cordon 00000000000001  (after 0, 1)
  3  wait until every edge knows 00000000000001  (after 2)
  4  drain 00000000000001  (after 3)
  5  update 00000000000001 in place to v2  (after 4)
  6  wait until 00000000000001 works  (after 5)
  7  uncordon 00000000000001  (after 6)
  8  wait until every edge knows 00000000000001  (after 7)
  9  cordon 00000000000002  (after 0, 1)
 10  wait until every edge knows 00000000000002  (after 9)
 11  drain 00000000000002  (after 10)
 12  update 00000000000002 in place to v2  (after 11)
 13  wait until 00000000000002 works  (after 12)
 14  uncordon 00000000000002  (after 13)
 15  wait until every edge knows 00000000000002  (after 14)
";
    assert_eq!(plan.to_string(), expected);
    let mut world = World::of(&old);
    carry_out(&plan, &mut world, |n| n - 1, never, |_| {});
    assert_eq!((world.releases(), world.serving()), (vec![2, 2], 2));
}

/// The second machine does not work, the first had come back with the new release already.
#[test]
fn immediate_puts_the_release_before_back_everywhere() {
    let old = old_machines(&[2]);
    let plan = planned(Strategy::Immediate, &old, &desired(&[2])).unwrap();
    let mut world = World::of(&old);
    let fails = |effect: &Effect, is_undo: bool, _| !is_undo && *effect == Effect::Gate { machine: old[1].id };
    let verdict = carry_out(&plan, &mut world, |n| n - 1, fails, |_| {});
    assert!(matches!(verdict, Verdict::RolledBack { .. }), "{verdict:?}");
    assert_eq!((world.releases(), world.serving()), (vec![1, 1], 2));
}

#[test]
fn machines_on_silent_nodes_are_given_up_last_and_only_by_a_good_deploy() {
    let old = old_machines(&[1, 1]);
    let (here, lost) = old.split_at(1);
    let plan = planned_without(ROLLING, here, lost, &desired(&[1])).unwrap();
    let last = plan.steps.last().unwrap();
    assert_eq!(last.effect, Effect::Abandon { machine: lost[0].id });
    assert!(plan.steps.iter().all(|step| step.id == last.id || step.effect.machine() != lost[0].id));
    let mut world = World::of(&old);
    carry_out(&plan, &mut world, |n| n - 1, |effect, _, _| matches!(effect, Effect::Gate { .. }), |_| {});
    assert_eq!(world.releases(), [1, 1]);
    carry_out(&plan, &mut world, |n| n - 1, never, |_| {});
    assert_eq!(world.releases(), [2]);
}

/// The node of a new machine goes away in the middle: neither its cordon nor its end can be had.
#[test]
fn a_new_machine_out_of_reach_does_not_hold_up_the_way_back() {
    let old = old_machines(&[1]);
    let plan = planned(ROLLING, &old, &desired(&[1])).unwrap();
    let mut world = World::of(&old);
    let fails = |effect: &Effect, is_undo: bool, _| is_undo || matches!(effect, Effect::Gate { .. });
    let verdict = carry_out(&plan, &mut world, |n| n - 1, fails, |_| {});
    let Verdict::RolledBack { left_over, .. } = verdict else { panic!("{verdict:?}") };
    assert_eq!((left_over.len(), world.serving()), (1, 1));
}

#[test]
fn scaling_keeps_the_machines_that_fit() {
    let old = old_machines(&[3, 1]);
    let plan = planned(Strategy::Scale, &old, &desired(&[1, 1, 1])).unwrap();
    let mut world = World::of(&old);
    carry_out(&plan, &mut world, |n| n - 1, never, |world| assert!(world.serving() >= 3));
    assert_eq!(world.0.len(), 3);
}

#[test]
fn a_plan_never_empties_an_app() {
    let old = old_machines(&[1]);
    assert_eq!(planned(ROLLING, &old, &desired(&[0])), Err(PlanError::Nothing));
    let jobs = Desired::from([(("jobs".to_owned(), region("ams")), 1)]);
    assert!(matches!(planned(ROLLING, &old, &jobs), Err(PlanError::LastEndpoint { .. })));
}

#[test]
fn a_stale_executor_is_refused() {
    let plan = planned(ROLLING, &[], &desired(&[1])).unwrap();
    assert!(plan.check_generation(4).is_ok());
    assert!(plan.check_generation(5).unwrap_err().to_string().contains("another deploy"));
}

#[test]
fn a_machine_that_cannot_be_destroyed_does_not_fail_the_deploy() {
    let old = old_machines(&[1]);
    let plan = planned(ROLLING, &old, &desired(&[1])).unwrap();
    let mut world = World::of(&old);
    let verdict =
        carry_out(&plan, &mut world, |n| n - 1, |effect, _, _| matches!(effect, Effect::Destroy { .. }), |_| {});
    assert_eq!(verdict, Verdict::Succeeded { left_over: vec![old[0].id] });
    assert_eq!(world.serving(), 1);
}

/// An endless, repeatable sequence of choices.
fn roller(seed: u64) -> impl FnMut(usize) -> usize {
    let mut state = seed | 1;
    move |sides| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state % sides as u64) as usize
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(4000) })]

    /// Failures forward, crashes anywhere: at every moment at least as many machines serve as before,
    /// and in the end all of one release do.
    #[test]
    fn rolling_deploys_end_whole_and_never_serve_less(
        counts in proptest::collection::vec(0usize..4, 3),
        limit in prop_oneof![Just(0.1), Just(0.33), Just(1.0), Just(5.0)],
        failing in 0usize..4,
        dice in any::<u64>(),
    ) {
        let old = old_machines(&counts);
        prop_assume!(!old.is_empty());
        let plan = planned(Strategy::Rolling(MaxUnavailable(limit)), &old, &desired(&counts)).unwrap();
        let mut world = World::of(&old);
        let mut least = usize::MAX;
        let verdict = carry_out(
            &plan,
            &mut world,
            roller(dice),
            |_, is_undo, roll| !is_undo && roll < 2 + failing / 2,
            |world| least = least.min(world.serving()),
        );
        prop_assert!(least >= old.len(), "{least} of {} served\n{plan}", old.len());
        let (expected, left_over) = match verdict {
            Verdict::Succeeded { left_over } => (2, left_over),
            Verdict::RolledBack { left_over, .. } => (1, left_over),
            Verdict::Stuck { .. } => return Err(TestCaseError::fail(format!("{verdict:?}"))),
        };
        prop_assert_eq!(world.releases(), vec![expected; old.len()]);
        // A machine may be gone although the outcome of its destruction was a failure.
        let left_over = left_over.iter().filter(|id| world.0.contains_key(id)).count();
        prop_assert_eq!(world.0.len(), old.len() + left_over, "a machine was forgotten");
    }

    /// In place, failures forward, crashes anywhere: in the end all machines have one release and serve.
    #[test]
    fn immediate_deploys_end_whole(
        counts in proptest::collection::vec(0usize..4, 3),
        failing in 0usize..4,
        dice in any::<u64>(),
    ) {
        let old = old_machines(&counts);
        prop_assume!(!old.is_empty());
        let plan = planned(Strategy::Immediate, &old, &desired(&counts)).unwrap();
        let mut world = World::of(&old);
        let fails = |_: &Effect, is_undo: bool, roll| !is_undo && roll < 2 + failing / 2;
        let expected = match carry_out(&plan, &mut world, roller(dice), fails, |_| {}) {
            Verdict::Succeeded { .. } => 2,
            Verdict::RolledBack { .. } => 1,
            Verdict::Stuck { .. } => return Err(TestCaseError::fail("stuck")),
        };
        prop_assert_eq!(world.releases(), vec![expected; old.len()]);
        prop_assert_eq!(world.serving(), old.len());
    }

    /// When taking back fails as well, what serves goes on serving.
    #[test]
    fn even_a_stuck_plan_leaves_the_app_served(
        counts in proptest::collection::vec(1usize..4, 1..4),
        dice in any::<u64>(),
    ) {
        let old = old_machines(&counts);
        let plan = planned(ROLLING, &old, &desired(&counts)).unwrap();
        let mut world = World::of(&old);
        let mut least = usize::MAX;
        carry_out(&plan, &mut world, roller(dice), |_, _, roll| roll < 4, |world| least = least.min(world.serving()));
        prop_assert!(least >= 1);
    }

    /// Changed counts: never fewer than the smaller of before and after.
    #[test]
    fn changed_counts_never_serve_less_than_the_smaller(
        before in proptest::collection::vec(0usize..4, 3),
        after in proptest::collection::vec(0usize..4, 3),
        scale in any::<bool>(),
        dice in any::<u64>(),
    ) {
        let (old, wanted) = (old_machines(&before), after.iter().sum::<usize>());
        prop_assume!(!old.is_empty() && wanted > 0);
        let strategy = if scale { Strategy::Scale } else { ROLLING };
        let plan = planned(strategy, &old, &desired(&after)).unwrap();
        let mut world = World::of(&old);
        let mut least = usize::MAX;
        let verdict =
            carry_out(&plan, &mut world, roller(dice), never, |world| least = least.min(world.serving()));
        prop_assert_eq!(verdict, Verdict::Succeeded { left_over: vec![] });
        prop_assert_eq!(world.serving(), wanted);
        prop_assert!(least >= old.len().min(wanted) || least == usize::MAX);
    }
}
