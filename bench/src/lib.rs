//! What the benches, the reports and the examples have in common: stores that are counted,
//! tables that are removed again, comparisons in one run, and how numbers are printed.

mod claims;
mod contest;
mod counting;
mod keys;
mod scratch;
mod units;

pub use claims::{Claim, Claims};
pub use contest::{Comparison, Contestant, compare};
pub use counting::CountingStore;
pub use keys::Keys;
pub use scratch::ScratchTable;
pub use units::{duration, grouped};
