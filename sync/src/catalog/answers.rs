//! A cache of answers of the table: each is fresh for a while, and loaded by one future at a time.

use std::fmt;
use std::hash::Hash;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crossbeam::utils::CachePadded;
use moka::future::Cache;
use moka::notification::RemovalCause;
use moka::ops::compute::Op;
use moka::{Entry, Expiry};
use zae_limiter_core::{Clock, MonotonicTime};

use crate::metrics::Counter;
use crate::store::StoreError;

/// How long an old answer is kept for the case that no new one is to be had.
const KEPT_FOR: Duration = Duration::from_secs(3_600);
/// How soon a failed look is repeated.
const AGAIN_AFTER: Duration = Duration::from_secs(1);

/// What has been counted of all answers of a catalog.
#[derive(Debug, Default)]
pub(crate) struct Counts {
    /// Apart from the rest: every acquire that looks something up adds to it.
    pub(crate) hits: CachePadded<Counter>,
    pub(crate) misses: Counter,
    pub(crate) loads: Counter,
    pub(crate) coalesced: Counter,
    pub(crate) evictions: Counter,
}

/// What is remembered of a key.
#[derive(Clone, Debug)]
enum Answer<T> {
    Found {
        value: T,
        fresh_until: MonotonicTime,
        /// All answers of an earlier one have been forgotten.
        generation: u64,
    },
    /// The table could not be asked, for all who wanted to know by then.
    Failed {
        error: Arc<StoreError>,
        at: MonotonicTime,
    },
}

/// How long moka keeps an answer.
struct Keeping {
    found: Duration,
}

impl<K, T> Expiry<K, Answer<T>> for Keeping {
    fn expire_after_create(&self, _: &K, answer: &Answer<T>, _: Instant) -> Option<Duration> {
        Some(match answer {
            Answer::Found { .. } => self.found,
            Answer::Failed { .. } => AGAIN_AFTER,
        })
    }

    fn expire_after_update(
        &self,
        key: &K,
        answer: &Answer<T>,
        now: Instant,
        _: Option<Duration>,
    ) -> Option<Duration> {
        self.expire_after_create(key, answer, now)
    }
}

/// A cache of one sort of answer.
pub(super) struct Answers<K, T> {
    cache: Cache<K, Answer<T>>,
    ttl: Duration,
    generation: AtomicU64,
    counts: Arc<Counts>,
}

impl<K, T> fmt::Debug for Answers<K, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Answers")
            .field("ttl", &self.ttl)
            .finish_non_exhaustive()
    }
}

impl<K, T> Answers<K, T>
where
    K: Hash + Eq + Clone + Send + Sync + 'static,
    T: Clone + Send + Sync + 'static,
{
    pub(super) fn new(ttl: Duration, entries_max: u64, counts: &Arc<Counts>) -> Self {
        let evicted = counts.clone();
        let cache = Cache::builder()
            .max_capacity(entries_max)
            .expire_after(Keeping {
                found: ttl.max(KEPT_FOR),
            })
            .eviction_listener(move |_, _, cause| {
                if cause == RemovalCause::Size {
                    evicted.evictions.add_one();
                }
            });
        Self {
            cache: cache.build(),
            ttl,
            generation: AtomicU64::new(0),
            counts: counts.clone(),
        }
    }

    /// How many are remembered, about.
    pub(super) fn len(&self) -> u64 {
        self.cache.entry_count()
    }

    /// What is known, if it is fresh; an old answer too, if `old` will do. Never waits.
    pub(super) fn known(&self, now: MonotonicTime, key: &K, old: bool) -> Option<T> {
        use std::task::{Context, Poll, Waker};
        // A lookup in the cache is ready at the first poll: it waits for nobody.
        let found = std::pin::pin!(self.cache.get(key));
        let Poll::Ready(found) = found.poll(&mut Context::from_waker(Waker::noop())) else {
            return None;
        };
        let (value, fresh) = self.found(now, found?)?;
        (fresh || old).then(|| {
            self.counts.hits.add_one();
            value
        })
    }

    /// The value of an answer, and whether it is fresh.
    fn found(&self, now: MonotonicTime, answer: Answer<T>) -> Option<(T, bool)> {
        match answer {
            Answer::Found {
                value,
                fresh_until,
                generation,
            } if generation == self.generation.load(Ordering::Acquire) => {
                Some((value, now < fresh_until))
            }
            _ => None,
        }
    }

    /// What is known, or what `load` finds. Callers of one key are let in one by one. A caller that finds
    /// what another has loaded meanwhile, or that this has failed, does not load again. An old answer holds on where there is no new one.
    pub(super) async fn get(
        &self,
        clock: &Clock,
        key: &K,
        load: impl AsyncFnOnce() -> Result<T, StoreError>,
    ) -> Result<T, Arc<StoreError>> {
        let asked_at = clock.now();
        if let Some(value) = self.known(asked_at, key, false) {
            return Ok(value);
        }
        self.counts.misses.add_one();
        let mut outcome = None;
        let answer = async |entry: Option<Entry<K, Answer<T>>>| {
            let before = entry.map(Entry::into_value);
            if let Some(Answer::Failed { error, at }) = &before
                && asked_at <= *at
            {
                self.counts.coalesced.add_one();
                outcome = Some(Err(error.clone()));
                return Op::Nop;
            }
            let before = before.and_then(|answer| self.found(clock.now(), answer));
            let old = match before {
                Some((value, true)) => {
                    self.counts.coalesced.add_one();
                    outcome = Some(Ok(value));
                    return Op::Nop;
                }
                before => before.map(|(value, _)| value),
            };
            // What forgets everything from here on includes this answer.
            let generation = self.generation.load(Ordering::Acquire);
            self.counts.loads.add_one();
            let (value, ttl) = match (load().await, old) {
                (Ok(value), _) => (value, self.ttl),
                (Err(_), Some(old)) => (old, AGAIN_AFTER),
                (Err(error), None) => {
                    let (error, at) = (Arc::new(error), clock.now());
                    outcome = Some(Err(error.clone()));
                    return Op::Put(Answer::Failed { error, at });
                }
            };
            outcome = Some(Ok(value.clone()));
            Op::Put(Answer::Found {
                value,
                fresh_until: clock.now().after(ttl),
                generation,
            })
        };
        self.cache.entry_by_ref(key).and_compute_with(answer).await;
        match outcome {
            Some(outcome) => outcome,
            None => unreachable!("it was let in before this went on"),
        }
    }

    /// Forgets what is known of a key. What is being loaded has perhaps been read before that
    /// which is to be known now was written; so it is waited for, and forgotten as well.
    pub(super) async fn forget(&self, key: &K) {
        let remove = async |_: Option<Entry<K, Answer<T>>>| Op::Remove;
        self.cache.entry_by_ref(key).and_compute_with(remove).await;
    }

    /// Forgets everything, and what is being loaded as soon as it is there.
    pub(super) fn forget_all(&self) {
        self.generation.fetch_add(1, Ordering::AcqRel);
        self.cache.invalidate_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::StoreErrorKind;
    use std::cell::Cell;
    use std::future::Future;
    use std::pin::pin;
    use std::task::{Context, Poll, Waker};
    use tokio::sync::Notify;
    use zae_limiter_core::ManualClock;

    const TTL: Duration = Duration::from_secs(30);

    fn answers() -> (Answers<String, u32>, Clock, ManualClock) {
        let (clock, hand) = Clock::manual();
        let answers = Answers::new(TTL, 100, &Arc::default());
        (answers, clock, hand)
    }

    fn unreachable() -> StoreError {
        StoreError::new(StoreErrorKind::Unreachable, "no answer")
    }

    fn polled<T>(future: &mut std::pin::Pin<&mut impl Future<Output = T>>) -> Poll<T> {
        future
            .as_mut()
            .poll(&mut Context::from_waker(Waker::noop()))
    }

    #[tokio::test]
    async fn who_waits_for_a_load_that_fails_does_not_try_again() {
        let (answers, clock, _) = answers();
        let (key, gate, loads) = ("a".to_owned(), Notify::new(), Cell::new(0));
        let load = async || {
            loads.set(loads.get() + 1);
            if loads.get() == 1 {
                gate.notified().await;
            }
            Err(unreachable())
        };
        let mut first = pin!(answers.get(&clock, &key, load));
        let mut second = pin!(answers.get(&clock, &key, load));
        assert!(polled(&mut first).is_pending() && polled(&mut second).is_pending());
        gate.notify_one();
        assert!(first.await.is_err() && second.await.is_err());
        assert_eq!((loads.get(), answers.counts.coalesced.get()), (1, 1));
        assert_eq!(answers.known(clock.now(), &key, true), None);
    }

    #[tokio::test]
    async fn an_old_answer_is_loaded_anew_once_and_holds_on_where_that_fails() {
        let (answers, clock, hand) = answers();
        let key = "a".to_owned();
        assert_eq!(answers.get(&clock, &key, async || Ok(1)).await.unwrap(), 1);
        assert_eq!(answers.get(&clock, &key, async || Ok(2)).await.unwrap(), 1);
        hand.advance(TTL);
        assert_eq!(answers.known(clock.now(), &key, false), None);
        assert_eq!(answers.known(clock.now(), &key, true), Some(1));
        let load = async || {
            tokio::task::yield_now().await;
            Ok(3)
        };
        let gets = (0..5).map(|_| answers.get(&clock, &key, load));
        let mut gets: Vec<_> = gets.map(Box::pin).collect();
        for get in &mut gets {
            assert!(polled(&mut get.as_mut()).is_pending());
        }
        for get in gets {
            assert_eq!(get.await.unwrap(), 3);
        }
        assert_eq!(
            (answers.counts.loads.get(), answers.counts.coalesced.get()),
            (2, 4)
        );
        hand.advance(TTL);
        let failing = async || Err(unreachable());
        assert_eq!(answers.get(&clock, &key, failing).await.unwrap(), 3);
        let never = async || panic!("not within a second of the last look");
        assert_eq!(answers.get(&clock, &key, never).await.unwrap(), 3);
        hand.advance(AGAIN_AFTER);
        assert_eq!(answers.get(&clock, &key, async || Ok(4)).await.unwrap(), 4);
    }

    #[tokio::test]
    async fn what_was_being_loaded_when_it_was_forgotten_is_not_remembered() {
        for all in [false, true] {
            let (answers, clock, _) = answers();
            let (key, gate) = ("a".to_owned(), Notify::new());
            let old = async || {
                gate.notified().await;
                Ok(1)
            };
            let mut loading = pin!(answers.get(&clock, &key, old));
            assert!(polled(&mut loading).is_pending());
            if all {
                answers.forget_all();
                gate.notify_one();
                assert_eq!(loading.await.unwrap(), 1);
            } else {
                let mut forgetting = pin!(answers.forget(&key));
                assert!(polled(&mut forgetting).is_pending());
                gate.notify_one();
                assert_eq!(loading.await.unwrap(), 1);
                forgetting.await;
            }
            assert_eq!(answers.known(clock.now(), &key, true), None);
            assert_eq!(answers.get(&clock, &key, async || Ok(2)).await.unwrap(), 2);
        }
    }

    #[tokio::test]
    async fn a_load_that_is_given_up_is_left_to_the_next_one() {
        let (answers, clock, _) = answers();
        let key = "a".to_owned();
        {
            let mut lost = pin!(answers.get(&clock, &key, async || std::future::pending().await));
            assert!(polled(&mut lost).is_pending());
        }
        assert_eq!(answers.get(&clock, &key, async || Ok(1)).await.unwrap(), 1);
    }
}
