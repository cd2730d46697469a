//! What the steps of an upgrade do to the host. [`Host`](super::Host) does it with an engine; the tests
//! have a host in memory.

use std::collections::BTreeMap;
use std::future::Future;

use model::{Generation, ServiceName};

use super::{Failure, Journal};
use crate::record::{Former, PinnedImage, Release, Wanted};

/// The effects. Each may run any number of times, also after it was broken off in the middle, and has a deadline of its
/// own. None starts or stops a container of the service: the supervisor does, by what the record says.
pub trait Effects: Send + Sync + 'static {
    /// The images that the units of the service run, with their ids, by unit; of those only that run as they are defined.
    fn images_in_use(
        &self,
        service: &ServiceName,
    ) -> impl Future<Output = Result<BTreeMap<String, PinnedImage>, String>> + Send;

    /// Which version an image on this host says that its application is.
    fn version(&self, image: &PinnedImage) -> impl Future<Output = Option<String>> + Send;

    /// Checks the way from the old release to the new one, has the new image on this host and checks that there is room
    /// for the copies. Changes nothing of the service. Returns the images of the new release, with their ids.
    fn prepare(
        &self,
        service: &ServiceName,
        journal: &Journal,
    ) -> impl Future<Output = Result<BTreeMap<String, PinnedImage>, Failure>> + Send;

    /// Waits until the supervisor knows what is wanted, nothing else of the service runs, and what is to run is ready.
    fn rest(
        &self,
        service: &ServiceName,
        wanted: &Wanted,
        journal: &Journal,
    ) -> impl Future<Output = Result<(), Failure>> + Send;

    /// Makes `to` a copy of the volume `from`, whatever `to` was, and has it on the disk. `from` must exist; `to` is
    /// made when it is missing.
    fn copy(
        &self,
        service: &ServiceName,
        journal: &Journal,
        from: &str,
        to: &str,
    ) -> impl Future<Output = Result<(), Failure>> + Send;

    /// Dumps the databases, checks that the dumps are whole and has them on the disk.
    fn dump(&self, service: &ServiceName, journal: &Journal) -> impl Future<Output = Result<(), Failure>> + Send;

    /// Makes the databases what was dumped of them.
    fn restore(&self, service: &ServiceName, journal: &Journal) -> impl Future<Output = Result<(), Failure>> + Send;

    /// Waits until the wanted release runs and is healthy, and, with `up_to_date`, until the application says that it is
    /// up to date.
    fn settle(
        &self,
        service: &ServiceName,
        wanted: &Wanted,
        journal: &Journal,
        up_to_date: bool,
    ) -> impl Future<Output = Result<(), Failure>> + Send;

    /// Runs the commands that come after an upgrade. Returns what some of them had to complain about: that is no reason
    /// to go back while the service works.
    fn finish(
        &self,
        service: &ServiceName,
        journal: &Journal,
    ) -> impl Future<Output = Result<Option<String>, Failure>> + Send;

    /// Checks that all is there that a way back from the release in force needs; says what is not.
    fn way_back(
        &self,
        service: &ServiceName,
        former: &Former,
        in_force: &Release,
    ) -> impl Future<Output = Result<(), String>> + Send;

    /// Removes the copies of volumes and the dumps of all generations but `keep`.
    fn discard(
        &self,
        service: &ServiceName,
        journal: &Journal,
        keep: Option<Generation>,
    ) -> impl Future<Output = Result<(), Failure>> + Send;
}

/// The name of the copy of a volume as it was in a generation.
#[must_use]
pub fn copy_name(volume: &str, generation: Generation) -> String {
    format!("{volume}.g{generation}")
}

/// The name of the file, or the beginning of the names of the files, that the dump of the database at this place was
/// written to when `old` was left for `new`. A dump that is given up never shares its name with a later one.
#[must_use]
pub fn dump_name(old: Generation, new: Generation, at: usize) -> String {
    format!("g{old}-{new}.{at}")
}
