//! The whole suite on a host with pure version 2 control groups: this same program once more, in a
//! virtual machine of the lab. Needs the `atoll-lab` program, and a folder made by `worlds/fetch-vm.sh`
//! named in `ATOLL_LAB_VM`.

use std::time::Duration;

use atoll_lab::vm::suite::Suite;

use crate::support::BUSYBOX;

/// An emulated machine is many times slower than this one, which may be busy too.
const LIMIT: Duration = Duration::from_secs(900);

#[tokio::test]
async fn the_suite_holds_on_version_2_control_groups() {
    let suite = Suite {
        program: std::env::current_exe().unwrap(),
        except: vec!["unified::the_suite_holds_on_version_2_control_groups".to_owned()],
        files: vec![BUSYBOX.into()],
        limit: LIMIT,
    };
    suite.run().await.unwrap().assert_passed();
}
