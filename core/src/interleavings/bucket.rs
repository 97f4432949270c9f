//! The whole bucket, with its lock and all that is under it.

use super::*;

const BURST: u64 = 8;
const BLOCK: u64 = 3;
const LEASE_TTL: Duration = Duration::from_secs(5);

/// Renews with blocks of one size, once per call of [`Fixture::renew`].
#[derive(Debug, Default)]
struct FixedBlocks {
    settled: bool,
}

impl Policy for FixedBlocks {
    fn observe(&mut self, _: Now, _: &Pace, _: &[Sample]) {}

    fn decide(&mut self, view: &View) -> Decision {
        if std::mem::take(&mut self.settled) {
            Decision::Wait(view.now.monotonic.after(LEASE_TTL))
        } else {
            Decision::Renew
        }
    }

    fn ask(&mut self, view: &View) -> Asks {
        let ask = Ask {
            stock: BLOCK,
            in_demand: true,
            ..Ask::default()
        };
        view.limits.iter().map(|_| ask).collect()
    }

    fn settled(&mut self, _: &View, _: &Settled) {
        self.settled = true;
    }
}

fn limits(name: &str, refill: u64) -> Arc<[Limit]> {
    let day = Duration::from_secs(86_400);
    let limit = Limit::custom(name, BURST, refill, day).unwrap();
    [limit].into()
}

/// A bucket and its reconciler, on a table of its own.
struct Fixture {
    bucket: BucketRef,
    limits: Arc<[Limit]>,
    clock: Clock,
    hands: ManualClock,
    table: Option<item::BucketItem>,
    settings: RenewalSettings,
}

impl Fixture {
    fn new(balances: &FastBalances, name: &str) -> Self {
        let limits = limits(name, 1);
        let key = BucketKey::new("user", "api").unwrap();
        let (clock, hands) = Clock::manual();
        let mut settings = RenewalSettings::new(Duration::from_secs(1), LEASE_TTL);
        settings.policy = || Box::new(FixedBlocks::default());
        Self {
            bucket: BucketRef::new(Bucket::new(balances.balance(), key, limits.clone())),
            limits,
            clock,
            hands,
            table: None,
            settings,
        }
    }

    /// A bucket that holds a block.
    fn with_block() -> Self {
        let mut fixture = Self::new(&FastBalances::default(), "jobs");
        fixture.activate();
        fixture
    }

    /// Takes the first block.
    fn activate(&mut self) {
        let name = self.limits[0].name();
        let consume = [(name, 1)];
        self.bucket.want(&Request::new(&self.limits, &consume));
        self.renew();
    }

    /// Makes the writes that are due.
    fn reconcile(&mut self, settings: &RenewalSettings) -> Step {
        let mut step = self.bucket.check(&self.clock, settings, Why::Due);
        while let Step::Write(plan) = step {
            let outcome = match item::BucketItem::apply(&mut self.table, &plan.write) {
                Ok(item) => Outcome::Applied(item),
                Err(found) => Outcome::Refused(found),
            };
            step = self
                .bucket
                .complete(&self.clock, settings, Why::Due, outcome);
        }
        step
    }

    fn renew(&mut self) {
        let settings = self.settings;
        self.reconcile(&settings);
    }

    /// Gives everything back. Returns whether the bucket is deactivated.
    fn deactivate(&mut self) -> bool {
        let closes_by = Some(self.clock.now().after(LEASE_TTL));
        let settings = RenewalSettings {
            closes_by,
            ..self.settings
        };
        matches!(self.reconcile(&settings), Step::Idle)
    }

    fn caller(&self) -> Caller {
        Caller {
            bucket: self.bucket.clone(),
            limits: self.limits.clone(),
            clock: self.clock.clone(),
        }
    }

    /// Tokens that are neither in the table nor held by the bucket.
    fn spent(&self) -> i128 {
        let limit = &self.limits[0];
        let (wall, terms) = (self.clock.wall(), limit.terms());
        let level = estimate::level(self.table.as_ref(), wall, limit);
        let mut spent = i128::from(BURST);
        // Rounded: a few seconds refill a fraction of a token.
        spent -= i128::from(terms.to_tokens(level + terms.token() / 2));
        (self.bucket).positions(|_, position, _| spent -= position.net());
        spent
    }

    fn audit(&self, paid: u64) -> Result<(), Violation> {
        let spent = self.spent();
        if spent != i128::from(paid) {
            return Err(format!("{paid} tokens were paid, {spent} are missing"));
        }
        let mut stock = 0;
        self.bucket.positions(|_, held, _| stock = held.stock);
        if stock > BLOCK {
            return Err(format!("a block of {BLOCK} holds {stock}"));
        }
        Ok(())
    }
}

/// What a thread does to a bucket.
struct Caller {
    bucket: BucketRef,
    limits: Arc<[Limit]>,
    clock: Clock,
}

impl Caller {
    fn hit(&self, tokens: u64) -> u64 {
        let consume = [(self.limits[0].name(), tokens)];
        let request = Request::new(&self.limits, &consume);
        let hit = self.bucket.hit(&self.clock, &request);
        hit.map_or(0, |_| tokens)
    }

    /// Returns the generation of the block that paid.
    fn take(&self, tokens: u64) -> Option<u32> {
        let consume = [(self.limits[0].name(), tokens)];
        let request = Request::new(&self.limits, &consume);
        let paid = self.bucket.take(&self.clock, &request);
        paid.ok().map(|paid| paid.generation)
    }

    /// Takes two tokens of each bucket, or none.
    fn take_both(&self, other: &Self) -> u64 {
        let consume = [(self.limits[0].name(), 2)];
        let request = Request::new(&self.limits, &consume);
        let paid = (self.bucket).take_both(&request, &other.bucket, &request, &self.clock);
        paid.map_or(0, |_| 2)
    }

    fn give_back(&self, payer: Payer, tokens: u64) {
        let charges = Charges::of(0, tokens);
        self.bucket
            .give_back(&self.clock, payer, &self.limits, &charges);
    }
}

fn renewal() -> Result<(), Violation> {
    let mut fixture = Fixture::with_block();
    let caller = fixture.caller();
    let caller = thread::spawn(move || {
        let taken = [1, 2].map(|tokens| caller.take(tokens).map_or(0, |_| tokens));
        taken.iter().sum()
    });
    fixture.renew();
    let paid = caller.join().unwrap();
    fixture.audit(paid)
}

fn give_back() -> Result<(), Violation> {
    let fixture = Fixture::with_block();
    let (payer, returner) = (fixture.caller(), fixture.caller());
    let generation = returner.take(2).unwrap();
    let payer = thread::spawn(move || payer.hit(1) + payer.hit(1));
    returner.give_back(Payer::Block(generation), 2);
    drop(returner);
    let paid = payer.join().unwrap();
    fixture.audit(paid)
}

/// The caller gives its payment back, perhaps to a block that has been renewed since.
fn give_back_at_once() -> Result<(), Violation> {
    let mut fixture = Fixture::with_block();
    let caller = fixture.caller();
    let caller = thread::spawn(move || {
        let generation = caller.take(2);
        if let Some(generation) = generation {
            caller.give_back(Payer::Block(generation), 2);
        }
    });
    fixture.renew();
    caller.join().unwrap();
    fixture.audit(0)
}

fn expiry() -> Result<(), Violation> {
    let mut fixture = Fixture::with_block();
    let caller = fixture.caller();
    let expires = fixture.clock.now().after(LEASE_TTL);
    // loom does not watch the clock. This makes it try both orders.
    let turn = Arc::new(AtomicU32::default());
    let callers_turn = turn.clone();
    let caller = thread::spawn(move || {
        callers_turn.load(Ordering::Relaxed);
        let expired = caller.clock.now() >= expires;
        (expired, caller.hit(1))
    });
    turn.store(1, Ordering::Relaxed);
    fixture.hands.advance(LEASE_TTL);
    let idle = fixture.deactivate();
    let (expired, paid) = caller.join().unwrap();
    if expired && paid > 0 {
        return Err("an expired block has paid".to_owned());
    }
    if !idle {
        return Err("the expired block was not given back".to_owned());
    }
    fixture.audit(paid)
}

fn deactivation() -> Result<(), Violation> {
    let mut fixture = Fixture::with_block();
    let caller = fixture.caller();
    let caller = thread::spawn(move || caller.hit(1));
    let idle = fixture.deactivate();
    fixture.activate();
    let paid = caller.join().unwrap();
    if !idle {
        return Err("the bucket stayed in use".to_owned());
    }
    fixture.audit(paid)
}

fn close() -> Result<(), Violation> {
    let fixture = Fixture::with_block();
    let caller = fixture.caller();
    let caller = thread::spawn(move || caller.hit(1) + caller.hit(1));
    fixture.bucket.close(&fixture.clock, &fixture.settings);
    let late = fixture.caller().take(1);
    let paid = caller.join().unwrap();
    if late.is_some() {
        return Err("a closed bucket has paid".to_owned());
    }
    fixture.audit(paid)
}

/// The limit is declared with other terms while a caller still uses the old ones.
fn limit_change() -> Result<(), Violation> {
    let mut fixture = Fixture::with_block();
    let caller = fixture.caller();
    let caller = thread::spawn(move || caller.hit(1));
    fixture.limits = limits("jobs", 2);
    fixture.bucket.declare(&fixture.limits).unwrap();
    let spent = fixture.spent();
    fixture.renew();
    let paid = caller.join().unwrap();
    if i128::from(paid) != spent {
        return Err(format!(
            "{spent} were paid before the change, {paid} in all"
        ));
    }
    fixture.audit(paid)
}

/// The bucket is dropped, and the next one may get its place.
fn place_reused() -> Result<(), Violation> {
    let balances = FastBalances::default();
    let mut fixture = Fixture::new(&balances, "jobs");
    fixture.activate();
    let caller = fixture.caller();
    let caller = thread::spawn(move || caller.hit(1));
    drop(fixture);
    let mut fixture = Fixture::new(&balances, "others");
    fixture.activate();
    let paid = fixture.caller().hit(2);
    if paid == 0 {
        return Err("the next bucket has not paid".to_owned());
    }
    caller.join().unwrap();
    fixture.audit(paid)
}

/// Two cascades name the same two buckets in opposite orders.
fn cascades() -> Result<(), Violation> {
    let mut fixtures = [Fixture::with_block(), Fixture::with_block()];
    // The bucket at the lower address is locked first: it has to be the same one in all runs.
    fixtures.sort_by_key(|fixture| Arc::as_ptr(fixture.bucket.bucket()));
    let [one, other] = &fixtures;
    let (a, b) = (one.caller(), other.caller());
    let thread = thread::spawn(move || a.take_both(&b));
    let paid = other.caller().take_both(&one.caller());
    let paid = paid + thread.join().unwrap();
    one.audit(paid)?;
    other.audit(paid)
}

#[test]
fn tokens_are_conserved_during_renewal() {
    assert_holds(PREEMPTIONS, renewal);
}

#[test]
fn tokens_are_conserved_during_give_back() {
    assert_holds(PREEMPTIONS, give_back);
    assert_holds(PREEMPTIONS, give_back_at_once);
}

#[test]
fn opposite_cascades_do_not_deadlock() {
    assert_holds(PREEMPTIONS, cascades);
}

#[test]
fn expired_block_is_given_back_or_spent() {
    assert_holds(PREEMPTIONS, expiry);
}

#[test]
fn tokens_are_conserved_during_deactivation() {
    assert_holds(PREEMPTIONS, deactivation);
}

#[test]
fn closed_bucket_pays_for_nothing() {
    assert_holds(PREEMPTIONS, close);
}

#[test]
fn payment_never_comes_from_other_limits() {
    assert_holds(PREEMPTIONS, limit_change);
}

#[test]
fn payment_never_comes_from_the_next_bucket_in_the_place() {
    assert_holds(PREEMPTIONS, place_reused);
}

#[test]
fn planted_two_step_empty_is_found() {
    assert_finds(Misordering::EmptiedInTwoSteps, PREEMPTIONS, renewal);
}

#[test]
fn planted_fill_without_release_is_found() {
    assert_finds(Misordering::TokensNotReleased, PREEMPTIONS, limit_change);
}

#[test]
fn planted_single_check_of_the_fingerprint_is_found() {
    assert_finds(
        Misordering::FingerprintCheckedOnce,
        PREEMPTIONS,
        limit_change,
    );
}

#[test]
fn planted_tokens_without_a_tag_are_found() {
    assert_finds(Misordering::TokensNotTagged, PREEMPTIONS, limit_change);
}
