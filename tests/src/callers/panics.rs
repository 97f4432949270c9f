//! Panics on purpose, which nobody wants to read about.

use std::panic;
use std::sync::Once;

/// What such a panic says.
const MESSAGE: &str = "on purpose";

/// Panics, and prints nothing.
pub(super) fn on_purpose() -> ! {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let hook = panic::take_hook();
        panic::set_hook(Box::new(move |info| {
            if info.payload_as_str() != Some(MESSAGE) {
                hook(info);
            }
        }));
    });
    panic!("{MESSAGE}")
}
