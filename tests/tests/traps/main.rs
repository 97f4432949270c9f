//! Known mistakes of rate limiters that admit from a cache, and the tests that would notice each.
//! Needs no endpoint.
//!
//! Names are `file::test`, or `folder::test`; the files beside this one need nothing, those in `it` and `processes`
//! a table.
//!
//! # Seen in systems that do this job
//!
//! | mistake | test |
//! |---|---|
//! | an old timestamp turns the bucket back and makes tokens | `bucket::a_clock_that_goes_back_mints_no_tokens`, `bucket::a_write_that_arrives_late_brings_no_old_time` |
//! | a refusal while a refill is on its way | `bucket::a_renewal_under_way_refuses_nobody` |
//! | nothing there for an instant, between taking and putting back | `bucket::nobody_finds_nothing_while_somebody_looks` |
//! | a dead process's share of the refill is never given to others | `sharing::a_dead_process_keeps_nothing_for_ever`, `simulation::fleets_recover_within_two_renewal_periods` |
//! | equal shares starve a busy process below the limit | `sharing::a_busy_process_is_not_held_to_an_equal_share` |
//! | an empty bucket is asked again and again | `sharing::an_empty_bucket_is_not_asked_again_and_again`, `leased::a_rejection_storm_costs_next_to_no_writes` |
//! | one call tries dozens of times | `sharing::one_call_does_not_try_for_ever` |
//! | contention is taken for an outage | `pressure::processes_that_meet_on_a_bucket_are_not_told_of_an_outage` |
//! | what remains wraps around once the limit is overshot | `bucket::what_remains_after_overshooting_does_not_wrap` |
//! | what was used before a long outage counts again after it | `failures::an_outage_longer_than_a_bucket_takes_to_fill_leaves_it_full` |
//! | reconnecting takes as long as the outage | `outages::while_the_breaker_is_open_nobody_waits_and_one_probe_at_a_time_is_made`, `weather::the_bound_holds_in_any_weather_and_the_crew_recovers` |
//! | callers queue behind a slow table; what they used is dropped | `pressure::callers_with_tokens_do_not_wait_behind_a_slow_table_and_nothing_is_dropped` |
//! | tokens are stranded at low rates | `sharing::few_tokens_are_not_stranded`, `leased::an_idle_bucket_gives_its_tokens_back` |
//! | an outage is remembered as "no tokens" | `failures::an_outage_is_not_taken_for_an_empty_bucket` |
//! | in an outage each process admits the whole limit | `outages::a_local_share_is_all_that_a_process_admits_by_itself` |
//! | overload is taken for an outage | `breaker::overload_is_not_an_outage`, `outages::throttling_is_no_outage_callers_are_served_when_it_ends` |
//! | a renewal revives what was released | `closing::a_renewal_under_way_revives_nothing_after_a_shutdown` |
//! | a shutdown under throttling multiplies the throttled writes | `shutdown::trouble_that_lasts_is_tried_until_the_deadline_and_reported`, `renewal::refusals_during_a_shutdown_are_paced` |
//! | a shutdown gives up long before its deadline | `shutdown::a_table_that_comes_back_in_time_has_everything_back` |
//! | closing ends at the first return that fails | `closing::one_return_that_fails_does_not_stop_the_others` |
//! | more than the burst is waited for | `bucket::an_amount_over_the_burst_is_an_error_and_not_a_wait`, `refusals::bad_input_is_named_and_touches_nothing` |
//! | a rate of zero limits nothing | `bucket::a_rate_of_zero_is_no_limit_that_lets_all_through` |
//! | keys are kept for ever | `pressure::keys_that_nobody_uses_are_forgotten` |
//! | consumption is reported twice | `bucket::consumption_is_reported_once` |
//! | a bucket expires before it is full, and its debt with it; seconds for milliseconds | `bucket::the_table_does_not_forget_a_debt` |
//! | a lost reply and a retry debit twice | `failures::a_lost_reply_is_no_reason_to_debit_again`, `dynamodb::a_write_of_a_bucket_is_sent_once_and_all_else_again` |
//!
//! # What a cached admission did not know
//!
//! | change | test |
//! |---|---|
//! | an entity cascades no longer, or now does | `acceptance::an_entity_may_say_that_it_cascades`, `acceptance::what_is_taken_away_here_is_taken_away_elsewhere` |
//! | a refund | `bucket::a_refund_is_had_once`, `bucket::a_refund_ends_a_refusal`, `bucket::a_refund_elsewhere_is_found_within_a_lease` |
//! | the number of shards | none: a bucket is one item, however busy, and has no shards |
//! | a schedule changes the limit | `changes::a_limit_that_follows_a_schedule_gains_nothing_by_it` |
//! | the parent is set late | `acceptance::changes_are_in_force_within_the_time_to_live`, `simulation::five_hundred_fleets_keep_every_promise` |
//! | something is switched off: its limits or the entity are deleted | `acceptance::what_is_taken_away_here_is_taken_away_elsewhere`, `acceptance::what_is_deleted_stays_deleted` |
//! | less was debited than is admitted for | `bucket::what_is_held_is_what_was_debited` |
//! | the limit is cut | `changes::a_limit_that_was_cut_is_not_spent_as_it_was`, `changes::a_block_of_before_a_cut_does_not_come_back`, `strict::a_changed_limit_converts_what_is_there` |
//! | nothing is taken of a limit in debt | `bucket::a_limit_in_debt_stops_only_who_takes_of_it`, `strict::what_is_consumed_adjusted_and_rolled_back_is_in_the_table_at_once` |
//! | the timestamp is old | `bucket::a_write_that_arrives_late_brings_no_old_time` |
//!
//! # In zae-limiter 0.2.0
//!
//! | mistake | test |
//! |---|---|
//! | of many concurrent acquires all are admitted | `strict::of_64_concurrent_acquires_exactly_the_burst_is_admitted`, `leased::a_scarce_limit_is_shared_exactly` |
//! | nobody sees what is consumed until the caller is done | `bucket::what_one_has_taken_no_other_sees_as_free`, `strict::what_is_consumed_adjusted_and_rolled_back_is_in_the_table_at_once` |
//! | refill is counted as negative consumption | `bucket::consumption_is_reported_once` |
//! | lists end after one page | `volume::thousands_of_children_are_listed_and_deleted`, `volume::large_items_are_listed_and_deleted_to_the_last` |
//! | a bucket ignores a new limit for a day | `changes::a_raised_limit_applies_to_a_bucket_in_debt`, `acceptance::changes_are_in_force_within_the_time_to_live` |
//! | limits are set for identifiers that are not checked | `stored_limits::a_delimiter_is_never_part_of_a_scope`, `refusals::bad_input_is_named_and_touches_nothing` |
//! | a reader sees half a set of limits | `stored_limits::readers_never_see_half_a_set` |
//! | the failure mode does not cover the write | `outages::an_outage_is_answered_as_the_failure_mode_says_and_a_denial_never_is` |
//! | what is available does not regard the parent | `acceptance::child_and_parent_have_limits_of_their_own` |
//! | a refund fills a bucket beyond its burst | `bucket::a_refund_fills_no_further_than_the_burst` |
//! | a refusal says "try again now" | `bucket::a_refusal_says_when_and_that_is_later` |
//!
//! # Found here, by the simulation
//!
//! | mistake | test |
//! |---|---|
//! | what is owed or owing of a limit that nobody declares any more is dropped | `changes::a_debt_of_a_limit_that_is_declared_no_more_is_not_dropped`, `changes::a_credit_of_a_limit_that_is_declared_no_more_is_not_dropped` |
//! | what overflows lowers the level, and blocks grow beside it | `sharing::what_processes_hold_is_bounded_by_itself` |
//! | processes that reserve at the same time spend it before it has flowed in | `sharing::what_is_reserved_is_not_spent_before_it_has_flowed_in` |
//! | what flowed in beside blocks is kept, for they were spent by the next write | `sharing::what_flowed_in_beside_blocks_overflows_though_they_are_spent` |
//! | a bucket over full hides what has to overflow | `sharing::a_bucket_over_full_hides_nothing_that_overflows` |
//! | an old answer comes after a new one, and is believed | `failures::an_answer_that_was_overtaken_changes_nothing` |
//! | a block is returned after the bucket has refilled in its place | `sharing::a_block_that_comes_back_late_brings_no_more_than_is_missing` |
//! | what is in hand is reserved once more, and waited for | `sharing::what_is_in_hand_is_not_scheduled_once_more` |
//! | a debt is paid, and still counts | `sharing::a_debt_that_is_paid_does_not_count_once_more` |
//! | what is charged afterwards is taken for a rate | `sharing::what_is_charged_afterwards_is_not_the_demand_of_a_moment` |
//! | the last one left shares with the dead | `sharing::who_is_left_alone_does_not_share_with_the_dead` |
//! | those who are left share with the dead | `sharing::who_is_left_with_others_does_not_share_with_the_dead` |
//! | who asks for far more than there is takes the others' shares, also when it is dead | `sharing::nobodys_demand_counts_for_more_than_the_limit` |
//! | a clock is set right, and what it said before still holds | `bucket::a_clock_that_was_set_right_ends_a_refusal` |
//! | a correction upwards whose debt is only noted is given back as stock | `corrections::correction_upwards_that_is_rolled_back_is_no_stock`, `corrections::correction_upwards_that_is_corrected_again_is_no_stock` |
//! | a cancelled correction or rollback is made twice, or not at all | `corrections::correction_that_is_cancelled_counts_once`, `corrections::rollback_that_is_cancelled_is_finished`, `corrections::run_that_fails_and_is_cancelled_gives_back` |
//! | the payer of a lease is overwritten, and what nobody paid is credited | `corrections::unpaid_tokens_are_never_credited`, `corrections::streaming_on_a_degraded_lease_does_not_fill_the_bucket` |
//! | a TTL is computed from the limits of one write, on an item that has others | `corrections::bucket_is_kept_until_its_slowest_limit_is_full` |
//! | who waits is demand once more whenever he is woken | `bucket::caller_that_waits_and_is_woken_again_and_again_has_asked_once` |
//! | what was throttled reserves the refill for half a lease | `simulation::fleets_that_once_were_slow_recover` |
//! | who finds nothing is not heard | `sharing::who_finds_nothing_says_what_he_needs` |
//! | who is refused in strict mode is not heard | `mixed::who_is_refused_in_strict_mode_is_heard`, `mixed::what_the_child_refuses_is_asked_of_the_parent_too` |
//! | a limit that is new to a strict process is asked for, and nobody hears | `mixed::what_is_asked_of_a_new_limit_is_heard` |
//! | who writes for every token tells of two, and claims more than the limit | `direct::nobody_reports_more_than_the_limit` |
//! | uneven requests look like 1.4 times as many, and strict acquires beside them go short | `demand::uneven_requests_do_not_look_like_more_in_the_mean` |
//! | who looks when others have just reserved has less than them for good | `simulation::fleets_that_once_were_slow_recover` |
//! | strict acquires that use all up let nobody begin to lease | `mixed::who_begins_to_lease_where_strict_acquires_take_all_has_a_share` |
//! | leases catch up what strict acquires have left, whenever they look | `mixed::strict_acquires_get_their_share_of_a_limit_that_is_nearly_enough` |
//! | strict writes under way at once tell the same twice, or what they were to tell is lost | `mixed::strict_acquires_that_overlap_tell_of_all_that_was_asked_for` |
//! | who waits counts once more at every write that brought nothing | `sharing::who_waits_again_and_again_wants_it_once` |
//! | who waits for what is reserved takes himself to be alone, and then all | `sharing::who_waits_with_others_is_not_alone` |
//! | a limit of some tokens per day costs a write per token | `sharing::a_quota_that_hardly_refills_is_leased_in_blocks` |
//! | what is reserved is asked for again at every miss, until it is released | `sharing::what_is_still_to_be_released_is_not_asked_for_again_and_again` |
//! | what is to overflow does so once for each process that has seen it | `sharing::what_has_overflowed_does_not_overflow_once_more` |
//! | a bucket is deleted, and what was told to it before is taken back from the next one | `changes::what_was_told_before_a_deletion_is_not_taken_back_after_it` |
//! | what piled up is taken for a rate | `demand::backlog_of_a_stopped_process_is_not_its_demand`, `sharing::what_piled_up_while_a_process_stood_still_was_asked_for_in_all_that_time` |
//! | the breaker is open for longer than a renewal period | `breaker::what_is_over_is_known_within_a_renewal_period` |
//! | tokens of before a cut come back, or are spent | `changes::a_block_of_before_a_cut_does_not_come_back`, `changes::nor_where_the_process_goes_on_with_what_it_knew`, `changes::nor_where_the_cut_is_declared_while_it_is_on_its_way_back`, `changes::what_a_write_brings_after_a_cut_is_not_spent` |
//! | a bucket in debt is refilled by old terms | `changes::a_raised_limit_applies_to_a_bucket_in_debt` |
//! | a credit is dropped where others were always faster | `simulation::fleets_that_once_broke_a_promise_keep_it` |
//! | a credit of unknown outcome is made again | `failures::a_credit_of_unknown_outcome_is_not_repeated`, `failures::the_correction_of_a_strict_lease_is_made_once` |

mod bucket;
mod changes;
mod failures;
mod mixed;
mod sharing;

use std::time::Duration;

use zae_limiter::Limit;
use zae_limiter_core::estimate;
use zae_limiter_core::item::BucketItem;
use zae_limiter_tests::desk::Desk;

fn limit(rate: u64, burst: u64) -> Limit {
    let limit = Limit::custom("rps", rate.min(burst), rate, Duration::from_secs(1));
    limit.and_then(|limit| limit.burst(burst)).expect("a limit")
}

/// So slow that what flows in during a test is less than a token.
fn per_day(name: &str, burst: u64) -> Limit {
    Limit::custom(name, burst, 1, Duration::from_secs(86_400)).expect("a limit")
}

fn secs(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

fn level(table: &Option<BucketItem>, desk: &Desk) -> i64 {
    level_of(table, desk, &desk.limits[0])
}

fn level_of(table: &Option<BucketItem>, desk: &Desk, limit: &Limit) -> i64 {
    let level = estimate::level(table.as_ref(), desk.clock.wall(), limit);
    limit.terms().to_tokens(level)
}

/// Takes one token after the other until there are none.
fn drain(desk: &mut Desk, table: &mut Option<BucketItem>) -> u64 {
    (0..10_000)
        .take_while(|_| desk.acquire(table, 1).is_ok())
        .count() as u64
}
