//! Takes the steps of a journal, one after the other, until it ends.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use model::ServiceName;
use tokio::time::sleep;
use tracing::{error, info, warn};

use super::{Effects, Ended, Failure, Injector, Journal, Point, Step, StepEnd, copy_name};
use crate::chain;
use crate::record::{PinnedImage, Record, RecordError, Records};

/// How long until something that must succeed is tried again; it doubles up to the longest.
#[derive(Debug, Clone, Copy)]
pub struct Retry {
    /// After the first failure.
    pub first: Duration,
    /// At most.
    pub max: Duration,
}

impl Default for Retry {
    fn default() -> Self {
        Self { first: Duration::from_secs(2), max: Duration::from_secs(120) }
    }
}

/// A service whose record has a journal, and what carries it out.
pub(crate) struct Drive<'a, H, I> {
    pub(crate) service: &'a ServiceName,
    pub(crate) records: &'a Records,
    pub(crate) host: &'a H,
    pub(crate) injector: &'a I,
    pub(crate) retry: Retry,
}

/// Unix time in seconds.
pub(crate) fn unix_now() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
}

impl<H: Effects, I: Injector> Drive<'_, H, I> {
    /// Goes on after the agent has ended at any point, and to the end. None when nothing was at work.
    pub(crate) async fn resume(&self) -> Option<Ended> {
        let journal = self.records.record(self.service)?.journal?;
        warn!(service = %self.service, "the agent ended while the service was {}", journal.words());
        self.write(StepEnd::Interrupted, None).await;
        self.run().await
    }

    /// From the step at work to the end.
    pub(crate) async fn run(&self) -> Option<Ended> {
        let mut failures = 0;
        loop {
            let record = self.records.record(self.service)?;
            let Some(journal) = &record.journal else {
                self.injector.at(Point::Closed).await;
                let ended = record.last?;
                match &ended.failure {
                    Some(failure) => warn!(service = %self.service, log = failure.log.join("\n"), "{}", ended.words()),
                    None => info!(service = %self.service, "{}", ended.words()),
                }
                return Some(ended);
            };
            info!(service = %self.service, "{}", journal.step.words());
            self.injector.at(Point::Written(journal.step)).await;
            let (end, images) = match self.take(&record, journal).await {
                Ok(gain) => (StepEnd::Done(gain.trouble), gain.images),
                Err(failure) => (StepEnd::Failed(failure), None),
            };
            self.injector.at(Point::After(journal.step)).await;
            if let StepEnd::Failed(failure) = &end {
                warn!(service = %self.service, "{} failed: {}", failure.step.words(), failure.reason);
            }
            let again = journal.step.next(&end).is_some_and(|next| next <= journal.step);
            self.write(end, images).await;
            if again {
                failures += 1;
                self.wait(failures).await;
            }
        }
    }

    /// Writes how the step ended. A full disk must not leave the service between two releases: it is tried until it
    /// succeeds.
    async fn write(&self, end: StepEnd, images: Option<BTreeMap<String, PinnedImage>>) {
        let mut failures = 0;
        loop {
            let written = self.records.change(self.service, |record| {
                let mut record =
                    record.cloned().ok_or_else(|| RecordError::Missing { service: self.service.clone() })?;
                if let (Some(journal), Some(images)) = (&mut record.journal, &images) {
                    journal.new.images.clone_from(images);
                }
                Ok(record.advance(&end, unix_now()))
            });
            let Err(failure) = written else { return };
            if matches!(failure, RecordError::Missing { .. }) {
                return;
            }
            failures += 1;
            error!(service = %self.service, "the journal can't be written and is tried again: {}", chain(&failure));
            self.wait(failures).await;
        }
    }

    async fn wait(&self, failures: u32) {
        let factor = 1u32.checked_shl(failures.saturating_sub(1)).unwrap_or(u32::MAX);
        sleep(self.retry.first.saturating_mul(factor).min(self.retry.max)).await;
    }

    async fn take(&self, record: &Record, journal: &Journal) -> Result<Gain, Failure> {
        let (service, host, step) = (self.service, self.host, journal.step);
        let old = journal.old.generation;
        let before = |what: String| self.injector.at(Point::Before(step, what));
        match step {
            Step::Prepare => {
                before("prepare".into()).await;
                return Ok(Gain { images: Some(host.prepare(service, journal).await?), trouble: None });
            }
            Step::Quiesce | Step::Halt => host.rest(service, &record.wanted(), journal).await?,
            Step::Snapshot => {
                for volume in &journal.volumes {
                    before(format!("copying {volume}")).await;
                    host.copy(service, journal, volume, &copy_name(volume, old)).await?;
                }
            }
            Step::Dump => {
                before("dumping".into()).await;
                host.dump(service, journal).await?;
            }
            Step::Settle => host.settle(service, &record.wanted(), journal, true).await?,
            Step::Finish => {
                // An agent that has just started knows nothing of the service yet, and its containers may not run.
                host.settle(service, &record.wanted(), journal, true).await?;
                before("finishing".into()).await;
                let trouble = host.finish(service, journal).await?;
                host.settle(service, &record.wanted(), journal, true).await?;
                return Ok(Gain { images: None, trouble });
            }
            Step::RestoreVolumes => {
                for volume in &journal.volumes {
                    before(format!("bringing back {volume}")).await;
                    host.copy(service, journal, &copy_name(volume, old), volume).await?;
                }
            }
            Step::RestoreDatabases => {
                host.rest(service, &record.wanted(), journal).await?;
                before("restoring".into()).await;
                host.restore(service, journal).await?;
            }
            Step::SettleBack => host.settle(service, &record.wanted(), journal, false).await?,
            // What was brought back does not work: the copies it came from are all that is known to be good.
            Step::Clear if journal.trouble.is_some() => {}
            Step::Keep | Step::Clear => {
                before("discarding".into()).await;
                let keep = record.former_after(journal).map(|former| former.release.generation);
                host.discard(service, journal, keep).await?;
            }
        }
        Ok(Gain::default())
    }
}

/// What a step brought.
#[derive(Default)]
struct Gain {
    images: Option<BTreeMap<String, PinnedImage>>,
    trouble: Option<String>,
}
