//! Many writes of buckets, folded into one addition per snapshot.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::Arc;

use zae_limiter_core::usage::Window;

use crate::change::Change;
use crate::snapshot::{Addition, SnapshotKey};

/// What a batch adds to one snapshot: some of its writes, in their order.
#[derive(Clone, Debug)]
pub struct Tally<'a> {
    /// Which snapshot.
    pub key: SnapshotKey,
    writes: Vec<(usize, &'a Change)>,
}

/// Sorts the changes of a batch, each with its place in it, by the snapshots that they count for.
#[must_use]
pub fn fold<'a>(
    changes: impl IntoIterator<Item = (usize, &'a Change)>,
    windows: &[Window],
) -> Vec<Tally<'a>> {
    let mut tallies: Vec<Tally<'a>> = Vec::new();
    let mut places = HashMap::new();
    for (at, change) in changes {
        for &window in windows {
            let key = SnapshotKey {
                bucket: change.bucket.clone(),
                window,
                start: window.start(change.consumption.consumed_at),
            };
            let place = match places.entry(key) {
                Entry::Occupied(place) => *place.get(),
                Entry::Vacant(free) => {
                    let key = free.key().clone();
                    let writes = Vec::new();
                    tallies.push(Tally { key, writes });
                    *free.insert(tallies.len() - 1)
                }
            };
            tallies[place].writes.push((at, change));
        }
    }
    tallies
}

impl Tally<'_> {
    /// The places in the batch of what it counts.
    pub fn places(&self) -> impl Iterator<Item = usize> {
        self.writes.iter().map(|(at, _)| *at)
    }

    /// What is to be added to a snapshot that has `counted` up to this write already; none if that
    /// is everything. A write that is in the batch twice counts once.
    #[must_use]
    pub fn addition(&self, counted: Option<u64>, retention_days: u32) -> Option<Addition> {
        let mut tokens: Vec<(Arc<str>, i64)> = Vec::new();
        let (mut first, mut last, mut events) = (None, counted, 0);
        for (_, change) in &self.writes {
            let consumption = &change.consumption;
            if last.is_some_and(|last| consumption.sequence <= last) {
                continue;
            }
            last = Some(consumption.sequence);
            first = first.or(last);
            events += 1;
            for (name, added) in &consumption.tokens {
                match tokens.iter_mut().find(|(known, _)| known == name) {
                    Some((_, sum)) => *sum = sum.saturating_add(*added),
                    None => tokens.push((name.clone(), *added)),
                }
            }
        }
        let end = self.key.window.end(self.key.start).as_secs();
        Some(Addition {
            tokens,
            events,
            first: first?,
            last: last?,
            expires_at_seconds: end.saturating_add(u64::from(retention_days) * 86_400),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use zae_limiter_core::BucketKey;
    use zae_limiter_core::usage::{Consumption, parse_timestamp};

    fn change(sequence: u64, time: &str, tokens: &[(&str, i64)]) -> Change {
        Change {
            bucket: BucketKey::new("user-1", "gpt-4").unwrap(),
            consumption: Consumption {
                sequence,
                consumed_at: parse_timestamp(time).unwrap(),
                tokens: tokens.iter().map(|(n, t)| ((*n).into(), *t)).collect(),
            },
        }
    }

    #[test]
    fn a_snapshot_is_written_once_per_batch_and_each_window_has_its_own() {
        let changes = [
            change(5, "2026-01-01T09:59:59Z", &[("rpm", 1), ("tpm", 500)]),
            change(6, "2026-01-01T10:00:00Z", &[("rpm", 1)]),
            change(7, "2026-01-01T09:59:59.999Z", &[("tpm", -120)]), // told late
            change(6, "2026-01-01T10:00:00Z", &[("rpm", 1)]),        // told twice
        ];
        let windows = [Window::Hourly, Window::Daily];
        let tallies = fold(changes.iter().enumerate(), &windows);
        let all = |counted| {
            let additions = tallies.iter().map(|tally| tally.addition(counted, 90));
            additions.collect::<Vec<_>>()
        };
        let addition = |tokens: &[(&str, i64)], events, first, last, expires_at_seconds| {
            let tokens = tokens.iter().map(|(n, t)| ((*n).into(), *t)).collect();
            Some(Addition {
                tokens,
                events,
                first,
                last,
                expires_at_seconds,
            })
        };
        const TEN: u64 = 1_767_261_600;
        const DAYS: u64 = 90 * 86_400;
        assert_eq!(
            all(None),
            [
                addition(&[("rpm", 1), ("tpm", 380)], 2, 5, 7, TEN + DAYS),
                addition(
                    &[("rpm", 2), ("tpm", 380)],
                    3,
                    5,
                    7,
                    TEN + 14 * 3_600 + DAYS
                ),
                addition(&[("rpm", 1)], 1, 6, 6, TEN + 3_600 + DAYS),
            ]
        );
        assert_eq!(
            all(Some(6)),
            [
                addition(&[("tpm", -120)], 1, 7, 7, TEN + DAYS),
                addition(&[("tpm", -120)], 1, 7, 7, TEN + 14 * 3_600 + DAYS),
                None,
            ]
        );
        assert_eq!(all(Some(7)), [None, None, None]);
    }
}
