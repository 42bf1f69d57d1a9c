use std::sync::Arc;

use evalign_core::{Digest, ModelIdentity};
use evalign_judge::{Constitution, Judge, JudgeError, JudgeOptions, Prompts, Rubric};
use evalign_model::Model;
use serde_json::json;

/// Who compares answers: a judge by one rubric, or the same model by a principle of a constitution drawn for every pair
/// (Bai et al. 2022, arXiv 2212.08073, section 4.1: the labels of reinforcement learning from AI feedback).
#[derive(Debug)]
pub struct Judges {
    first: Judge,
    /// The others; with `first`, one for each principle in its order.
    more: Vec<Judge>,
    constitution: Option<Constitution>,
}

impl Judges {
    /// # Errors
    /// A model that cannot judge.
    pub fn by_rubric(
        model: Arc<dyn Model>,
        rubric: Rubric,
        prompts: Arc<Prompts>,
        options: JudgeOptions,
    ) -> Result<Self, JudgeError> {
        let first = Judge::new(model, rubric, prompts, options)?;
        Ok(Self { first, more: Vec::new(), constitution: None })
    }

    /// # Errors
    /// A model that cannot judge, a constitution without principles.
    pub fn by_principles(
        model: &Arc<dyn Model>,
        constitution: Constitution,
        prompts: &Arc<Prompts>,
        options: &JudgeOptions,
    ) -> Result<Self, JudgeError> {
        let judge = |rubric| Judge::new(model.clone(), rubric, prompts.clone(), options.clone());
        let mut judges = constitution.principles.iter().map(|principle| judge(principle.rubric()));
        let first = judges.next().unwrap_or_else(|| {
            Err(JudgeError::Unknown { what: "principle", name: String::new(), known: Vec::new() })
        })?;
        let more = judges.collect::<Result<_, _>>()?;
        Ok(Self { first, more, constitution: Some(constitution) })
    }

    /// Reads every verdict: their form is the same, whatever it is judged by.
    pub(super) fn any(&self) -> &Judge {
        &self.first
    }

    /// The judge of a pair of answers, and the principle it goes by where one is drawn.
    pub(super) fn of(&self, seed: u64, prompt: u64, number: u32) -> (&Judge, Option<&str>) {
        let drawn = self.constitution.as_ref().and_then(|constitution| {
            let principle = constitution.drawn(seed, prompt, number)?;
            let place = constitution.principles.iter().position(|known| known.id == principle.id)?;
            Some((place, principle.id.as_str()))
        });
        match drawn {
            Some((0, id)) => (&self.first, Some(id)),
            Some((place, id)) => (self.more.get(place - 1).unwrap_or(&self.first), Some(id)),
            None => (&self.first, None),
        }
    }

    pub(super) fn identity(&self) -> &ModelIdentity {
        self.first.model().identity()
    }

    /// SHA-256 of everything but the model that verdicts depend on.
    pub(super) fn digest(&self) -> Digest {
        match &self.constitution {
            None => self.first.digest(),
            Some(_) => {
                let all: Vec<Digest> =
                    std::iter::once(&self.first).chain(&self.more).map(Judge::digest).collect();
                Digest::of_json(&json!(all))
            }
        }
    }

    pub(super) fn rubric_digest(&self) -> Digest {
        match &self.constitution {
            None => self.first.rubric().digest(),
            Some(constitution) => constitution.digest(),
        }
    }

    pub(super) fn constitution_digest(&self) -> Option<Digest> {
        self.constitution.as_ref().map(Constitution::digest)
    }
}
