//! String keys, and one order in which everybody who is measured uses them.

/// Keys and a pseudo-random order over them, the same in every run.
#[derive(Debug)]
pub struct Keys {
    names: Vec<String>,
    order: Vec<u32>,
}

/// How long the order is before it repeats; a power of two.
const ORDER_LEN: usize = 1 << 16;

impl Keys {
    /// `count` keys.
    ///
    /// # Panics
    /// If `count` is zero or over 2^32.
    #[must_use]
    pub fn new(count: usize) -> Self {
        let end = u32::try_from(count).expect("at most 2^32 keys");
        let mut random = fastrand::Rng::with_seed(7);
        Self {
            names: (0..count).map(|n| format!("api-key-{n:06}")).collect(),
            order: (0..ORDER_LEN).map(|_| random.u32(0..end)).collect(),
        }
    }

    /// All keys.
    #[must_use]
    pub fn names(&self) -> &[String] {
        &self.names
    }

    /// Which key is used at step `at`.
    #[inline]
    #[must_use]
    pub fn index(&self, at: usize) -> usize {
        self.order[at & (ORDER_LEN - 1)] as usize
    }

    /// The key that is used at step `at`.
    #[inline]
    #[must_use]
    pub fn at(&self, at: usize) -> &String {
        &self.names[self.index(at)]
    }
}
