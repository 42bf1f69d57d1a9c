use std::ops::ControlFlow;
use std::sync::Mutex;
use std::time::Duration;

use evalign_core::{FinishReason, GenerateParams, ModelIdentity, Output, Prompt, Response, Seconds};
use evalign_model::{Capabilities, TokenCount};
use tokio::sync::watch;
use tokio::time::timeout;

use super::*;

/// Keeps what it is asked until it is let, and notes who has gone.
struct Slow {
    asked: Mutex<usize>,
    gate: Arc<Semaphore>,
    gone: watch::Sender<usize>,
}

impl Model for Slow {
    fn identity(&self) -> &ModelIdentity {
        unreachable!("nobody asks")
    }

    fn context_length(&self) -> Option<usize> {
        None
    }

    fn capabilities(&self) -> Capabilities {
        unreachable!("nobody asks")
    }

    fn count_tokens(&self, _: &RequestKind) -> Option<TokenCount> {
        None
    }

    fn render(&self, _: &Prompt) -> Option<String> {
        None
    }

    fn submit(&self, requests: Vec<Request>) -> Replies {
        *self.asked.lock().unwrap() += requests.len();
        let (sender, replies) = Replies::channel();
        let (gate, gone) = (self.gate.clone(), self.gone.clone());
        tokio::spawn(async move {
            tokio::select! {
                permit = gate.acquire() => permit.unwrap().forget(),
                () = sender.cancelled() => return gone.send_modify(|gone| *gone += 1),
            }
            for index in 0..requests.len() {
                let output = Output::Text {
                    text: index.to_string(),
                    finish: FinishReason::Stop,
                    logprobs: None,
                    reasoning: None,
                };
                let response =
                    Response { output, usage: None, truncated_tokens: 0, cached: false, latency: None };
                if let ControlFlow::Continue(room) = sender.room().await {
                    room.send((index, Ok(response)));
                }
            }
        });
        replies
    }

    fn timing(&self) -> Seconds {
        Seconds::default()
    }
}

fn questions(count: usize) -> Vec<RequestKind> {
    let prompt = Prompt::Text("x".to_owned());
    vec![RequestKind::Generate { prompt, params: GenerateParams::default() }; count]
}

fn slow() -> (Arc<Slow>, Queue) {
    let gate = Arc::new(Semaphore::new(0));
    let model = Arc::new(Slow { asked: Mutex::default(), gate, gone: watch::Sender::new(0) });
    (model.clone(), Queue::new(model, 8))
}

/// More than any machine needs for what does come.
const PATIENCE: Duration = Duration::from_secs(60);

/// Waits until so many places are free.
async fn free(queue: &Queue, places: usize) {
    let places = u32::try_from(places).unwrap();
    let free = timeout(PATIENCE, queue.places.acquire_many(places)).await;
    drop(free.expect("the places stay taken").unwrap());
}

#[tokio::test]
async fn nobody_waits_for_others_and_a_full_queue_refuses() {
    let (model, queue) = slow();
    let mut first = queue.ask(questions(3)).unwrap();
    let mut second = queue.ask(questions(5)).unwrap();
    // Both are with the model, though nothing is answered.
    assert_eq!(*model.asked.lock().unwrap(), 8);
    assert_eq!(queue.ask(questions(1)).err().unwrap().code, Code::QueueFull);
    model.gate.add_permits(2);
    for (answers, count) in [(&mut first, 3), (&mut second, 5)] {
        let mut answered = 0;
        while let Some(Update::Answer((index, answer))) = answers.next().await {
            assert!(index < count && answer.is_ok());
            answered += 1;
        }
        assert_eq!(answered, count);
    }
    // Places are free again once whoever handed the answers on has ended.
    free(&queue, 8).await;
}

/// To try again would be in vain: nobody can make room for it.
#[tokio::test]
async fn more_than_all_places_are_refused_for_good() {
    let (model, queue) = slow();
    let refused = queue.ask(questions(9)).err().unwrap();
    assert_eq!((refused.code, refused.param.as_deref()), (Code::InvalidRequest, Some("n")));
    assert_eq!((*model.asked.lock().unwrap(), queue.places.available_permits()), (0, 8));
    assert!(queue.ask(questions(8)).is_ok());
}

#[tokio::test]
async fn whoever_goes_takes_their_request_along() {
    let (model, queue) = slow();
    let (stays, goes) = (queue.ask(questions(4)).unwrap(), queue.ask(questions(4)).unwrap());
    drop(goes);
    let mut gone = model.gone.subscribe();
    timeout(PATIENCE, gone.wait_for(|gone| *gone == 1)).await.expect("the model is not told").unwrap();
    free(&queue, 4).await;
    assert_eq!(queue.places.available_permits(), 4);
    drop(stays);
}
