//! What a store's options mean for what it keeps: in words for people, and as numbers.

use std::{fmt, time::Duration};

use crate::env::Env;

use super::{
    keeper::CHECKPOINT_LOOKS,
    options::{Options, Sync},
    shared::Shared,
    storage::Storage,
    view::Visibility,
};

/// What a store promises under its options. [`Display`](fmt::Display) is for people.
///
/// ```
/// use engine::txn::options::{Options, Sync};
/// use std::time::Duration;
///
/// let options = Options { sync_period: Duration::from_secs(2), ..Options::default() };
/// let explanation = options.explain();
/// assert_eq!(explanation.power_cut.window, Some(Duration::from_secs(3)));
/// println!("{explanation}");
/// assert_eq!(Options { sync: Sync::Instant, ..options }.explain().power_cut.window, Some(Duration::ZERO));
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Explanation {
    /// What a commit waits for.
    pub sync: Sync,
    /// From when on others see it.
    pub visibility: Visibility,
    /// When a commit returns.
    pub returns: String,
    /// What is lost if the process is killed.
    pub kill: Loss,
    /// What is lost if the machine loses power.
    pub power_cut: Loss,
    /// Whether others may read what a crash takes back.
    pub others_see_what_may_be_lost: bool,
    /// What others see of a commit, and when.
    pub others: String,
    /// The options that decide this, with their values.
    pub settings: Vec<(&'static str, String)>,
    /// What to change, by what is wanted.
    pub advice: Vec<String>,
}

/// What one kind of crash may take of the commits that were acknowledged: always the last ones, each as a whole.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Loss {
    /// Between the acknowledgements of the first and the last lost one there is at most this; zero if none is lost. Of
    /// [`Sync::NoSync`] it is exceeded by the time that two checkpoints take, and while none succeeds.
    pub window: Option<Duration>,
    /// Versions of at most so many bytes of memory, and the transactions that went beyond; `None` if only time bounds them.
    pub bytes: Option<u64>,
    /// The same in words.
    pub words: String,
}

impl Options {
    /// What a store with these options promises; of [`logs`](Options::logs) a store that exists has its own number.
    #[must_use]
    pub fn explain(&self) -> Explanation {
        let (sync, visibility) = (self.sync, self.visibility());
        Explanation {
            sync,
            visibility,
            returns: self.returns(),
            kill: self.loss(
                "nothing of it was handed to the operating system: at most log_buffer_bytes of each log, and large \
                 records beside them",
            ),
            power_cut: self.loss("the last sync that has ended did not have it"),
            others_see_what_may_be_lost: visibility == Visibility::Committed,
            others: self.others().to_owned(),
            settings: self.settings(),
            advice: self.advice().iter().map(|advice| (*advice).to_owned()).collect(),
        }
    }

    /// How long after the beginning of the last sync that has ended a commit still returns at once.
    pub(super) fn most_unsynced(&self) -> Duration {
        self.sync_period + self.sync_period / 2
    }

    fn returns(&self) -> String {
        match self.sync {
            Sync::Instant => "when it survives a power cut".to_owned(),
            Sync::Periodic => {
                let most = self.most_unsynced();
                format!("at once; if the last sync that has ended began more than {most:?} ago, after the next one")
            }
            Sync::NoSync => "at once, and nothing of it is logged".to_owned(),
        }
    }

    fn loss(&self, why: &str) -> Loss {
        match self.sync {
            Sync::Instant => {
                Loss { window: Some(Duration::ZERO), bytes: Some(0), words: "nothing that was acknowledged".to_owned() }
            }
            Sync::Periodic => {
                let most = self.most_unsynced();
                let words = format!("what was acknowledged within {most:?} at most, if {why}");
                Loss { window: Some(most), bytes: None, words }
            }
            Sync::NoSync => {
                let (window, bytes) = (self.checkpoint_period + CHECKPOINT_LOOKS, 2 * self.dirty_bytes);
                let words = format!(
                    "what was acknowledged since the last checkpoint began: of {window:?} and the time that two checkpoints \
                     take, and of {bytes} bytes of versions in memory, at which commits wait"
                );
                Loss { window: Some(window), bytes: Some(bytes), words }
            }
        }
    }

    fn others(&self) -> &'static str {
        match (self.visibility(), self.sync) {
            (Visibility::Durable, Sync::Instant) => {
                "they see a commit when it survives a power cut: what anybody has read is never taken back"
            }
            (Visibility::Durable, _) => {
                "they see a commit when it survives a power cut: what anybody has read is never taken back. A commit returns \
                 before that: what begins next may not see it yet, and its rows stay locked until then"
            }
            (Visibility::Committed, Sync::Instant) => {
                "they see a commit before it is durable; a power cut may take back what they read, but nothing that was \
                 acknowledged, since what is made of a commit is acknowledged after it"
            }
            (Visibility::Committed, _) => {
                "they see a commit at once; a crash may take back what they read, then together with all that was made of it"
            }
        }
    }

    fn settings(&self) -> Vec<(&'static str, String)> {
        let visibility = match self.visibility() {
            Visibility::Committed => "committed",
            Visibility::Durable => "durable",
        };
        let mut settings = vec![("sync", self.sync.to_string()), ("visibility", visibility.to_owned())];
        match self.sync {
            Sync::Instant => {}
            Sync::Periodic => settings.extend([
                ("sync_period", format!("{:?}", self.sync_period)),
                ("sync_threshold", format!("{} commits", self.sync_threshold)),
                ("log_buffer_bytes", self.log_buffer_bytes.to_string()),
            ]),
            Sync::NoSync => settings.extend([
                ("checkpoint_period", format!("{:?}", self.checkpoint_period)),
                ("dirty_bytes", self.dirty_bytes.to_string()),
            ]),
        }
        settings.push(("logs", self.logs.to_string()));
        settings
    }

    fn advice(&self) -> &'static [&'static str] {
        match self.sync {
            Sync::Instant => &[
                "faster commits: let several threads commit at once, since they share their syncs; or periodic, for what may \
                 be lost",
            ],
            Sync::Periodic => &[
                "lose less: a shorter sync_period",
                "lose nothing of single commits: Store::sync, or Ticket::durable; of all: instant",
                "commits take long: they wait for an overdue sync; a lower sync_threshold lets it begin sooner, and under \
                 instant commits share their syncs",
            ],
            Sync::NoSync => &[
                "lose less: Store::checkpoint after what matters, a shorter checkpoint_period, smaller dirty_bytes; or periodic",
            ],
        }
    }
}

impl<E: Env, S: Storage<E>> Shared<E, S> {
    pub(super) fn explain(&self) -> Explanation {
        Options { logs: self.logs.count() as u16, ..self.options.clone() }.explain()
    }
}

impl fmt::Display for Explanation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "a commit returns    {}", self.returns)?;
        writeln!(f, "a process kill      loses {}", self.kill.words)?;
        writeln!(f, "a power cut         loses {}", self.power_cut.words)?;
        writeln!(f, "others              {}", self.others)?;
        writeln!(
            f,
            "what is lost        is the end of the order of commits: each as a whole, none without those after it"
        )?;
        writeln!(f, "tables in memory    survive no close, whatever is said above")?;
        for (nth, (name, value)) in self.settings.iter().enumerate() {
            writeln!(f, "{:<20}{name} = {value}", if nth == 0 { "settings" } else { "" })?;
        }
        for (nth, advice) in self.advice.iter().enumerate() {
            writeln!(f, "{:<20}{advice}", if nth == 0 { "to" } else { "" })?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// L12-L15, L34: each sync type has its own bound, and names the settings behind it, and those only.
    #[test]
    fn each_setting_is_explained_by_its_own_bound() {
        let ms = Duration::from_millis;
        for period in [1, 500, 3_600_000] {
            let sync_period = ms(period);
            let explained = Options { sync: Sync::Periodic, sync_period, ..Options::default() }.explain();
            let most = sync_period * 3 / 2;
            for loss in [&explained.kill, &explained.power_cut] {
                assert_eq!((loss.window, loss.bytes), (Some(most), None));
                assert!(loss.words.contains(&format!("{most:?}")), "{}", loss.words);
            }
            assert!(explained.returns.contains(&format!("{most:?}")) && explained.others_see_what_may_be_lost);
            let text = explained.to_string();
            for part in [format!("sync_period = {sync_period:?}"), "sync_threshold = 100 commits".to_owned()] {
                assert!(text.contains(&part), "{text}");
            }
            assert!(!text.contains("checkpoint_period ="), "{text}");
        }
        let instant = Options { sync: Sync::Instant, ..Options::default() };
        let explained = instant.explain();
        assert_eq!((explained.power_cut.window, explained.kill.bytes), (Some(Duration::ZERO), Some(0)));
        assert!(!explained.others_see_what_may_be_lost && !explained.to_string().contains("sync_period"));
        let none = Options { sync: Sync::NoSync, dirty_bytes: 1 << 20, checkpoint_period: ms(7000), ..instant.clone() };
        let explained = none.explain();
        assert_eq!((explained.kill.window, explained.kill.bytes), (Some(ms(10_000)), Some(2 << 20)));
        assert!(explained.kill == explained.power_cut && explained.to_string().contains("dirty_bytes = 1048576"));
    }

    /// L17: who may read what a crash takes back.
    #[test]
    fn others_are_told_of_by_visibility() {
        for sync in [Sync::Instant, Sync::Periodic] {
            for visibility in [Visibility::Committed, Visibility::Durable] {
                let options = Options { sync, visibility: Some(visibility), ..Options::default() };
                let explained = options.explain();
                assert_eq!(explained.others_see_what_may_be_lost, visibility == Visibility::Committed);
                assert_eq!(explained.others.contains("take back what they read"), visibility == Visibility::Committed);
                assert_eq!(explained.visibility, visibility);
            }
        }
    }
}
