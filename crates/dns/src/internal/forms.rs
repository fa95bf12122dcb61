//! Which internal names there are: the labels of a name, taken apart. Whether what a name speaks of
//! exists is not decided here.

use atoll_model::{AppName, MachineId, RegionCode};

/// What a name under `internal.` asks for.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Form<'a> {
    /// `internal` itself, and names that only have others below them.
    Branch,
    Apps,
    Peers,
    Peer(&'a str),
    /// `_instances`, or those not started as well.
    Instances {
        all: bool,
    },
    Api,
    App(AppName, OfApp<'a>),
}

/// What a name under `<app>.internal` asks for.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum OfApp<'a> {
    /// A name between others, such as `process.<app>.internal`.
    Branch,
    Started,
    Region(RegionCode),
    Nearest(usize),
    Group(&'a str),
    Machine(MachineId),
    Metadata {
        key: &'a str,
        value: &'a str,
    },
    Machines {
        all: bool,
    },
    Regions {
        all: bool,
    },
}

/// The form of a name whose part left of `internal.` has these labels, leftmost first. None when no
/// such name can exist.
pub fn form<'a>(labels: &[&'a str]) -> Option<Form<'a>> {
    Some(match *labels {
        [] => Form::Branch,
        ["_apps"] => Form::Apps,
        ["_peer"] => Form::Peers,
        [peer, "_peer"] => Form::Peer(peer),
        ["_instances"] => Form::Instances { all: false },
        ["all", "_instances"] => Form::Instances { all: true },
        ["_api"] => Form::Api,
        [ref within @ .., app] => Form::App(app.parse().ok()?, of_app(within)?),
    })
}

fn of_app<'a>(labels: &[&'a str]) -> Option<OfApp<'a>> {
    Some(match *labels {
        [] | ["global"] => OfApp::Started,
        ["vms"] => OfApp::Machines { all: false },
        ["all", "vms"] => OfApp::Machines { all: true },
        ["regions"] => OfApp::Regions { all: false },
        ["all", "regions"] => OfApp::Regions { all: true },
        ["all" | "process" | "vm" | "of" | "_metadata"] | ["nearest", "of"] | ["kv", "_metadata"] => OfApp::Branch,
        [_, "kv", "_metadata"] => OfApp::Branch,
        [value, key, "kv", "_metadata"] => OfApp::Metadata { key, value },
        [group, "process"] => OfApp::Group(group),
        [machine, "vm"] => OfApp::Machine(machine.parse().ok()?),
        [top, "nearest", "of"] => OfApp::Nearest(count(top.strip_prefix("top")?)?),
        [region] => OfApp::Region(region.parse().ok()?),
        _ => return None,
    })
}

/// A number from 1 on, in plain digits.
fn count(text: &str) -> Option<usize> {
    let plain = text.bytes().all(|byte| byte.is_ascii_digit()) && !text.starts_with('0');
    text.parse().ok().filter(|_| plain)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(name: &str) -> Option<OfApp<'_>> {
        let labels: Vec<&str> = name.split('.').filter(|label| !label.is_empty()).collect();
        let labels: Vec<&str> = labels.into_iter().chain(["web"]).collect();
        match form(&labels) {
            Some(Form::App(app, of)) => {
                assert_eq!(app.as_str(), "web");
                Some(of)
            }
            other => {
                assert_eq!(other, None);
                None
            }
        }
    }

    #[test]
    fn every_documented_form_is_understood() {
        assert_eq!(of(""), Some(OfApp::Started));
        assert_eq!(of("global"), Some(OfApp::Started));
        assert_eq!(of("ams"), Some(OfApp::Region("ams".parse().unwrap())));
        assert_eq!(of("top3.nearest.of"), Some(OfApp::Nearest(3)));
        assert_eq!(of("worker.process"), Some(OfApp::Group("worker")));
        assert_eq!(of("73d8d46dbee589.vm"), Some(OfApp::Machine("73d8d46dbee589".parse().unwrap())));
        assert_eq!(of("blue.color.kv._metadata"), Some(OfApp::Metadata { key: "color", value: "blue" }));
        assert_eq!(of("vms"), Some(OfApp::Machines { all: false }));
        assert_eq!(of("all.vms"), Some(OfApp::Machines { all: true }));
        assert_eq!(of("regions"), Some(OfApp::Regions { all: false }));
        assert_eq!(of("all.regions"), Some(OfApp::Regions { all: true }));
        assert_eq!(form(&["_apps"]), Some(Form::Apps));
        assert_eq!(form(&["_peer"]), Some(Form::Peers));
        assert_eq!(form(&["laptop", "_peer"]), Some(Form::Peer("laptop")));
        assert_eq!(form(&["_instances"]), Some(Form::Instances { all: false }));
        assert_eq!(form(&["all", "_instances"]), Some(Form::Instances { all: true }));
        assert_eq!(form(&["_api"]), Some(Form::Api));
    }

    #[test]
    fn names_between_others_exist_and_others_do_not() {
        for branch in ["vm", "process", "of", "nearest.of", "all", "_metadata", "kv._metadata", "color.kv._metadata"] {
            assert_eq!(of(branch), Some(OfApp::Branch), "{branch}");
        }
        for none in ["x", "amst", "top0.nearest.of", "top+3.nearest.of", "top.nearest.of", "zz.vm", "a.b", "a.ams"] {
            assert_eq!(of(none), None, "{none}");
        }
        assert_eq!(form(&["_other"]), None);
    }
}
