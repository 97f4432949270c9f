//! Lines of callers who wait for tokens, one per bucket: who came first is served first, and who
//! comes without waiting does not take what those in line are waiting for.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::{Mutex as Turn, OwnedMutexGuard};
use zae_limiter_core::BucketKey;

use crate::target::Target;

/// The lines that somebody stands in.
#[derive(Debug, Default)]
pub(crate) struct Lines(Mutex<HashMap<BucketKey, Arc<Turn<()>>>>);

/// A place in a line. Whoever drops it leaves, wherever in the line it stood.
#[derive(Debug)]
pub(crate) struct Place<'a, 'b> {
    lines: &'a Lines,
    target: Target<'b>,
    line: Option<Arc<Turn<()>>>,
    turn: Option<OwnedMutexGuard<()>>,
}

impl Lines {
    /// Goes to the end of the line for a bucket, with what is wanted of it.
    pub(crate) fn join<'a, 'b>(&'a self, target: &Target<'b>) -> Place<'a, 'b> {
        target.bucket.join_line(&target.request());
        let key = target.bucket.key();
        let line = self.0.lock().entry(key.clone()).or_default().clone();
        Place {
            lines: self,
            target: target.clone(),
            line: Some(line),
            turn: None,
        }
    }

    #[cfg(test)]
    fn len(&self) -> usize {
        self.0.lock().len()
    }
}

impl Place<'_, '_> {
    /// Waits to be the first. The order is that in which this was first polled.
    pub(crate) async fn turn(&mut self) {
        if let Some(line) = &self.line {
            self.turn = Some(line.clone().lock_owned().await);
        }
    }
}

impl Drop for Place<'_, '_> {
    fn drop(&mut self) {
        let Target { bucket, .. } = &self.target;
        bucket.leave_line(&self.target.request());
        self.turn = None;
        let mut lines = self.lines.0.lock();
        self.line = None;
        // The map has one of the counts; nobody can join while it is locked.
        if lines
            .get(bucket.key())
            .is_some_and(|line| Arc::strong_count(line) == 1)
        {
            lines.remove(bucket.key());
        }
    }
}

#[cfg(test)]
mod tests {
    use zae_limiter_core::BucketCache;

    use super::*;
    use crate::Limit;
    use crate::target::Loan;

    #[tokio::test]
    async fn first_come_first_served_and_an_empty_line_is_forgotten() {
        let lines = Lines::default();
        let limits: Arc<[Limit]> = [Limit::per_second("rps", 10).expect("a limit")].into();
        let bucket = BucketCache::new().get_or_insert("user", "api", &limits);
        let target = Target {
            bucket: bucket.expect("a bucket"),
            limits: Loan::Shared(limits),
            consume: smallvec::smallvec![("rps", 2)],
            in_turn: false,
        };
        let claimed = || target.bucket.ahead_of(&target.request()).tokens(0);
        let mut first = lines.join(&target);
        first.turn().await;
        let stand = async || lines.join(&target).turn().await;
        let (mut second, mut third) = (Box::pin(stand()), Box::pin(stand()));
        let pending = futures_poll(&mut second) && futures_poll(&mut third);
        assert!(pending, "the first has not left");
        assert_eq!(claimed(), 6);
        drop(first);
        assert!(futures_poll(&mut third), "the second comes before");
        drop(second); // gives up its place
        assert_eq!(claimed(), 2);
        third.await;
        assert_eq!((lines.len(), claimed()), (0, 0));
    }

    fn futures_poll<T>(future: &mut std::pin::Pin<Box<impl Future<Output = T>>>) -> bool {
        let mut context = std::task::Context::from_waker(std::task::Waker::noop());
        future.as_mut().poll(&mut context).is_pending()
    }
}
