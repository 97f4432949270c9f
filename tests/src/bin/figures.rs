//! Prints what is promised of faults, and what was measured, as a table; with `--json` for
//! programs.

use std::time::Duration;

use zae_limiter_tests::stall;

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let [healthy, hanging] = stall::hits_while_the_table_hangs(Duration::from_secs(10)).await?;
    println!("{healthy:?} {hanging:?}");
    println!(
        "{:?}",
        stall::refusals_while_the_breaker_is_open(Duration::from_secs(5)).await?
    );
    for seconds in [1, 3, 10] {
        println!("{:?}", stall::recovery(Duration::from_secs(seconds)).await?);
    }
    Ok(())
}
