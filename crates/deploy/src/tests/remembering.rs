//! What an app remembers of its deploys: regions and counts of the last good one.

use super::*;

fn regions(codes: &[&str]) -> Vec<RegionCode> {
    codes.iter().map(|code| code.parse().unwrap()).collect()
}

#[tokio::test]
async fn a_failed_deploy_to_other_regions_changes_nothing_that_is_remembered() {
    let lab = Lab::new().await;
    lab.deployed().await;
    let before = lab.remembered().await;
    let elsewhere = Asked { regions: regions(&["ord"]), ..Asked::default() };
    lab.world.break_release(2);
    let release = lab.release_asked("", &elsewhere).await;
    let _executor = lab.executor();
    assert_eq!(lab.ended(&release).await, ReleaseStatus::Failed);
    assert_eq!((lab.remembered().await, lab.world.serving().len()), (before, 3));
    let release = lab.release_asked("", &elsewhere).await;
    assert_eq!(lab.ended(&release).await, ReleaseStatus::Complete);
    assert_eq!(lab.remembered().await.0, regions(&["ord"]));
    assert_eq!(lab.world.serving(), [3]);
}

/// The second says nothing of regions: it keeps those of the one before it, though that was not in
/// place yet when it was asked for.
#[tokio::test]
async fn a_deploy_that_waits_goes_on_from_the_one_before() {
    let lab = Lab::new().await;
    lab.deployed().await;
    lab.world.hold_gates(true);
    let first = lab.release_asked("", &Asked { regions: regions(&["ams", "nrt"]), ..Asked::default() }).await;
    let executor = lab.executor();
    let mut feed = EventFeed::new(executor.engine.clone(), lab.app.clone(), first.version, 0);
    tokio::time::timeout(LIMIT, feed.next()).await.expect("the first begins").unwrap();
    let second = lab.release().await;
    lab.world.hold_gates(false);
    assert_eq!(lab.ended(&first).await, ReleaseStatus::Complete);
    assert_eq!(lab.ended(&second).await, ReleaseStatus::Complete);
    assert_eq!((lab.remembered().await.0, lab.world.serving()), (regions(&["ams", "nrt"]), vec![3, 3]));
}
