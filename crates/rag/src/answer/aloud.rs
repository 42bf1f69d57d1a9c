//! Claims of a text, held against the sources: while it is written and when it is done, each of them once.

use super::generated::{refuses, without_marks};
use super::holds::holds;
use super::{Claim, Hear};
use crate::citation::{Citation, Sources};
use crate::evidence::Evidence;
use crate::sentences::sentences;
use crate::{Embedder, RagError, TextRole};

/// A claim is supported by a statement that is at least so similar, and [`holds`] what the claim names.
const SUPPORT_SIMILARITY: f64 = 0.6;

/// The claims that were checked so far, and what they are held against.
pub(super) struct Claims<'c, 's> {
    embedder: &'c dyn Embedder,
    evidence: Vec<&'c Evidence>,
    sources: &'c mut Sources<'s>,
    checked: Vec<Claim>,
    /// Sentences of the text that were looked at while it was written.
    complete: usize,
    /// The claims that were told, in order.
    told: Vec<String>,
    /// Of these, how many the text holds so far: fewer than all where it was begun again.
    repeated: usize,
}

impl<'c, 's> Claims<'c, 's> {
    pub(super) fn new(
        embedder: &'c dyn Embedder,
        evidence: Vec<&'c Evidence>,
        sources: &'c mut Sources<'s>,
    ) -> Self {
        Self { embedder, evidence, sources, checked: Vec::new(), complete: 0, told: Vec::new(), repeated: 0 }
    }

    /// Checks the sentences of an unfinished text that nothing can change any more, and tells those that are
    /// supported. The last one may go on.
    pub(super) async fn tell_complete(&mut self, text: &str, hear: &mut Hear<'_>) -> Result<(), RagError> {
        let mut found = sentences(text, false);
        found.pop();
        if found.len() <= self.complete || refuses(text) {
            return Ok(());
        }
        for range in found.drain(self.complete..) {
            self.complete += 1;
            if let Some(claim) = self.claim(&text[range]).await?
                && claim.supported
            {
                self.tell(&claim, hear);
            }
        }
        Ok(())
    }

    /// What was told before the text was begun again is not told once more.
    fn tell(&mut self, claim: &Claim, hear: &mut Hear<'_>) {
        if self.told.get(self.repeated) == Some(&claim.text) {
            self.repeated += 1;
            return;
        }
        hear(claim);
        self.told.push(claim.text.clone());
        self.repeated = self.told.len();
    }

    /// The text is void: another one follows.
    pub(super) fn begin_again(&mut self) {
        self.complete = 0;
        self.repeated = 0;
    }

    /// All claims of a text, in order.
    pub(super) async fn of(mut self, text: &str) -> Result<Vec<Claim>, RagError> {
        let mut claims = Vec::new();
        for range in sentences(text, false) {
            claims.extend(self.claim(&text[range]).await?);
        }
        Ok(claims)
    }

    /// What a sentence says, and where that stands. `None` for one that says nothing.
    async fn claim(&mut self, sentence: &str) -> Result<Option<Claim>, RagError> {
        let text = without_marks(sentence);
        if text.is_empty() {
            return Ok(None);
        }
        if let Some(known) = self.checked.iter().find(|claim| claim.text == text) {
            return Ok(Some(known.clone()));
        }
        let citations = self.support(&text).await?;
        let claim = Claim { supported: !citations.is_empty(), text, citations };
        self.checked.push(claim.clone());
        Ok(Some(claim))
    }

    /// The statement a claim rests on: the most similar one that [`holds`] what it names.
    async fn support(&mut self, claim: &str) -> Result<Vec<Citation>, RagError> {
        let mut texts = vec![claim.to_owned()];
        texts.extend(self.evidence.iter().map(|evidence| evidence.citation.quote.clone()));
        let vectors = self.embedder.embed(&texts, TextRole::Passage).await?;
        let Some((of_claim, of_evidence)) = vectors.split_first() else { return Ok(Vec::new()) };
        let mut best: Option<(f64, &Evidence)> = None;
        for (evidence, vector) in self.evidence.iter().zip(of_evidence) {
            let similarity: f64 =
                of_claim.iter().zip(vector).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum();
            let nearer = similarity >= SUPPORT_SIMILARITY && best.is_none_or(|(best, _)| similarity > best);
            let Citation { quote, section, .. } = &evidence.citation;
            if nearer && holds(quote, section, claim) {
                best = Some((similarity, evidence));
            }
        }
        let Some((_, evidence)) = best else { return Ok(Vec::new()) };
        Ok(self.sources.verified(evidence.citation.clone())?.into_iter().collect())
    }
}
