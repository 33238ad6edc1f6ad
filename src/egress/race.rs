//! Happy Eyeballs (RFC 8305 §5): staggered concurrent attempts, the first success wins.

use crate::sys::event_loop::sleep;
use std::future::poll_fn;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

/// Starts an attempt every `stagger`, and at once when one fails. Each beside the first needs a place, without which it
/// waits until another has failed, or asks again after `stagger`. Returns the first success and drops the others; if none
/// succeeds, the error of the first. `None` without attempts.
pub async fn race<T, E, F, P>(
    attempts: impl IntoIterator<Item = F>,
    place: impl Fn() -> Option<P>,
    stagger: Duration,
) -> Option<Result<T, E>>
where
    F: Future<Output = Result<T, E>>,
{
    let mut waiting = attempts.into_iter().peekable();
    // Of all that run but one. Dropped after them.
    let mut places: Vec<P> = Vec::new();
    // In starting order.
    let mut running: Vec<(usize, Pin<Box<F>>)> = Vec::new();
    let mut begun = 0;
    let mut failed: Option<(usize, E)> = None;
    loop {
        let more = waiting.peek().is_some();
        let is_first = running.is_empty();
        let beside = if more && !is_first { place() } else { None };
        if (is_first || beside.is_some())
            && let Some(attempt) = waiting.next()
        {
            places.extend(beside);
            running.push((begun, Box::pin(attempt)));
            begun += 1;
        }
        if running.is_empty() {
            return failed.map(|(_, error)| Err(error));
        }
        let ended = poll_fn(|cx| poll_any(&mut running, cx));
        let ended = tokio::select! {
            biased;
            ended = ended => ended,
            () = sleep(stagger), if more => continue,
        };
        places.truncate(running.len().saturating_sub(1));
        match ended {
            (_, Ok(won)) => return Some(Ok(won)),
            (at, Err(error)) if failed.as_ref().is_none_or(|(first, _)| at < *first) => {
                failed = Some((at, error));
            }
            (_, Err(_)) => {}
        }
    }
}

/// Removes and returns the first attempt that has completed.
fn poll_any<F: Future>(
    running: &mut Vec<(usize, Pin<Box<F>>)>,
    cx: &mut Context<'_>,
) -> Poll<(usize, F::Output)> {
    for at in 0..running.len() {
        if let Poll::Ready(output) = running[at].1.as_mut().poll(cx) {
            let (number, _) = running.remove(at);
            return Poll::Ready((number, output));
        }
    }
    Poll::Pending
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::event_loop::{EventLoop, now};
    use std::cell::Cell;
    use std::rc::Rc;

    const STAGGER: Duration = Duration::from_millis(250);

    /// An attempt that takes `takes` milliseconds. `live` counts running ones.
    async fn attempt(n: u64, takes: u64, good: bool, live: Rc<Cell<u32>>) -> Result<u64, u64> {
        struct StartCount(Rc<Cell<u32>>);
        impl Drop for StartCount {
            fn drop(&mut self) {
                self.0.set(self.0.get() - 1);
            }
        }
        live.set(live.get() + 1);
        let _counted = StartCount(live);
        sleep(Duration::from_millis(takes)).await;
        if good { Ok(n) } else { Err(n) }
    }

    /// Runs attempts, each of a duration in milliseconds and a success flag. Returns the result, and its time in
    /// milliseconds.
    fn run(attempts: &[(u64, bool)]) -> (Option<Result<u64, u64>>, u128) {
        run_with_places(attempts, 8)
    }

    /// The same, with this many places for attempts beside the first.
    fn run_with_places(attempts: &[(u64, bool)], places: usize) -> (Option<Result<u64, u64>>, u128) {
        let taken = Rc::new(());
        let place = || (Rc::strong_count(&taken) <= places).then(|| Rc::clone(&taken));
        let live = Rc::new(Cell::new(0));
        let attempts =
            (0..).zip(attempts).map(|(n, &(takes, good))| attempt(n, takes, good, Rc::clone(&live)));
        let (won, took) = EventLoop::run_fast(async |_| {
            let begun = now();
            let won = race(attempts, place, STAGGER).await;
            (won, now() - begun)
        })
        .unwrap();
        assert_eq!(live.get(), 0, "the others are gone");
        (won, took.as_millis())
    }

    #[test]
    fn first_success_wins_and_order_decides_start() {
        assert_eq!(run(&[(20, true), (5, true)]), (Some(Ok(0)), 20));
        assert_eq!(run(&[(9000, true), (20, true)]), (Some(Ok(1)), 270));
        assert_eq!(run(&[(300, true), (200, true)]), (Some(Ok(0)), 300));
        assert_eq!(run(&[]), (None, 0));
    }

    #[test]
    fn failure_starts_next_and_first_is_reported() {
        assert_eq!(run(&[(20, false), (20, true)]), (Some(Ok(1)), 40));
        assert_eq!(run(&[(9000, false), (10, false), (10, false)]), (Some(Err(0)), 9000));
        assert_eq!(run(&[(10, false), (10, false)]), (Some(Err(0)), 20));
    }

    #[test]
    fn attempts_without_place_wait_for_first() {
        assert_eq!(run_with_places(&[(900, true), (20, true)], 0), (Some(Ok(0)), 900));
        assert_eq!(run_with_places(&[(900, false), (20, true)], 0), (Some(Ok(1)), 920));
        assert_eq!(run_with_places(&[(20, false), (20, true)], 0), (Some(Ok(1)), 40));
        // One of the two that run has a place, whichever it is.
        assert_eq!(run_with_places(&[(300, false), (9000, false), (20, true)], 1), (Some(Ok(2)), 320));
        assert_eq!(run_with_places(&[(400, true), (9000, false), (20, true)], 1), (Some(Ok(0)), 400));
    }
}
