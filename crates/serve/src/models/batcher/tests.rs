use std::sync::Mutex;

use evalign_core::{FinishReason, GenerateParams, ModelIdentity, Output, Prompt, Seconds};
use evalign_model::{Capabilities, Replies, TokenCount};

use super::*;

/// Notes the size of every submission and answers when it is let.
struct Slow {
    sizes: Mutex<Vec<usize>>,
    gate: Arc<tokio::sync::Semaphore>,
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
        self.sizes.lock().unwrap().push(requests.len());
        let (sender, replies) = Replies::channel();
        let gate = self.gate.clone();
        tokio::spawn(async move {
            gate.acquire().await.unwrap().forget();
            for index in 0..requests.len() {
                let output = Output::Text {
                    text: index.to_string(),
                    finish: FinishReason::Stop,
                    logprobs: None,
                    reasoning: None,
                };
                let response =
                    Response { output, usage: None, truncated_tokens: 0, cached: false, latency: None };
                if let std::ops::ControlFlow::Continue(room) = sender.room().await {
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

fn question() -> Vec<RequestKind> {
    vec![RequestKind::Generate { prompt: Prompt::Text("x".to_owned()), params: GenerateParams::default() }]
}

#[tokio::test]
async fn what_waits_is_submitted_together_and_a_full_queue_refuses() {
    let gate = Arc::new(tokio::sync::Semaphore::new(0));
    let model = Arc::new(Slow { sizes: Mutex::default(), gate: gate.clone() });
    let batcher = Batcher::start(model.clone(), 8);
    let mut asked = Vec::new();
    let ask = || {
        let batcher = batcher.clone();
        tokio::spawn(async move { batcher.ask(question()).await })
    };
    asked.push(ask());
    while model.sizes.lock().unwrap().is_empty() {
        tokio::task::yield_now().await;
    }
    for _ in 0..8 {
        asked.push(ask());
    }
    let refused = loop {
        if let Err(error) =
            tokio::time::timeout(std::time::Duration::from_millis(50), batcher.ask(question()))
                .await
                .unwrap_or_else(|_| Ok(Vec::new()))
        {
            break error;
        }
    };
    assert_eq!(refused.code, Code::QueueFull);
    gate.add_permits(100);
    for answer in asked {
        // A probe above may have taken a place: then one of these was refused in its stead.
        match answer.await.unwrap() {
            Ok(answers) => assert!(answers[0].is_ok()),
            Err(error) => assert_eq!(error.code, Code::QueueFull),
        }
    }
    let sizes = model.sizes.lock().unwrap().clone();
    assert_eq!(sizes[0], 1, "a lone request does not wait: {sizes:?}");
    assert!(sizes[1] > 1, "the others share a submission: {sizes:?}");
}
