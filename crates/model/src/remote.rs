//! A model behind calls that go one at a time: a server.

use std::collections::VecDeque;
use std::fmt;
use std::ops::ControlFlow;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};

use evalign_core::{ModelIdentity, Prompt, Request, RequestKind, Seconds};
use futures::StreamExt;
use futures::stream::FuturesUnordered;
use tokio::runtime::{Builder, Handle, Runtime};

use crate::call::Call;
use crate::error::ModelError;
use crate::fused::Fuse;
use crate::model::{Capabilities, Intake, Model, TokenCount};
use crate::replies::{Replies, Reply, ReplySender};
use crate::teller::Teller;

/// What is known of a model on a server before the first request.
#[derive(Clone, Debug)]
pub struct RemoteProfile {
    pub identity: ModelIdentity,
    pub context_length: Option<usize>,
    pub capabilities: Capabilities,
    /// What the user should know about how this server is asked.
    pub notes: Vec<String>,
    /// Calls that may be under way at once. More than any limit on concurrency inside `C`, so that the
    /// limit alone decides; small against the number of requests, because each holds a future.
    pub started: usize,
}

/// A [`Model`] of a [`Call`], with the fuse that the call has inside. A submission is a few tasks that start
/// calls in order and hand answers over as they come; dropping the [`Replies`] drops their calls at once.
pub struct Remote<C> {
    call: Arc<C>,
    profile: RemoteProfile,
    fuse: Arc<Fuse>,
}

impl<C> fmt::Debug for Remote<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Remote").field("profile", &self.profile).finish_non_exhaustive()
    }
}

impl<C: Call + 'static> Remote<C> {
    pub fn new(call: C, profile: RemoteProfile, fuse: Arc<Fuse>) -> Self {
        Self { call: Arc::new(call), profile, fuse }
    }
}

impl<C: Call + 'static> Model for Remote<C> {
    fn identity(&self) -> &ModelIdentity {
        &self.profile.identity
    }

    fn context_length(&self) -> Option<usize> {
        self.profile.context_length
    }

    fn capabilities(&self) -> Capabilities {
        self.profile.capabilities
    }

    /// Only the server has the tokeniser.
    fn count_tokens(&self, _kind: &RequestKind) -> Option<TokenCount> {
        None
    }

    /// The server renders conversations itself.
    fn render(&self, prompt: &Prompt) -> Option<String> {
        match prompt {
            Prompt::Text(text) => Some(text.clone()),
            Prompt::Chat(_) => None,
        }
    }

    fn submit(&self, requests: Vec<Request>) -> Replies {
        self.start(requests, false)
    }

    /// Servers are asked for their answers in pieces here, and nowhere else.
    fn submit_streamed(&self, requests: Vec<Request>) -> Replies {
        self.start(requests, true)
    }

    /// In small sets, so that few prompts are in memory, and always some ahead, so that the server never
    /// waits: nothing is gained from seeing requests together.
    fn intake(&self) -> Intake {
        Intake { together: 128, ahead: self.profile.started }
    }

    fn wind_down(&self) -> bool {
        self.fuse.blow(ModelError::Temporary("nothing more is asked of this model".to_owned()));
        true
    }

    fn timing(&self) -> Seconds {
        Seconds::default()
    }

    fn notes(&self) -> Vec<String> {
        self.profile.notes.clone()
    }
}

impl<C: Call + 'static> Remote<C> {
    fn start(&self, requests: Vec<Request>, is_streamed: bool) -> Replies {
        let (sender, replies) = Replies::channel();
        let requests = Arc::new(Waiting { next: AtomicUsize::new(0), requests });
        let lanes = LANES.min(self.profile.started).max(1);
        let runtime = Handle::try_current().or_else(|_| runtime().map(|runtime| runtime.handle().clone()));
        for number in 0..lanes {
            // Without threads the senders are dropped, and the replies end.
            let Ok(runtime) = &runtime else { break };
            let (requests, fuse, replies) = (requests.clone(), self.fuse.clone(), sender.clone());
            let lane = Lane { requests, fuse, replies, is_streamed };
            // Together no more than may be started, and at least one each.
            let started = (self.profile.started + number) / lanes;
            runtime.spawn(lane.answer(self.call.clone(), started.max(1)));
        }
        replies
    }
}

/// Tasks that a submission is answered by: answers that arrive together are read side by side.
const LANES: usize = 2;

/// Requests that are taken in order, by whoever is free.
struct Waiting {
    requests: Vec<Request>,
    next: AtomicUsize,
}

impl Waiting {
    fn take(&self) -> Option<(usize, &Request)> {
        let index = self.next.fetch_add(1, Ordering::Relaxed);
        self.requests.get(index).map(|request| (index, request))
    }
}

struct Lane {
    requests: Arc<Waiting>,
    fuse: Arc<Fuse>,
    replies: ReplySender,
    /// Texts are told while they come.
    is_streamed: bool,
}

impl Lane {
    /// Takes requests while there are any, with at most `started` calls under way. While the caller is busy,
    /// answers wait here and no further calls are started, but those under way go on: their deadlines are
    /// about the server, not about the caller. Once the fuse is blown it ends with the last answer under way:
    /// what waits for a slot or for its next attempt would only be told that nothing is asked any more.
    async fn answer<C: Call>(self, call: Arc<C>, started: usize) {
        let Self { requests, fuse, replies, is_streamed } = &self;
        let mut quiet = std::pin::pin!(fuse.quiet());
        let mut over = false;
        let mut under_way = FuturesUnordered::new();
        let mut answered: VecDeque<Reply> = VecDeque::new();
        loop {
            while !over
                && under_way.len() + answered.len() < started
                && let Some((index, request)) = requests.take()
            {
                let call = &call;
                let mut teller = is_streamed.then(|| Teller::new(index, replies.clone()));
                under_way.push(async move { (index, call.call_aloud(request, teller.as_mut()).await) });
            }
            if (over || under_way.is_empty()) && answered.is_empty() {
                return;
            }
            tokio::select! {
                biased;
                () = replies.cancelled() => return,
                room = replies.room(), if !answered.is_empty() => {
                    let (ControlFlow::Continue(room), Some(reply)) = (room, answered.pop_front()) else { return };
                    room.send(reply);
                }
                () = &mut quiet, if !over => over = true,
                Some(reply) = under_way.next(), if !over && !under_way.is_empty() => answered.push_back(reply),
            }
        }
    }
}

/// For callers that are not async: one runtime for all of them.
///
/// # Errors
/// The system refuses threads.
pub(crate) fn runtime() -> Result<&'static Runtime, ModelError> {
    static RUNTIME: OnceLock<Result<Runtime, String>> = OnceLock::new();
    let build = || {
        Builder::new_multi_thread().worker_threads(LANES).thread_name("evalign-calls").enable_all().build()
    };
    RUNTIME
        .get_or_init(|| build().map_err(|error| error.to_string()))
        .as_ref()
        .map_err(|error| ModelError::Temporary(format!("no thread for calls to servers: {error}")))
}
