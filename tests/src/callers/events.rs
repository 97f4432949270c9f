//! What happens beside the calls: time passes, the table fails, somebody changes or deletes something.

use std::time::Duration;

use tokio::time;
use zae_limiter::{Limit, LimitScope, NewEntity};

use super::operation::Event;
use super::world::{RESOURCE, World};

const DAY: Duration = Duration::from_secs(86_400);

impl World {
    pub(super) async fn happen(&mut self, event: Event) {
        match event {
            Event::Pass(millis) => time::sleep(Duration::from_millis(millis)).await,
            Event::Fail(fault) => self.table.fail_all(Some(fault)),
            Event::Heal => self.heal(),
            Event::Change(tenths) => self.change_limits(tenths).await,
            Event::Delete => self.delete_child().await,
            Event::SkipDays(days) => self.skip(DAY * days),
            Event::SetClocks(millis) => self.set_clocks(millis),
        }
    }

    /// The table does not fail any more.
    pub(super) fn heal(&self) {
        self.table.fail_all(Some(self.setting.answers));
    }

    async fn change_limits(&mut self, tenths: u64) {
        let burst = (self.limits[0].burst_tokens() * tenths / 10).max(1);
        let change = |limit: &Limit| {
            let changed = Limit::custom(limit.name(), burst, burst, limit.refill_period());
            changed.expect("a limit")
        };
        self.limits = self.limits.iter().map(change).collect();
        self.model.change(&self.limits);
        self.heal();
        self.store_limits().await;
    }

    pub(super) async fn store_limits(&self) {
        if self.setting.stored {
            for entity in self.entities {
                let scope = LimitScope::entity(entity).and_then(|scope| scope.on(RESOURCE));
                let scope = scope.expect("names");
                let stored = self.limiters[0].set_limits(&scope, &self.limits);
                stored.await.expect("a table");
            }
        }
    }

    /// The child is made again at once.
    async fn delete_child(&mut self) {
        self.model.delete(self.entities[0]);
        if self.abandoned {
            // It may find now that the child has no parent, and that is believed for a while.
            self.model.delete(self.entities[1]);
        }
        self.heal();
        let _ = self.limiters[0].delete_entity(self.entities[0]).await;
        self.create_child().await;
        self.store_limits().await;
    }

    pub(super) async fn create_child(&self) {
        let [child, parent] = self.entities;
        let child = NewEntity::new(child).parent(parent);
        let created = self.limiters[0].create_entity(child).await;
        created.expect("there is none");
    }

    /// Nobody does anything for so long, and the table deletes what need not be kept any longer.
    fn skip(&mut self, time: Duration) {
        let before = self.now();
        self.manual.advance(time);
        self.model.skip(before, self.now());
        for lease in &mut self.leases {
            lease
                .pieces
                .iter_mut()
                .for_each(|(_, piece)| piece.refill());
        }
        let expired = self.table.inner().expire(&self.keys(), self.clock.wall());
        for (entity, expired) in self.entities.into_iter().zip(expired) {
            if expired {
                self.model.forget(entity);
            }
        }
    }

    /// Sets the wall clocks of all processes.
    fn set_clocks(&mut self, millis: i64) {
        let by = Duration::from_millis(millis.unsigned_abs());
        let wall = self.clock.wall();
        if millis > 0 {
            self.manual.set_wall(wall.after(by));
            self.ahead += by;
        } else {
            self.manual.set_wall(wall.before(by));
        }
    }
}
