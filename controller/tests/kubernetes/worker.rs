//! The worker that this program plays in its pods.

use std::process::exit;
use std::time::Duration;

/// Behaves as the pool's name says, in a pod.
pub(crate) fn play(args: &[String]) -> ! {
    let life = args.iter().position(|arg| arg == "--life").and_then(|at| args.get(at + 1));
    match life.and_then(|life| life.split('-').next()).unwrap_or_default() {
        "exiter" => {
            (1..=30).for_each(|line| println!("line {line}"));
            exit(3)
        }
        "leaker" => {
            let mut held = Vec::new();
            loop {
                held.push(vec![1_u8; 1 << 20]);
            }
        }
        role => {
            println!("{role} is up");
            loop {
                std::thread::sleep(Duration::from_secs(3600));
            }
        }
    }
}
