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
            // An emulated processor shows nothing about time.
            "reach::a_node_that_is_cut_off_is_out_of_reach_and_returns_within_three_seconds",
            // It has no nft.
            "relays::one_behind_a_translator_of_ports_is_relayed_from_where_it_speaks",
            // Twelve nodes are too many for an emulated processor; neither has anything of the kernel's.
            "hostile::noise_on_the_port_is_counted_and_harms_nobody",
            "many::twelve_nodes_with_a_hundred_thousand_addresses_reach_each_other",
        ]
        .map(str::to_owned)
        .into(),
        files: Vec::<PathBuf>::new(),
        limit: Duration::from_secs(300),
    };
    suite.run().await.unwrap().assert_passed();
}
