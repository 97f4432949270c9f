//! Lines of callers who wait for tokens, one per bucket: who came first is served first.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::{Mutex as Turn, OwnedMutexGuard};
use zae_limiter_core::BucketKey;

/// The lines that somebody stands in.
#[derive(Debug, Default)]
pub(crate) struct Lines(Mutex<HashMap<BucketKey, Arc<Turn<()>>>>);

/// A place in a line. Whoever drops it leaves, wherever in the line it stood.
#[derive(Debug)]
pub(crate) struct Place<'a> {
    lines: &'a Lines,
    key: &'a BucketKey,
    line: Option<Arc<Turn<()>>>,
    turn: Option<OwnedMutexGuard<()>>,
}

impl Lines {
    /// Goes to the end of the line for a bucket.
    pub(crate) fn join<'a>(&'a self, key: &'a BucketKey) -> Place<'a> {
        let line = self.0.lock().entry(key.clone()).or_default().clone();
        Place {
            lines: self,
            key,
            line: Some(line),
            turn: None,
        }
    }

    #[cfg(test)]
    fn len(&self) -> usize {
        self.0.lock().len()
    }
}

impl Place<'_> {
    /// Waits to be the first. The order is that in which this was first polled.
    pub(crate) async fn turn(&mut self) {
        if let Some(line) = &self.line {
            self.turn = Some(line.clone().lock_owned().await);
        }
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.turn = None;
        let mut lines = self.lines.0.lock();
        self.line = None;
        // The map has one of the counts; nobody can join while it is locked.
        if lines
            .get(self.key)
            .is_some_and(|line| Arc::strong_count(line) == 1)
        {
            lines.remove(self.key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn first_come_first_served_and_an_empty_line_is_forgotten() {
        let lines = Lines::default();
        let key = BucketKey::new("user", "api").expect("a key");
        let mut first = lines.join(&key);
        first.turn().await;
        let mut second = Box::pin(async {
            let mut place = lines.join(&key);
            place.turn().await;
            2
        });
        let mut third = Box::pin(async {
            let mut place = lines.join(&key);
            place.turn().await;
            3
        });
        let pending = futures_poll(&mut second) && futures_poll(&mut third);
        assert!(pending, "the first has not left");
        drop(first);
        assert!(futures_poll(&mut third), "the second comes before");
        drop(second); // gives up its place
        assert_eq!(third.await, 3);
        assert_eq!(lines.len(), 0);
    }

    fn futures_poll<T>(future: &mut std::pin::Pin<Box<impl Future<Output = T>>>) -> bool {
        let mut context = std::task::Context::from_waker(std::task::Waker::noop());
        future.as_mut().poll(&mut context).is_pending()
    }
}
