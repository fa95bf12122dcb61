//! Releases put in place at once, in the machines that are there.

use super::*;

const IMMEDIATE: &str = "[deploy]\nstrategy = 'immediate'\n";

#[tokio::test]
async fn an_immediate_release_changes_the_machines_in_place() {
    let lab = Lab::new().await;
    lab.deployed().await;
    let before = lab.world.ids();
    let release = lab.release_with(IMMEDIATE).await;
    let _executor = lab.executor();
    assert_eq!(lab.ended(&release).await, ReleaseStatus::Complete);
    assert_eq!((lab.world.serving(), lab.world.ids()), (vec![2, 2, 2], before));
}

#[tokio::test]
async fn one_that_does_not_work_somewhere_is_put_back_everywhere_and_shows_the_log() {
    for place in REGIONS {
        let lab = Lab::new().await;
        lab.deployed().await;
        let before = lab.world.ids();
        lab.world.break_release_in(2, place);
        let release = lab.release_with(IMMEDIATE).await;
        let _executor = lab.executor();
        assert_eq!(lab.ended(&release).await, ReleaseStatus::Failed);
        assert_eq!((lab.world.serving(), lab.world.ids()), (vec![1, 1, 1], before));
        let events = lab.events(&release).await;
        assert!(events.iter().any(|event| event.kind == DeployEventKind::Log && event.text == "line 1"), "{events:#?}");
    }
}

#[tokio::test]
async fn an_image_that_cannot_be_fetched_changes_nothing() {
    for extra in ["", IMMEDIATE] {
        let lab = Lab::new().await;
        lab.deployed().await;
        let before = lab.world.ids();
        lab.world.lose_images(true);
        lab.world.least_serving();
        let release = lab.release_with(extra).await;
        let _executor = lab.executor();
        assert_eq!(lab.ended(&release).await, ReleaseStatus::Failed);
        assert_eq!((lab.world.serving(), lab.world.ids()), (vec![1, 1, 1], before));
        assert_eq!(lab.world.least_serving(), Some(3));
        assert!(lab.events(&release).await.last().unwrap().text.contains("no such image"));
    }
}

#[tokio::test]
async fn a_killed_executor_is_continued_by_the_next() {
    survives_deaths_of(IMMEDIATE, Fault::DeathBefore, false).await;
    survives_deaths_of(IMMEDIATE, Fault::DeathAfter, true).await;
}
