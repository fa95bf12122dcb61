//! What the guard shall announce: the plan that was accepted last, and the addresses that the local edge
//! serves. Whichever cannot be read stays as it was.

use std::net::IpAddr;

use atoll_signals::with_causes;

use super::files::Files;
use crate::plan::{Plan, succeed};
use crate::served::Served;

#[derive(Default)]
pub struct Wanted {
    /// As it was written.
    written: Option<Plan>,
    served: Served,
    /// Both together.
    pub plan: Option<Plan>,
    /// Rises with every change of `plan`.
    pub edition: u64,
    /// Why the files' present contents are not carried out, if they are not.
    pub plan_refused: Option<String>,
    pub served_refused: Option<String>,
}

impl Wanted {
    /// What an earlier process had accepted.
    pub fn remembered(files: &Files) -> Self {
        let lost =
            |error: &dyn std::error::Error| tracing::warn!(error = with_causes(error), "what was wanted last is lost");
        let written = files.remembered_plan().inspect_err(|error| lost(error)).unwrap_or_default();
        let served = files.remembered_served().inspect_err(|error| lost(error)).unwrap_or_default();
        let mut wanted = Self { written, served, ..Self::default() };
        wanted.put_together();
        wanted
    }

    /// What an older program of this process wanted. One that knew no served addresses wrote no plan apart.
    pub fn resumed(plan: Option<Plan>, written: Option<Plan>, edition: u64) -> Self {
        let written = written.or_else(|| plan.clone());
        let served = plan.iter().zip(&written).flat_map(|(plan, written)| plan.prefixes.difference(&written.prefixes));
        let addresses = served.map(|prefix| -> IpAddr { prefix.net().network() }).collect();
        Self { written, served: Served { addresses }, plan, edition, ..Self::default() }
    }

    /// The plan as it was written.
    pub fn written(&self) -> Option<&Plan> {
        self.written.as_ref()
    }

    /// Looks at the files; whether anything else is wanted now.
    pub fn look(&mut self, files: &mut Files) -> bool {
        let planned = self.take_plan(files);
        let served = self.take_served(files);
        (planned || served) && self.put_together()
    }

    fn take_plan(&mut self, files: &mut Files) -> bool {
        let plan = match files.changed_plan() {
            None => return false,
            Some(Ok(plan)) => plan,
            Some(Err(error)) => {
                tracing::warn!(error = with_causes(&error), "the last good plan is kept");
                self.plan_refused = Some(with_causes(&error));
                return false;
            }
        };
        match succeed(self.written.as_ref(), plan) {
            Ok(plan) => {
                self.plan_refused = None;
                if self.written.as_ref() == Some(&plan) {
                    return false;
                }
                tracing::info!(generation = plan.generation, "a plan is carried out");
                if let Err(error) = files.remember_plan(&plan) {
                    tracing::warn!(error = with_causes(&error), "a restarted guard will not know this plan");
                }
                self.written = Some(plan);
                true
            }
            Err(error) => {
                tracing::warn!(%error, "the last good plan is kept");
                self.plan_refused = Some(error.to_string());
                false
            }
        }
    }

    fn take_served(&mut self, files: &mut Files) -> bool {
        match files.changed_served() {
            None => false,
            Some(Ok(served)) => {
                self.served_refused = None;
                if let Err(error) = files.remember_served(&served) {
                    tracing::warn!(error = with_causes(&error), "a restarted guard will not know what is served");
                }
                self.served = served;
                true
            }
            Some(Err(error)) => {
                tracing::warn!(error = with_causes(&error), "the addresses that were served last are kept");
                self.served_refused = Some(with_causes(&error));
                false
            }
        }
    }

    fn put_together(&mut self) -> bool {
        let plan = self.written.as_ref().map(|written| self.served.added_to(written));
        if plan == self.plan {
            return false;
        }
        self.plan = plan;
        self.edition += 1;
        true
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::super::files::replace;
    use super::*;
    use crate::plan::tests::example;

    #[test]
    fn the_served_come_and_go_and_what_cannot_be_read_changes_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let (plan, served) = (folder.path().join("plan.json"), folder.path().join("served.json"));
        let mut files = Files::open(&folder.path().join("guard"), &plan, Some(&served)).unwrap();
        let mut wanted = Wanted::remembered(&files);
        assert!(!wanted.look(&mut files) && wanted.plan.is_none());

        let written = Plan { local: BTreeSet::from(["192.0.2.0/24".parse().unwrap()]), ..example() };
        let routes = |wanted: &Wanted| wanted.plan.as_ref().unwrap().prefixes.len() - written.prefixes.len();
        replace(&served, br#"{"addresses": ["192.0.2.7"]}"#).unwrap();
        replace(&plan, &serde_json::to_vec(&written).unwrap()).unwrap();
        assert!(wanted.look(&mut files) && routes(&wanted) == 1);
        assert!(!wanted.look(&mut files));
        replace(&served, b"{").unwrap();
        assert!(!wanted.look(&mut files) && routes(&wanted) == 1);
        assert!(wanted.served_refused.as_deref().is_some_and(|why| why.contains("served.json")));
        std::fs::remove_file(&served).unwrap();
        assert!(!wanted.look(&mut files) && routes(&wanted) == 1);

        // A process that is started anew, and one that goes on in place.
        assert_eq!(routes(&Wanted::remembered(&files)), 1);
        let resumed = Wanted::resumed(wanted.plan.clone(), wanted.written.clone(), wanted.edition);
        assert_eq!((&resumed.plan, &resumed.served, resumed.edition), (&wanted.plan, &wanted.served, wanted.edition));

        replace(&served, br#"{"addresses": []}"#).unwrap();
        assert!(wanted.look(&mut files) && routes(&wanted) == 0 && wanted.served_refused.is_none());
    }

    #[test]
    fn a_list_that_is_no_file_is_refused_and_not_waited_for() {
        let folder = tempfile::tempdir().unwrap();
        let (plan, served) = (folder.path().join("plan.json"), folder.path().join("served.json"));
        let mode = rustix::fs::Mode::from_raw_mode(0o600);
        rustix::fs::mknodat(rustix::fs::CWD, &served, rustix::fs::FileType::Fifo, mode, 0).unwrap();
        let mut files = Files::open(&folder.path().join("guard"), &plan, Some(&served)).unwrap();
        let mut wanted = Wanted::default();
        assert!(!wanted.look(&mut files));
        assert!(wanted.served_refused.is_some());
    }
}
