//! The suite on a kernel that has WireGuard: this same program once more, in a virtual machine of the
//! lab. There one end of each pair is the kernel's: in each test the one that is more of a trial.

use std::path::PathBuf;
use std::time::Duration;

use atoll_lab::vm::suite::Suite;

#[tokio::test]
async fn the_suite_holds_on_a_kernel_with_wireguard() {
    let suite = Suite {
        program: std::env::current_exe().unwrap(),
        except: [
            "kernels::the_suite_holds_on_a_kernel_with_wireguard",
            "hostile::noise_on_the_port_is_counted_and_harms_nobody",
            // Twelve nodes are too many for an emulated processor; neither has anything of the kernel's.
            "many::twelve_nodes_with_a_hundred_thousand_addresses_reach_each_other",
        ]
        .map(str::to_owned)
        .into(),
        files: Vec::<PathBuf>::new(),
        limit: Duration::from_secs(300),
    };
    suite.run().await.unwrap().assert_passed();
}
