//! Futures that are dropped before they are done.

use std::pin::pin;

use futures::FutureExt;

/// After how many polls the future of a call is dropped; never if none.
#[derive(Clone, Copy, Debug)]
pub struct DropAfter(pub Option<u32>);

impl DropAfter {
    /// The output of the future, unless it is dropped before.
    pub(super) async fn poll<T>(self, future: impl Future<Output = T>) -> Option<T> {
        let Self(Some(polls)) = self else {
            return Some(future.await);
        };
        let mut future = pin!(future);
        for _ in 0..polls {
            if let Some(output) = future.as_mut().now_or_never() {
                return Some(output);
            }
            tokio::task::yield_now().await;
        }
        None
    }
}
