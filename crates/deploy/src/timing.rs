//! How long the executor waits for what.

use std::time::Duration;

#[derive(Clone, Debug)]
pub struct Timing {
    /// A deploy whose executor is not heard of for so long is taken over by another one.
    pub lease: Duration,
    /// How often a lease is renewed.
    pub renewal: Duration,
    /// How often the records are searched for deploys that nobody executes.
    pub search: Duration,
    /// Pause after a deploy that could not be continued, such as without its records.
    pub setback: Duration,
    /// How often a new machine is looked at.
    pub look: Duration,
    /// First and longest pause between attempts at an effect whose server does not answer.
    pub first_pause: Duration,
    pub longest_pause: Duration,
    /// How long such attempts go on: a server that is being started again answers within this time, of
    /// one that does not the deploy must not hang.
    pub patience: Duration,
    /// The same for effects whose failure does not fail the deploy.
    pub short_patience: Duration,
    /// Pause after a machine could not be moved to another node.
    pub retry_move: Duration,
    /// How long edges may take to acknowledge a row.
    pub barrier: Duration,
}

impl Default for Timing {
    fn default() -> Self {
        Self {
            lease: Duration::from_secs(10),
            renewal: Duration::from_secs(3),
            search: Duration::from_millis(500),
            setback: Duration::from_secs(2),
            look: Duration::from_millis(100),
            first_pause: Duration::from_millis(100),
            longest_pause: Duration::from_secs(2),
            patience: Duration::from_secs(20),
            short_patience: Duration::from_secs(5),
            retry_move: Duration::from_secs(60),
            barrier: Duration::from_secs(30),
        }
    }
}
