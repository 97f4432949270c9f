//! Numbers as DynamoDB writes them: decimal text.

use crate::Ticks;

/// A decimal number that is an integer; services and emulators differ in whether they answer
/// with an exponent.
#[must_use]
pub fn parse_integer(number: &str) -> Option<Ticks> {
    if let Ok(integer) = number.parse() {
        return Some(integer);
    }
    let (mantissa, exponent) = match number.split_once(['e', 'E']) {
        Some((mantissa, exponent)) => (mantissa, exponent.parse::<i32>().ok()?),
        None => (number, 0),
    };
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let fraction = fraction.trim_end_matches('0');
    let zeros = exponent.checked_sub(i32::try_from(fraction.len()).ok()?)?;
    let digits: Ticks = format!("{whole}{fraction}").parse().ok()?;
    let scale = Ticks::checked_pow(10, zeros.unsigned_abs())?;
    if zeros >= 0 {
        digits.checked_mul(scale)
    } else {
        (digits % scale == 0).then_some(digits / scale)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn integers_are_read_in_any_notation_and_fractions_are_not() {
        for (text, integer) in [
            ("0", Some(0)),
            ("-12", Some(-12)),
            ("1E+33", Some(10i128.pow(33))),
            ("-1.50e1", Some(-15)),
            ("12.00", Some(12)),
            ("1200E-2", Some(12)),
            ("1.5", None),
            ("12E-1", None),
            ("1E999999999", None),
            ("", None),
            ("x", None),
        ] {
            assert_eq!(parse_integer(text), integer, "{text}");
        }
    }
}
