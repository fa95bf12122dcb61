//! Servers that do not answer when a deploy begins.

use super::*;

#[tokio::test]
async fn machines_out_of_reach_stop_a_deploy_before_anything_changes() {
    let lab = Lab::new().await;
    lab.deployed().await;
    let before = lab.world.ids();
    lab.world.silence(&["node-nrt"]);
    let release = lab.release().await;
    let _executor = lab.executor();
    assert_eq!(lab.ended(&release).await, ReleaseStatus::Failed);
    assert_eq!(lab.world.ids(), before);
    let events = lab.events(&release).await;
    let told = &events[0].text;
    assert!(events.len() == 1 && told.contains("on node-nrt") && told.contains("--skip-unreachable"), "{events:?}");
}

#[tokio::test]
async fn a_deploy_may_go_on_without_them() {
    let lab = Lab::new().await;
    lab.deployed().await;
    lab.world.silence(&["node-nrt"]);
    let release = lab.release_asked("", &Asked { skip_unreachable: true, ..Asked::default() }).await;
    let _executor = lab.executor();
    assert_eq!(lab.ended(&release).await, ReleaseStatus::Complete);
    assert_eq!(lab.world.serving(), [2, 2], "nobody can take the third one now");
    assert_eq!(lab.remembered().await.0.len(), 3, "the region is not forgotten");
    lab.world.silence(&[]);
    let release = lab.release().await;
    assert_eq!(lab.ended(&release).await, ReleaseStatus::Complete);
    assert_eq!(lab.world.serving(), [3, 3, 3]);
}
