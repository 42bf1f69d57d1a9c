use std::sync::atomic::{AtomicU64, Ordering};

use super::*;
use crate::error::ApiError;

#[derive(Default)]
struct Source {
    state: AtomicU64,
    computed: AtomicU64,
}

impl Source {
    async fn ask(&self, remembered: &Remembered<u64, u64>, question: &str) -> u64 {
        let compute = async {
            tokio::task::yield_now().await;
            Ok(self.computed.fetch_add(1, Ordering::SeqCst))
        };
        let state = || Some(self.state.load(Ordering::SeqCst));
        *remembered.get((Tenant::default(), question.to_owned()), state, compute).await.unwrap()
    }
}

#[tokio::test]
async fn an_answer_is_computed_once_for_a_state_however_many_ask() {
    let (source, remembered) = (Source::default(), Remembered::holding(8));
    let all = futures::future::join_all((0..50).map(|_| source.ask(&remembered, "a"))).await;
    assert_eq!(all, [0; 50]);
    assert_eq!(source.ask(&remembered, "b").await, 1, "another question has another answer");
    source.state.store(1, Ordering::SeqCst);
    assert_eq!(source.ask(&remembered, "a").await, 2, "what it was computed from has changed");
    assert_eq!(source.ask(&remembered, "a").await, 2);
}

#[tokio::test]
async fn a_failure_and_what_nobody_can_date_are_not_kept() {
    let remembered = Remembered::<u64, u64>::holding(8);
    let question = || (Tenant::default(), String::new());
    let fails = async { Err(ApiError::not_found("run", "x")) };
    assert!(remembered.get(question(), || Some(1), fails).await.is_err());
    assert_eq!(*remembered.get(question(), || None, async { Ok(7) }).await.unwrap(), 7);
    assert_eq!(*remembered.get(question(), || None, async { Ok(8) }).await.unwrap(), 8);
    assert_eq!(*remembered.get(question(), || Some(1), async { Ok(9) }).await.unwrap(), 9);
}

#[tokio::test]
async fn memory_does_not_grow_with_the_number_of_questions() {
    let (source, remembered) = (Source::default(), Remembered::holding(8));
    for question in 0..30 {
        source.ask(&remembered, &question.to_string()).await;
    }
    assert!(remembered.slots.lock().unwrap().len() <= 8);
}
