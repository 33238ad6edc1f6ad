use super::*;
use std::cell::Cell;
use std::future::{pending, poll_fn};
use std::sync::mpsc;
use std::thread;

/// Milliseconds that a future took in simulated time.
fn fast(test: impl AsyncFnOnce()) -> u128 {
    EventLoop::run_fast(async |_| {
        let begun = now();
        test().await;
        (now() - begun).as_millis()
    })
    .unwrap()
}

fn ms(n: u64) -> Duration {
    Duration::from_millis(n)
}

#[test]
fn timers_fire_in_due_order() {
    let order = Rc::new(RefCell::new(Vec::new()));
    let took = fast(async || {
        for time in [300, 100, 200, 100] {
            let order = Rc::clone(&order);
            spawn(async move {
                sleep(ms(time)).await;
                order.borrow_mut().push(time);
            });
        }
        sleep(ms(250)).await;
    });
    assert_eq!((&order.borrow()[..], took), (&[100, 100, 200][..], 250));
}

#[test]
fn timer_that_is_dropped_is_forgotten() {
    let took = fast(async || {
        for _ in 0..3 {
            assert_eq!(timeout(ms(5), pending::<()>()).await, Err(Elapsed));
            assert_eq!(timeout(ms(1000), sleep(ms(5))).await, Ok(()));
        }
        EventLoop::with(|event_loop| assert!(event_loop.timers.borrow().next().is_none()));
    });
    assert_eq!(took, 30);
}

#[test]
fn very_long_timers_are_supported() {
    let took = fast(async || {
        assert_eq!(timeout(ms(1), sleep(Duration::MAX)).await, Err(Elapsed));
        let most = Duration::from_millis(u64::from(u32::MAX));
        sleep(most).await;
    });
    assert_eq!(took, 1 + u128::from(u32::MAX));
    EventLoop::run(async |event_loop| {
        let mut long = pin!(sleep(Duration::from_secs(100 * 24 * 3600)));
        assert!(long.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
        assert_eq!(event_loop.patience(), EpollTimeout::MAX);
    })
    .unwrap();
}

#[test]
fn real_timer_never_ends_early() {
    EventLoop::run(async |_| {
        for micros in [1, 999, 1001, 2500] {
            let begun = now();
            sleep(Duration::from_micros(micros)).await;
            assert!(now() - begun >= Duration::from_micros(micros));
        }
    })
    .unwrap();
}

#[test]
fn another_thread_wakes_waiting_task() {
    let (tell, readiness) = mpsc::channel::<Waker>();
    let (flag, seen) = (Arc::new(std::sync::atomic::AtomicU32::new(0)), std::sync::atomic::Ordering::SeqCst);
    let theirs = Arc::clone(&flag);
    let other = thread::spawn(move || {
        for waker in readiness {
            theirs.fetch_add(1, seen);
            // twice, and by value
            waker.wake_by_ref();
            waker.wake();
        }
    });
    EventLoop::run(async |_| {
        let wait_for = async |count| {
            poll_fn(|cx| {
                if flag.load(seen) >= count {
                    return Poll::Ready(());
                }
                tell.send(cx.waker().clone()).unwrap();
                Poll::Pending
            })
            .await;
        };
        for count in [1, 100, 1000] {
            wait_for(count).await;
        }
    })
    .unwrap();
    drop(tell);
    other.join().unwrap();
}

#[test]
fn late_wake_does_nothing() {
    let kept = Rc::new(Cell::new(None::<Waker>));
    let inner = Rc::clone(&kept);
    EventLoop::run(async move |_| {
        spawn(async move {
            inner.set(Some(poll_fn(|cx| Poll::Ready(cx.waker().clone())).await));
        });
        yield_now().await;
        kept.take().unwrap().wake();
        let polls = Rc::new(Cell::new(0));
        let counted = Rc::clone(&polls);
        spawn(async move {
            poll_fn(|_| {
                counted.set(counted.get() + 1);
                Poll::<()>::Pending
            })
            .await;
        });
        yield_now().await;
        yield_now().await;
        assert_eq!(polls.get(), 1);
    })
    .unwrap();
}

/// DropCounter its drops.
struct DropCounter(Rc<Cell<u32>>);
impl Drop for DropCounter {
    fn drop(&mut self) {
        self.0.set(self.0.get() + 1);
        assert!(self.0.get() != 2, "and another while it is dropped");
    }
}

#[test]
fn panic_ends_its_task_alone() {
    let dropped = Rc::new(Cell::new(0));
    let counts = || DropCounter(Rc::clone(&dropped));
    let lived = EventLoop::run(async |_| {
        let (first, second, third) = (counts(), counts(), counts());
        spawn(async move {
            let _first = first;
            panic!("as told");
        });
        spawn(async move {
            let _second = second;
        });
        spawn(async move {
            let _third = third;
            pending::<()>().await;
        });
        yield_now().await;
        yield_now().await;
        assert_eq!(dropped.get(), 2);
        true
    });
    assert!(lived.unwrap());
    assert_eq!(dropped.get(), 3, "what still lives is dropped with the loop");
}

#[test]
fn busy_tasks_do_not_starve_loop() {
    EventLoop::run(async |_| {
        for _ in 0..3 {
            spawn(async {
                loop {
                    yield_now().await;
                }
            });
            // not even a task that wakes itself forever
            spawn(poll_fn(|cx| {
                cx.waker().wake_by_ref();
                Poll::Pending
            }));
        }
        sleep(ms(3)).await;
    })
    .unwrap();
}

/// Continues in a turn of its own.
async fn turn(polls: &Cell<u32>) {
    poll_fn(|_| {
        polls.set(polls.get() + 1);
        if is_bulk_turn() {
            return Poll::Ready(());
        }
        defer_bulk();
        Poll::Pending
    })
    .await;
}

#[test]
fn yielding_tasks_run_after_ready_ones() {
    let order = Rc::new(RefCell::new(Vec::new()));
    EventLoop::run(async |_| {
        for who in ["first turn", "second turn"] {
            let order = Rc::clone(&order);
            spawn(async move {
                turn(&Cell::default()).await;
                order.borrow_mut().push(who);
            });
        }
        for _ in 0..2 {
            let order = Rc::clone(&order);
            spawn(async move {
                order.borrow_mut().push("ready");
                // tasks that become ready meanwhile run, too, before the second
                yield_now().await;
                yield_now().await;
                order.borrow_mut().push("again");
            });
        }
        yield_now().await;
        turn(&Cell::default()).await;
    })
    .unwrap();
    assert_eq!(*order.borrow(), ["ready", "ready", "again", "again", "first turn", "second turn"]);
}

#[test]
fn wakes_neither_hasten_nor_double_turns() {
    let polls = Rc::new(Cell::new(0));
    EventLoop::run(async |_| {
        let (inner, kept) = (Rc::clone(&polls), Rc::new(Cell::new(None::<Waker>)));
        let waker = Rc::clone(&kept);
        spawn(async move {
            waker.set(Some(poll_fn(|cx| Poll::Ready(cx.waker().clone())).await));
            turn(&inner).await;
            pending::<()>().await;
        });
        yield_now().await;
        let waker = kept.take().unwrap();
        for _ in 0..ROUND {
            waker.wake_by_ref();
        }
        assert_eq!(polls.get(), 1);
        turn(&Cell::default()).await;
        assert_eq!(polls.get(), 2);
        yield_now().await;
        turn(&Cell::default()).await;
        assert_eq!(polls.get(), 2);
        EventLoop::with(|event_loop| assert!(!event_loop.tasks.are_ready()));
    })
    .unwrap();
}

#[test]
fn yielding_and_busy_tasks_share_processor() {
    EventLoop::run(async |_| {
        let (short, long) = (Rc::new(Cell::new(0)), Rc::new(Cell::new(0)));
        for _ in 0..2 {
            let (short, long) = (Rc::clone(&short), Rc::clone(&long));
            spawn(async move {
                loop {
                    short.set(short.get() + 1);
                    yield_now().await;
                }
            });
            spawn(poll_fn(move |_| {
                long.set(long.get() + u32::from(is_bulk_turn()));
                defer_bulk();
                Poll::Pending
            }));
        }
        while long.get() < 1000 {
            yield_now().await;
        }
        let most = u32::try_from(POLLS_FOR_A_TURN).unwrap() * long.get();
        assert!(short.get() > 1000 && short.get() < most, "{} {}", short.get(), long.get());
    })
    .unwrap();
}

#[test]
fn spawning_outside_the_loop_panics() {
    let panicked = std::panic::catch_unwind(|| spawn(async {}));
    assert!(panicked.is_err());
    EventLoop::run(async |_| {
        let second = std::panic::catch_unwind(|| EventLoop::run(async |_| ()));
        assert!(second.is_err(), "one loop for each thread");
        yield_now().await;
    })
    .unwrap();
}
