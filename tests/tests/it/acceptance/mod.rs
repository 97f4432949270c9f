//! The acceptance suite: the whole public surface but stacks, as a service uses it. Each scenario is written
//! once and played with both faces, async and blocking, in memory and on a real table, in strict
//! and in leased mode.
//!
//! The blocking face is played where it is hardest: on a table inside a runtime of one thread,
//! in memory without any runtime.

mod acquires;
mod entities;
mod face;
mod leases;
mod limits;
mod looks;
mod outages;
mod world;

use zae_limiter::{Error, Mode};

use face::Face;
use world::World;

/// How a scenario ended, with what it was played in.
async fn play(world: World, scenario: impl AsyncFnOnce(&World) -> Result<(), Error>) {
    if let Err(error) = scenario(&world).await {
        panic!("{:?}, {:?}: {error}", world.face, world.mode);
    }
}

macro_rules! scenarios {
    ($($module:ident: $($scenario:ident),+;)+) => {$($(
        mod $scenario {
            use super::*;

            #[tokio::test]
            async fn awaited_in_memory() {
                for mode in [Mode::Strict, Mode::leased()] {
                    let world = World::in_memory(Face::Async, mode);
                    play(world, $module::$scenario).await;
                }
            }

            #[test]
            fn blocking_in_memory() {
                for mode in [Mode::Strict, Mode::leased()] {
                    let world = World::in_memory(Face::Blocking, mode);
                    pollster::block_on(play(world, $module::$scenario));
                }
            }

            #[tokio::test]
            async fn awaited_on_a_table() {
                for mode in [Mode::Strict, Mode::leased()] {
                    let world = World::on_a_table(Face::Async, mode).await;
                    play(world, $module::$scenario).await;
                }
            }

            #[tokio::test]
            async fn blocking_on_a_table() {
                for mode in [Mode::Strict, Mode::leased()] {
                    let world = World::on_a_table(Face::Blocking, mode).await;
                    play(world, $module::$scenario).await;
                }
            }
        }
    )+)+};
}

scenarios! {
    entities:
        entities_have_names_parents_and_children,
        what_is_deleted_stays_deleted,
        changes_leave_events;
    limits:
        stored_limits_are_found_in_their_order,
        child_and_parent_have_limits_of_their_own,
        changes_are_in_force_within_the_time_to_live,
        what_is_taken_away_here_is_taken_away_elsewhere;
    acquires:
        all_limits_or_none,
        who_is_refused_much_may_have_less,
        what_cannot_be_right_is_an_error_and_changes_nothing,
        a_cascade_charges_both_or_neither,
        an_entity_may_say_that_it_cascades,
        a_handle_is_as_good_as_names,
        who_waits_gets_tokens_when_they_come,
        a_shutdown_gives_back_and_closes;
    leases:
        a_lease_is_consumed_from_corrected_and_rolled_back,
        work_that_fails_gives_back;
    looks:
        looks_consume_nothing_and_know_the_parent,
        a_lease_says_how_its_limits_stand,
        the_capacity_of_a_resource_is_that_of_all,
        usage_is_what_was_consumed_and_not_given_back,
        a_table_of_another_layout_is_not_touched;
    outages:
        an_outage_is_answered_as_the_failure_mode_says,
        what_is_remembered_outlives_an_outage;
}
