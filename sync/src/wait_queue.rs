//! Queues of callers waiting for tokens, one per bucket: first come, first served, and no later caller takes
//! what earlier ones are waiting for.
//!
//! Of callers who want tokens of the same limits, none can be served before the first of them. So
//! only that one looks for tokens, and the others wait for their turn. Callers who want tokens of
//! other limits do not wait for each other; they leave each other what is claimed.

use std::collections::HashMap;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use smallvec::SmallVec;
use tokio::sync::futures::Notified;
use tokio::sync::{Mutex, Notify, OwnedMutexGuard};
use zae_limiter_core::{BucketKey, BucketRef, Ticket};

use crate::target::Target;

/// The queues that are not empty.
#[derive(Debug, Default)]
pub(crate) struct WaitQueues(parking_lot::Mutex<HashMap<BucketKey, WaitQueue>>);

/// The queue of a bucket.
#[derive(Debug, Default)]
struct WaitQueue {
    groups: SmallVec<[Group; 1]>,
    /// Notified when a caller has left: there may be more for the others.
    left: Arc<Notify>,
}

/// The callers in a queue that want tokens of the same limits.
#[derive(Debug)]
struct Group {
    wanted: Wanted,
    waiting: usize,
    turn: Arc<Mutex<()>>,
}

/// The limits of the bucket, and of its parent, of which tokens are wanted.
type Wanted = SmallVec<[SmallVec<[Box<str>; 2]>; 2]>;

fn wanted(targets: &[Target<'_>]) -> Wanted {
    let wanted = |target: &Target<'_>| {
        let named = target.consume.iter().filter(|(_, tokens)| *tokens > 0);
        let mut names: SmallVec<_> = named.map(|(name, _)| Box::from(*name)).collect();
        names.sort();
        names
    };
    targets.iter().map(wanted).collect()
}

/// A place in a queue, given up when it is dropped, wherever in the queue it is.
pub(crate) struct Place<'a> {
    queues: &'a WaitQueues,
    bucket: BucketRef,
    ticket: Ticket,
    group: Arc<Mutex<()>>,
    left: Arc<Notify>,
    turn: Turn,
}

/// The turn of a place: waited for, or there until it is given up.
enum Turn {
    Waiting(Pin<Box<dyn Future<Output = OwnedMutexGuard<()>> + Send + Sync>>),
    Taken { _guard: OwnedMutexGuard<()> },
    GivenUp,
}

impl Turn {
    /// Goes to the end of a group, also before the caller polls.
    fn of(group: &Arc<Mutex<()>>) -> Self {
        let mut turn = Box::pin(group.clone().lock_owned());
        let mut context = Context::from_waker(Waker::noop());
        match turn.as_mut().poll(&mut context) {
            Poll::Ready(guard) => Self::Taken { _guard: guard },
            Poll::Pending => Self::Waiting(turn),
        }
    }
}

impl WaitQueues {
    /// Goes to the end of the queue for the first target, with what is wanted of it. The others
    /// are charged as well, but that is not what it waits for yet.
    pub(crate) fn join<'a>(&'a self, targets: &mut [Target<'_>]) -> Place<'a> {
        let wanted = wanted(targets);
        let target = &mut targets[0];
        let bucket = target.bucket.clone();
        let mut queues = self.0.lock();
        let ticket = bucket.join_queue(&target.request());
        target.ticket = Some(ticket);
        let queue = queues.entry(bucket.key().clone()).or_default();
        let at = queue.groups.iter().position(|group| group.wanted == wanted);
        let at = at.unwrap_or_else(|| {
            queue.groups.push(Group {
                wanted,
                waiting: 0,
                turn: Arc::default(),
            });
            queue.groups.len() - 1
        });
        queue.groups[at].waiting += 1;
        Place {
            queues: self,
            bucket,
            ticket,
            group: queue.groups[at].turn.clone(),
            left: queue.left.clone(),
            turn: Turn::of(&queue.groups[at].turn),
        }
    }

    #[cfg(test)]
    fn len(&self) -> usize {
        self.0.lock().len()
    }
}

impl Place<'_> {
    /// Waits to be the first of its group.
    pub(crate) async fn turn(&mut self) {
        if let Turn::Waiting(turn) = &mut self.turn {
            let guard = turn.await;
            self.turn = Turn::Taken { _guard: guard };
        }
    }

    /// Notified when a caller has left the queue.
    pub(crate) fn left(&self) -> Notified<'_> {
        self.left.notified()
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.bucket.leave_queue(self.ticket);
        self.turn = Turn::GivenUp;
        self.left.notify_waiters();
        let mut queues = self.queues.0.lock();
        let Some(queue) = queues.get_mut(self.bucket.key()) else {
            return;
        };
        let mut groups = queue.groups.iter();
        if let Some(at) = groups.position(|group| Arc::ptr_eq(&group.turn, &self.group)) {
            queue.groups[at].waiting -= 1;
            if queue.groups[at].waiting == 0 {
                queue.groups.swap_remove(at);
            }
        }
        if queue.groups.is_empty() {
            queues.remove(self.bucket.key());
        }
    }
}

#[cfg(test)]
mod tests {
    use zae_limiter_core::BucketCache;

    use super::*;
    use crate::Limit;
    use crate::target::Loan;

    fn target(bucket: &BucketRef, consume: &[(&'static str, u64)]) -> Target<'static> {
        Target {
            bucket: bucket.clone(),
            limits: Loan::Shared(bucket.limits()),
            consume: consume.into(),
            ticket: None,
        }
    }

    fn bucket() -> BucketRef {
        let limits = ["rps", "tps"].map(|name| Limit::per_second(name, 10).expect("a limit"));
        let bucket = BucketCache::new().get_or_insert("user", "api", &limits.into());
        bucket.expect("a bucket")
    }

    #[tokio::test]
    async fn first_come_first_served_and_an_empty_queue_is_forgotten() {
        let (queues, bucket) = (WaitQueues::default(), bucket());
        let wants = || target(&bucket, &[("rps", 2)]);
        let claimed = || bucket.ahead_of(&wants().request()).tokens(0);
        let mut first = queues.join(&mut [wants()]);
        first.turn().await;
        let stand = async || queues.join(&mut [wants()]).turn().await;
        let (mut second, mut third) = (Box::pin(stand()), Box::pin(stand()));
        assert!(is_pending(&mut second) && is_pending(&mut third));
        assert_eq!(claimed(), 6);
        drop(first);
        assert!(is_pending(&mut third), "the second comes before");
        drop(second); // gives up its place
        assert_eq!(claimed(), 2);
        third.await;
        assert_eq!((queues.len(), claimed()), (0, 0));
    }

    #[tokio::test]
    async fn callers_who_want_other_limits_do_not_wait_for_each_other() {
        let (queues, bucket) = (WaitQueues::default(), bucket());
        let mut both = [target(&bucket, &[("rps", 2), ("tps", 3)])];
        let mut other_order = [target(&bucket, &[("tps", 1), ("rps", 1)])];
        let mut one = [target(&bucket, &[("rps", 1), ("tps", 0)])];
        let mut first = queues.join(&mut both);
        let mut same = queues.join(&mut other_order);
        let mut other = queues.join(&mut one);
        first.turn().await;
        assert!(is_pending(&mut Box::pin(same.turn())));
        assert!(!is_pending(&mut Box::pin(other.turn())));
        assert!(!both[0].is_behind() && one[0].is_behind());
        let left = other.left();
        drop(first);
        left.await;
        drop(same);
        assert!(!one[0].is_behind());
        drop(other);
        assert_eq!(queues.len(), 0);
    }

    fn is_pending<T>(future: &mut std::pin::Pin<Box<impl Future<Output = T>>>) -> bool {
        let mut context = std::task::Context::from_waker(std::task::Waker::noop());
        future.as_mut().poll(&mut context).is_pending()
    }
}
