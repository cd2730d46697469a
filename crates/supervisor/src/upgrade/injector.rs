//! Where a crash can be put on purpose.

use std::future::Future;

use super::Step;

/// A place at which the agent may die.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Point {
    /// The journal with this step was written; nothing of the step was done.
    Written(Step),
    /// In this step, before something is done to the host.
    Before(Step, String),
    /// In this step, after everything was done and before that is written down.
    After(Step),
    /// The journal was closed.
    Closed,
}

/// Is told of every place. In production that is [`NoCrash`], by type; a test's may never return, or kill its process.
pub trait Injector: Send + Sync + 'static {
    /// Called at each place, before anything further happens.
    fn at(&self, point: Point) -> impl Future<Output = ()> + Send;
}

/// Does nothing.
#[derive(Debug, Clone, Copy, Default)]
pub struct NoCrash;

impl Injector for NoCrash {
    async fn at(&self, _: Point) {}
}
