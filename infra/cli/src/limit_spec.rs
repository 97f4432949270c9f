//! Limits as they are written on a command line: `NAME=CAPACITY/PERIOD[,burst=N][,refill=N]`.

use zae_limiter::{Limit, ValidationError};

/// How limits are written, for the help.
pub(crate) const FORM: &str = "NAME=CAPACITY/PERIOD[,burst=N][,refill=N]";

/// Reads a limit. The period is second, minute, hour, day, or a number of seconds as in `90s`;
/// what flows in per period is the capacity unless `refill` says otherwise.
pub(crate) fn parse(text: &str) -> Result<Limit, String> {
    let wrong = || format!("is not {FORM}, as in rpm=100/minute,burst=200");
    let rule = |error: ValidationError| format!("{} {}", error.field(), error.rule());
    let (name, rest) = text.split_once('=').ok_or_else(wrong)?;
    let mut parts = rest.split(',');
    let (capacity, period) = parts
        .next()
        .and_then(|part| part.split_once('/'))
        .ok_or_else(wrong)?;
    let number = |text: &str| {
        text.parse::<u64>()
            .map_err(|_| format!("{text:?} is no number; it {}", wrong()))
    };
    let capacity = number(capacity)?;
    let period_seconds = match period {
        "second" => 1,
        "minute" => 60,
        "hour" => 3_600,
        "day" => 86_400,
        _ => number(period.strip_suffix('s').ok_or_else(wrong)?)?,
    };
    let (mut burst, mut refill) = (None, capacity);
    for part in parts {
        match part.split_once('=') {
            Some(("burst", tokens)) => burst = Some(number(tokens)?),
            Some(("refill", tokens)) => refill = number(tokens)?,
            _ => return Err(wrong()),
        }
    }
    let period = std::time::Duration::from_secs(period_seconds);
    let limit = Limit::custom(name, capacity, refill, period).map_err(rule)?;
    match burst {
        Some(burst) => limit.burst(burst).map_err(rule),
        None => Ok(limit),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_are_read() {
        assert_eq!(
            parse("rpm=100/minute"),
            Ok(Limit::per_minute("rpm", 100).unwrap())
        );
        let burst = Limit::per_hour("t", 10).unwrap().burst(50).unwrap();
        assert_eq!(parse("t=10/hour,burst=50"), Ok(burst));
        let custom = parse("x=100/90s,refill=7").unwrap();
        assert_eq!(
            (custom.refill_amount(), custom.refill_period().as_secs()),
            (7, 90)
        );
    }

    #[test]
    fn what_is_no_limit_is_refused_with_the_rule() {
        for (text, rule) in [
            ("rpm", "is not NAME"),
            ("rpm=100", "is not NAME"),
            ("rpm=x/minute", "\"x\" is no number"),
            ("rpm=1/week", "is not NAME"),
            ("rpm=0/minute", "capacity"),
            ("a#b=1/minute", "#"),
            ("rpm=10/minute,burst=5", "burst"),
            ("rpm=1/minute,top=5", "is not NAME"),
        ] {
            let error = parse(text).unwrap_err();
            assert!(error.contains(rule), "{text}: {error}");
        }
    }
}
