//! Answers that come in pieces.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use evalign_core::GenerateParams;
use futures::StreamExt;
use futures::stream::BoxStream;

use super::{Written, first_stop, withheld};
use crate::call::Listener;
use crate::error::{ModelError, TransportFailure};
use crate::openai::OpenAi;
use crate::openai::client::Document;
use crate::openai::endpoint::Shape;
use crate::openai::reasoning::begun;
use crate::openai::refusal::names_field;
use crate::openai::settings::Parameter;
use crate::openai::wire::{Ask, Fields, StreamOptions};

/// What the server was found not to take where somebody listens. Nobody asks it beforehand: most answers are listened to
/// by nobody, and come whole.
#[derive(Debug, Default)]
pub(in crate::openai) struct Refusals {
    stream: AtomicBool,
    options: AtomicBool,
}

impl Refusals {
    /// Asks for pieces, and for the count of their tokens.
    pub(super) fn ask_for_pieces(&self, fields: &mut Fields<'_>, shape: &Shape) {
        let counted =
            !shape.omit.contains(&Parameter::StreamOptions) && !self.options.load(Ordering::Relaxed);
        fields.stream = Some(true);
        fields.stream_options = counted.then_some(StreamOptions { include_usage: true });
    }

    /// What a refusal of such a request means. Where it is about the stream, what was refused is left out, from now on where
    /// the refusal names it, and true is returned: the request is as it would have been without a listener.
    fn learn(&self, fields: &mut Fields<'_>, error: &ModelError) -> bool {
        let ModelError::Server(server) = error else { return false };
        if fields.stream.is_none() || !matches!(server.status, 400 | 422 | 501) {
            return false;
        }
        if fields.stream_options.is_some() && names_field(error, "stream_options") {
            self.options.store(true, Ordering::Relaxed);
            fields.stream_options = None;
            return true;
        }
        let is_named = names_field(error, "stream");
        // What only sounds so may be the echo of a prompt: it says nothing of the next request.
        let is_about_streams = is_named || server.message.to_lowercase().contains("stream");
        if is_about_streams {
            self.stream.fetch_or(is_named, Ordering::Relaxed);
            (fields.stream, fields.stream_options) = (None, None);
        }
        is_about_streams
    }
}

/// A text as it comes, the time to its first token, and who hears it.
pub(super) struct Hearing<'a> {
    pub(super) chat: bool,
    pub(super) params: &'a GenerateParams,
    pub(super) started: Instant,
    pub(super) listener: Listener<'a>,
}

impl OpenAi {
    /// Where the user has not settled for one or the other, and the server has not refused.
    pub(super) fn may_be_asked_for_pieces(&self) -> bool {
        self.client.endpoint().settings.stream.is_none() && !self.refusals.stream.load(Ordering::Relaxed)
    }

    /// The answer, and milliseconds to its first token where it came in pieces. A server that refuses pieces is asked
    /// again at once: finding out what it can do costs no attempt.
    pub(super) async fn written(
        &self,
        ask: &mut Ask<'_>,
        mut hearing: Hearing<'_>,
    ) -> Result<(Written, Option<f64>), ModelError> {
        loop {
            let refusal = if ask.fields.stream.is_some() {
                let opened = match hearing.chat {
                    true => self.client.chat_stream(ask).await,
                    false => self.client.completion_stream(ask).await,
                };
                match opened {
                    Ok(stream) => {
                        let read = self.read_pieces(stream, &mut hearing).await;
                        if let (Err(_), Some(teller)) = (&read, hearing.listener) {
                            teller.ask_for_the_whole();
                        }
                        return read;
                    }
                    Err(error) => error,
                }
            } else {
                let document = match hearing.chat {
                    true => self.client.chat(ask).await,
                    false => self.client.completion(ask).await,
                };
                match document {
                    Ok(document) => return Ok((self.whole(&document)?, None)),
                    Err(error) => error,
                }
            };
            if self.shape.stream || !self.refusals.learn(&mut ask.fields, &refusal) {
                return Ok((withheld(refusal)?, None));
            }
            tracing::debug!(%refusal, "asked again without");
        }
    }

    async fn read_pieces(
        &self,
        mut stream: BoxStream<'_, Result<Document, ModelError>>,
        hearing: &mut Hearing<'_>,
    ) -> Result<(Written, Option<f64>), ModelError> {
        let mut written = Written::default();
        let mut first_token = None;
        while let Some(document) = stream.next().await {
            self.add(&document?, &mut written)?;
            if first_token.is_none() && !(written.text.is_empty() && written.reasoning.is_empty()) {
                first_token = Some(hearing.started.elapsed().as_secs_f64() * 1000.0);
            }
            if let Some(teller) = &mut hearing.listener {
                teller.tell_beginning(self.settled(&written, hearing.chat, hearing.params));
            }
        }
        if written.finish.is_none() {
            return Err(self.transport(
                TransportFailure::Truncated,
                "the stream ended without saying why the answer ends",
            ));
        }
        Ok((written, first_token))
    }

    /// What is settled of the answer's text while it is written: nothing that may become part of a stop string or of a
    /// thought's tag. (A template that opens the thoughts itself shows by their end that they were some; what was told
    /// of them is withdrawn then.)
    fn settled<'w>(&self, written: &'w Written, chat: bool, params: &GenerateParams) -> &'w str {
        if written.refused {
            return "";
        }
        let tags = &self.shape.think_tags;
        let text = match chat && written.reasoning.is_empty() {
            true => begun(&written.text, tags),
            false => &written.text,
        };
        match first_stop(text, params) {
            Some(end) => &text[..end],
            None => without_begun(text, &params.stop),
        }
    }
}

/// A text without an end that may become one of these marks.
pub(in crate::openai) fn without_begun<'t>(text: &'t str, marks: &[String]) -> &'t str {
    let is_begun = |end: &str| marks.iter().any(|mark| mark.starts_with(end));
    let longest = marks.iter().map(String::len).max().unwrap_or(0);
    let from = text.len().saturating_sub(longest);
    let mut starts = (from..text.len()).filter(|at| text.is_char_boundary(*at));
    let held = starts.find(|at| is_begun(&text[*at..]));
    &text[..held.unwrap_or(text.len())]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::{ErrorKind, ServerError};

    fn refused(status: u16, message: &str) -> ModelError {
        ModelError::from(ServerError {
            server: "test".to_owned(),
            status,
            code: None,
            message: message.to_owned(),
            retry_after: None,
            kind: ErrorKind::Permanent,
            unknown_model: false,
            hint: None,
        })
    }

    #[test]
    fn only_a_refusal_that_names_the_stream_is_remembered() {
        for (status, message, is_asked_again, [stream, options]) in [
            (400, "Unsupported parameter: 'stream'", true, [true, false]),
            (422, "[{\"loc\": [\"body\", \"stream_options\"]}]", true, [false, true]),
            (501, "Streaming is not implemented", true, [false, false]),
            (400, "I cannot read `A poem about a stream`", true, [false, false]),
            (400, "the prompt is too long", false, [false, false]),
            (500, "'stream' broke", false, [false, false]),
        ] {
            let refusals = Refusals::default();
            let options_sent = Some(StreamOptions { include_usage: true });
            let mut fields = Fields { stream: Some(true), stream_options: options_sent, ..Fields::default() };
            assert_eq!(refusals.learn(&mut fields, &refused(status, message)), is_asked_again, "{message}");
            let known = [&refusals.stream, &refusals.options].map(|known| known.load(Ordering::Relaxed));
            assert_eq!(known, [stream, options], "{message}");
            assert_eq!(fields.stream.is_none(), is_asked_again && !options, "{message}");
            // Without a stream there is nothing to be refused of it.
            let mut whole = Fields::default();
            assert!(!refusals.learn(&mut whole, &refused(status, message)));
        }
    }
}
